package testenv

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// Moment is one at which somebody may die: a request is about to reach a server, or the server has answered and the
// answer is not passed on yet.
type Moment struct {
	Request  string
	Answered bool
}

// A tap is a wire that understands what it carries. It calls see at each moment, and holds what it carries meanwhile; when
// see says no, the connection ends there. The name function gives a request the name that see hears; one without a name is
// carried and not seen. Requests may be pipelined.

// NewRedisTap lays a tap to a Redis; a command is named by its arguments.
func NewRedisTap(t testing.TB, far string, name func(command []string) string, see func(Moment) bool) *Wire {
	t.Helper()
	return newWire(t, far, func(near, far net.Conn) {
		var waiting queue
		bothWays(near, far, func() {
			for r := bufio.NewReaderSize(near, 1<<16); ; {
				raw, command, err := readCommand(r)
				if err != nil {
					return
				}
				request := name(command)
				if request != "" && !see(Moment{Request: request}) {
					return
				}
				waiting.push(request)
				if _, err := far.Write(raw); err != nil {
					return
				}
			}
		}, func() {
			for r := bufio.NewReaderSize(far, 1<<16); ; {
				raw, err := readReply(r, nil)
				if err != nil {
					return
				}
				if raw[0] != '>' { // which nobody asked for
					if request := waiting.pop(); request != "" && !see(Moment{Request: request, Answered: true}) {
						return
					}
				}
				if _, err := near.Write(raw); err != nil {
					return
				}
			}
		})
	})
}

// NewHTTPTap lays a tap to an HTTP server. Only answers are seen, under one name.
func NewHTTPTap(t testing.TB, name string, see func(Moment) bool) *Wire {
	t.Helper()
	return newWire(t, "", func(near, far net.Conn) {
		bothWays(near, far, func() { _, _ = io.Copy(far, near) }, func() {
			for buffer := make([]byte, 1<<15); ; {
				n, err := far.Read(buffer)
				if n > 0 {
					if !see(Moment{Request: name, Answered: true}) {
						return
					}
					if _, err := near.Write(buffer[:n]); err != nil {
						return
					}
				}
				if err != nil {
					return
				}
			}
		})
	})
}

// queue holds the names of requests whose answers are due.
type queue struct {
	mu    sync.Mutex
	names []string
}

func (q *queue) push(name string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.names = append(q.names, name)
}

func (q *queue) pop() string {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.names) == 0 {
		return ""
	}
	name := q.names[0]
	q.names = q.names[1:]
	return name
}

// readCommand reads a command as clients send it, an array of strings.
func readCommand(r *bufio.Reader) (raw []byte, command []string, err error) {
	raw, n, err := readHead(r, nil)
	if err != nil {
		return nil, nil, err
	}
	if raw[0] != '*' {
		return nil, nil, fmt.Errorf("no command begins with %q", raw[0])
	}
	for range n {
		var size int
		if raw, size, err = readHead(r, raw); err != nil {
			return nil, nil, err
		}
		if raw, err = readBytes(r, raw, size+2); err != nil {
			return nil, nil, err
		}
		command = append(command, string(raw[len(raw)-size-2:len(raw)-2]))
	}
	return raw, command, nil
}

// readReply reads a whole reply, in RESP 2 or 3, and adds it to raw.
func readReply(r *bufio.Reader, raw []byte) ([]byte, error) {
	at := len(raw)
	raw, n, err := readHead(r, raw)
	if err != nil {
		return nil, err
	}
	switch raw[at] {
	case '$', '=', '!':
		if n < 0 {
			return raw, nil
		}
		return readBytes(r, raw, n+2)
	case '|': // belongs to the reply that follows
		n = 2*n + 1
	case '%':
		n *= 2
	case '*', '~', '>':
	default:
		return raw, nil
	}
	for range n {
		if raw, err = readReply(r, raw); err != nil {
			return nil, err
		}
	}
	return raw, nil
}

