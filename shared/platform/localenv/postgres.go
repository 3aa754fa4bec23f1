package localenv

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// Superuser is the owner of a private PostgreSQL: it may do everything and is for setting up and looking, never for
// what is under test.
const Superuser = "postgres"

// PostgresOptions say what kind of PostgreSQL to start. The zero value is a throw-away one for tests.
type PostgresOptions struct {
	Dir   string    // where the data is kept between runs; empty = a temporary directory, deleted at the end
	Port  int       // loopback TCP port besides the unix socket; 0 = socket only
	Seed  string    // the data directory of a stopped cluster, as Keep leaves one, to begin with a copy of; empty = a fresh one
	Guard bool      // whether it also listens as Cloud SQL does, on a free loopback port: with TLS, and a password in clear within
	Fsync bool      // whether a commit survives a power cut: for benchmarks and for data that is kept
	Log   io.Writer // where the server's log goes; nil = nowhere, though an error tells its last lines
}

// Postgres is a private PostgreSQL server. Every role logs in without a password over the unix socket; nobody outside the
// machine can.
type Postgres struct {
	account account
	options PostgresOptions
	data    string // the data directory
	run     string // the directory of the socket, temporary
	server  *process
}

// StartPostgres makes a database cluster where there is none yet, starts a server on it and waits until it answers.
// As root the server runs as user postgres; when that user cannot reach Dir, the data is kept in /var/tmp and Dir
// becomes a link to it. The caller stops it with Stop; it ends with this process at the latest.
func StartPostgres(ctx context.Context, o PostgresOptions) (*Postgres, error) {
	a, err := serviceAccount()
	if err != nil {
		return nil, err
	}
	run, err := a.temporary("pg")
	if err != nil {
		return nil, err
	}
	p := &Postgres{account: a, options: o, run: run, data: filepath.Join(run, "data")}
	if o.Dir != "" {
		if p.data, err = a.keep(o.Dir); err != nil {
			return nil, errors.Join(err, os.RemoveAll(run))
		}
	}
	err = p.initialise(ctx)
	if err == nil && o.Guard {
		err = p.guard()
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(run))
	}
	if err := p.Start(ctx); err != nil {
		return nil, errors.Join(err, os.RemoveAll(run))
	}
	return p, nil
}

// keep answers a directory for lasting data that the account owns: dir, or what dir links to.
func (a account) keep(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("find %s: %w", dir, err)
	}
	if target, err := os.Readlink(dir); err == nil {
		dir = target // as an earlier start left it
	}
	if !a.reaches(dir) {
		sum := sha256.Sum256([]byte(dir))
		target := fmt.Sprintf("/var/tmp/usher-%s-%x", filepath.Base(dir), sum[:8])
		if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
			return "", fmt.Errorf("make the directory above %s: %w", dir, err)
		}
		if err := os.Symlink(target, dir); err != nil {
			return "", fmt.Errorf("keep the data of %s where user %s reaches it: %w", dir, a.name, err)
		}
		dir = target
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make the data directory: %w", err)
	}
	if info, err := os.Lstat(dir); err != nil || !info.IsDir() {
		return "", fmt.Errorf("the data directory %s is no directory of ours: %w", dir, errors.Join(err, fs.ErrExist))
	}
	if err := a.own(dir); err != nil {
		return "", fmt.Errorf("give %s to user %s: %w", dir, a.name, err)
	}
	return dir, nil
}

// initialise makes the database cluster, unless the data directory holds one.
func (p *Postgres) initialise(ctx context.Context) error {
	if _, err := os.Stat(filepath.Join(p.data, "PG_VERSION")); err == nil {
		return nil
	}
	if p.options.Seed != "" {
		return p.copySeed()
	}
	initdb, err := Find("initdb")
	if err != nil {
		return err
	}
	locale := "C.UTF-8"
	if strings.Contains(initdb, "homebrew") || strings.HasPrefix(initdb, "/usr/local/opt") {
		locale = "en_US.UTF-8"
	}
	args := []string{"-D", p.data, "-U", Superuser, "--auth=trust", "--encoding=UTF8", "--locale=" + locale}
	if !p.options.Fsync {
		args = append(args, "--no-sync")
	}
	cmd := exec.CommandContext(ctx, initdb, args...)
	cmd.SysProcAttr = p.account.attributes()
	cmd.Dir = p.run
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("make a database cluster: %w\n%s", err, out)
	}
	return nil
}

// copySeed makes the data directory a copy of the seed.
func (p *Postgres) copySeed() error {
	err := os.CopyFS(p.data, os.DirFS(p.options.Seed))
	if err == nil {
		err = filepath.WalkDir(p.data, func(path string, _ fs.DirEntry, err error) error {
			return errors.Join(err, p.account.own(path))
		})
	}
	if err == nil {
		err = os.Chmod(p.data, 0o700)
	}
	if err != nil {
		return fmt.Errorf("copy a database cluster: %w", err)
	}
	return nil
}

