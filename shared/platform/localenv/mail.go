package localenv

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/emersion/go-smtp"
)

// MailServer takes mails by SMTP and keeps them as files: it stands in for a mail server where there is none.
type MailServer struct {
	server *smtp.Server
	port   int
}

// StartMailServer starts a mail server on a loopback port, which keeps what it takes in dir, a file a mail that any mail program
// opens. Took is told of each; it may be nil.
func StartMailServer(dir string, took func(path string)) (*MailServer, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder for mails: %w", err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("start the mail server: %w", err)
	}
	m := &MailServer{port: listener.Addr().(*net.TCPAddr).Port} //nolint:forcetypeassert // it listens on TCP
	m.server = smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return &mailbox{dir: dir, took: took}, nil }))
	m.server.Domain = "localhost"
	m.server.ReadTimeout, m.server.WriteTimeout, m.server.MaxMessageBytes = time.Minute, time.Minute, 1<<20
	go func() { _ = m.server.Serve(listener) }() // ends with Close
	return m, nil
}

// Port is where it listens, on 127.0.0.1.
func (m *MailServer) Port() string { return strconv.Itoa(m.port) }

// Close stops it. The mails stay.
func (m *MailServer) Close() error {
	if err := m.server.Close(); err != nil && !errors.Is(err, smtp.ErrServerClosed) {
		return fmt.Errorf("stop the mail server: %w", err)
	}
	return nil
}

// mailbox is one connection's.
type mailbox struct {
	dir  string
	took func(path string)
}

func (*mailbox) Reset()                               {}
func (*mailbox) Logout() error                        { return nil }
func (*mailbox) Mail(string, *smtp.MailOptions) error { return nil }
func (*mailbox) Rcpt(string, *smtp.RcptOptions) error { return nil }

// Data keeps a mail before it says that it has it.
func (b *mailbox) Data(r io.Reader) error {
	text, err := io.ReadAll(r)
	if err != nil {
		return fmt.Errorf("read a mail: %w", err)
	}
	file, err := os.CreateTemp(b.dir, time.Now().UTC().Format("20060102T150405.000")+"-*.eml")
	if err != nil {
		return fmt.Errorf("keep a mail: %w", err)
	}
	_, err = file.Write(text)
	if err := errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("keep a mail: %w", err)
	}
	if b.took != nil {
		b.took(filepath.Clean(file.Name()))
	}
	return nil
}