// readHead reads a line such as "*3", and the number in it where it has one.
func readHead(r *bufio.Reader, raw []byte) ([]byte, int, error) {
	line, err := r.ReadBytes('\n')
	if err != nil {
		return nil, 0, err
	}
	if len(line) < 3 {
		return nil, 0, errors.New("a line of RESP is too short")
	}
	n, _ := strconv.Atoi(string(line[1 : len(line)-2])) // other lines have no use for it
	return append(raw, line...), n, nil
}

func readBytes(r *bufio.Reader, raw []byte, n int) ([]byte, error) {
	at := len(raw)
	raw = append(raw, make([]byte, n)...)
	_, err := io.ReadFull(r, raw[at:])
	return raw, err
}

// NewPostgresTap lays a tap to a PostgreSQL. What is sent in one go, up to a Sync, is one request, which is named by the
// first of its statements that has a name.
func NewPostgresTap(t testing.TB, far string, name func(sql string) string, see func(Moment) bool) *Wire {
	t.Helper()
	return newWire(t, far, func(near, far net.Conn) {
		var waiting queue
		var flushed atomic.Bool // the client waits for answers before its Sync
		bothWays(near, far, func() {
			r := bufio.NewReaderSize(near, 1<<16)
			raw, err := readStartup(r)
			if err != nil {
				return
			}
			statements := map[string]string{} // names by the prepared statement's
			request := ""
			for {
				if _, err := far.Write(raw); err != nil {
					return
				}
				raw = nil
				for sent := false; !sent; {
					at := len(raw)
					if raw, err = readMessage(r, raw); err != nil {
						return
					}
					body := raw[at+5:]
					found := ""
					switch raw[at] {
					case 'P':
						statement, sql := cString(body)
						text, _ := cString(sql)
						found = name(text)
						statements[statement] = found
						if statement != "" {
							found = "" // it is only prepared
						}
					case 'B':
						_, after := cString(body)
						statement, _ := cString(after)
						found = statements[statement]
					case 'Q':
						text, _ := cString(body)
						found = name(text)
					}
					if request == "" {
						request = found
					}
					switch raw[at] {
					case 'S', 'Q':
						sent = true
						if request != "" && !see(Moment{Request: request}) {
							return
						}
						flushed.Store(false)
						waiting.push(request)
						request = ""
					case 'H':
						sent = true
						flushed.Store(true)
					case 'X', 'p', 'c', 'd', 'f':
						sent = true
					}
				}
			}
		}, func() {
			r := bufio.NewReaderSize(far, 1<<16)
			started := false
			for {
				var raw []byte
				for held := true; held; {
					at := len(raw)
					var err error
					if raw, err = readMessage(r, raw); err != nil {
						_, _ = near.Write(raw[:at]) // a last word, such as that the server ends
						return
					}
					switch {
					case raw[at] == 'Z' && started:
						if request := waiting.pop(); request != "" && !see(Moment{Request: request, Answered: true}) {
							return
						}
						held = false
					case raw[at] == 'Z':
						started = true
						held = false
					case !started, flushed.Load():
						held = false
					}
				}
				if _, err := near.Write(raw); err != nil {
					return
				}
			}
		})
	})
}

// readStartup reads the first message of a connection, which has no type.
func readStartup(r *bufio.Reader) ([]byte, error) {
	head, err := r.Peek(4)
	if err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(head)
	if size < 8 || size > 1<<16 {
		return nil, errors.New("no startup message of PostgreSQL")
	}
	return readBytes(r, nil, int(size))
}

// readMessage adds a message to raw. An error leaves the whole messages before it.
func readMessage(r *bufio.Reader, raw []byte) ([]byte, error) {
	head, err := r.Peek(5)
	if err != nil {
		return raw, err
	}
	size := binary.BigEndian.Uint32(head[1:])
	if size < 4 || size > 1<<30 {
		return raw, errors.New("no message of PostgreSQL")
	}
	longer, err := readBytes(r, raw, int(size)+1)
	if err != nil {
		return raw, err
	}
	return longer, nil
}

func cString(b []byte) (text string, rest []byte) {
	before, after, _ := strings.Cut(string(b), "\x00")
	return before, []byte(after)
}