// Keep stops the server in good order and copies its data directory to dir, as a Seed for others.
func (p *Postgres) Keep(dir string) error {
	if err := p.server.end(syscall.SIGINT); err != nil {
		return err
	}
	return os.CopyFS(dir, os.DirFS(p.data))
}

// Start runs the server again after Stop or Kill, on the same data and at the same address.
func (p *Postgres) Start(ctx context.Context) error {
	program, err := Find("postgres")
	if err != nil {
		return err
	}
	listen := ""
	if p.options.Port != 0 {
		listen = "127.0.0.1"
	}
	settings := []string{
		"listen_addresses=" + listen,
		"port=" + strconv.Itoa(p.port()),
		"unix_socket_directories=" + p.run,
		"shared_buffers=64MB",
		"max_connections=400",
		"timezone=UTC",
		"log_timezone=UTC",
		"jit=off",
	}
	if p.options.Guard {
		settings = append(settings, "ssl=on", "ssl_cert_file="+p.GuardCert(), "ssl_key_file="+filepath.Join(p.data, "guard.key"))
	}
	if !p.options.Fsync {
		settings = append(settings, "fsync=off", "full_page_writes=off", "autovacuum=off")
	}
	args := []string{"-D", p.data}
	for _, s := range settings {
		args = append(args, "-c", s)
	}
	if p.server, err = p.account.start("PostgreSQL", program, args, p.run, p.options.Log, p.run); err != nil {
		return err
	}
	err = p.server.ready(ctx, func(ctx context.Context) error {
		conn, err := pgx.Connect(ctx, p.URL("postgres", Superuser))
		if err != nil {
			return err
		}
		return conn.Close(ctx)
	})
	if err != nil {
		return errors.Join(err, p.server.end(syscall.SIGQUIT))
	}
	return nil
}

func (p *Postgres) port() int {
	if p.options.Port != 0 {
		return p.options.Port
	}
	return 5432
}

// URL is the address of a database for a user, over the unix socket.
func (p *Postgres) URL(database, user string) string {
	u := url.URL{Scheme: "postgres", User: url.User(user), Path: "/" + database}
	u.RawQuery = url.Values{"host": {p.run}, "port": {strconv.Itoa(p.port())}}.Encode()
	return u.String()
}

// guard makes the certificate that the server shows, and lets nobody in over TCP without TLS and a password.
func (p *Postgres) guard() (err error) {
	if p.options.Port, err = freePort(); err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make a key: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true, DNSNames: []string{"usher:guard"},
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return fmt.Errorf("make a certificate: %w", err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("write a key: %w", err)
	}
	for path, text := range map[string]string{
		p.GuardCert():                        string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})),
		filepath.Join(p.data, "guard.key"):   string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})),
		filepath.Join(p.data, "pg_hba.conf"): "local all all trust\nhostssl all all 127.0.0.1/32 password\n",
	} {
		if err := errors.Join(os.WriteFile(path, []byte(text), 0o600), p.account.own(path)); err != nil {
			return fmt.Errorf("guard the server: %w", err)
		}
	}
	return nil
}

// GuardCert is the file of the certificate that a guarded server shows, which signed itself.
func (p *Postgres) GuardCert() string { return filepath.Join(p.run, "guard.pem") }

// GuardedURL is the address of a database for a user, at the port of a guarded server. Whoever connects needs a password.
func (p *Postgres) GuardedURL(database, user string) string {
	u := url.URL{Scheme: "postgres", User: url.User(user), Host: "127.0.0.1:" + strconv.Itoa(p.port()), Path: "/" + database}
	u.RawQuery = url.Values{"sslmode": {"verify-ca"}, "sslrootcert": {p.GuardCert()}}.Encode()
	return u.String()
}

// Socket is the path of the unix socket at which the server listens.
func (p *Postgres) Socket() string { return filepath.Join(p.run, ".s.PGSQL."+strconv.Itoa(p.port())) }

// Stop ends the server at once, cutting what is connected, without losing what was committed; the data of a kept
// cluster stays. Start runs it again.
func (p *Postgres) Stop() error {
	signal := syscall.SIGQUIT // no shutdown checkpoint: nobody comes back to this data, or recovery will replay it
	if p.options.Fsync {
		signal = syscall.SIGINT
	}
	return p.server.end(signal)
}

// Close stops the server and deletes what was temporary. Start does not run it again.
func (p *Postgres) Close() error {
	return errors.Join(p.Stop(), os.RemoveAll(p.run))
}

// Pause freezes the server and every session in it: connections stay open and nothing answers, as when a network
// swallows packets. Resume lets it go on.
func (p *Postgres) Pause() error { return p.server.signalAll(syscall.SIGSTOP) }

// Resume lets a frozen server go on.
func (p *Postgres) Resume() error { return p.server.signalAll(syscall.SIGCONT) }

// Done is closed when the server that runs now has ended, wanted or not.
func (p *Postgres) Done() <-chan struct{} { return p.server.done }
