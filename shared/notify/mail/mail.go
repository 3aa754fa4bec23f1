// Package mail sends what was queued by package notify: it is the door to SMTP.
//
// A mail is never sent twice but in one case. Whoever sends it first moves its time on, in one statement, by longer than
// sending may take, so that of any number of senders one sends. Between the server's word that it has taken the mail and the
// commit that says so there is one statement, which is tried for ten seconds. If the process dies within it, or the server's
// word is lost on the way, nobody can know; then the mail is sent again later, under the same Message-ID, by which mailboxes
// know a repetition, because a mail that is lost is worse.
//
// What a mail says is wiped from the database in the statement that says that it was sent, or given up; until then what is
// secret of it is sealed. The package must not know why a mail is sent.
package mail

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	netmail "net/mail"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	gomail "github.com/wneessen/go-mail"
	"golang.org/x/sync/errgroup"

	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/notify"
	"github.com/coditect/usher/shared/platform/config"
	"github.com/coditect/usher/shared/platform/telemetry"
	"github.com/coditect/usher/shared/tenancy"
)

// Config says by which server mails are sent, and as whom.
type Config struct {
	Host string `env:"SMTP_HOST,required"`
	Port int    `env:"SMTP_PORT" envDefault:"587"`
	// Security is starttls, tls, or none, which only a server on this machine may have.
	Security string        `env:"SMTP_SECURITY" envDefault:"starttls"`
	Username string        `env:"SMTP_USERNAME"`
	Password config.Secret `env:"SMTP_PASSWORD"`
	// Timeout bounds the sending of one mail, from the connection to the server's word.
	Timeout time.Duration `env:"SMTP_TIMEOUT" envDefault:"15s"`
	// From is whom mails are from, with a name or without: Usher <licences@example.com>.
	From string `env:"MAIL_FROM,required"`
	// InvitationURL is the page where invitations are accepted; it gets the token as its fragment, which browsers do not send.
	InvitationURL string `env:"MAIL_INVITATION_URL"`
}

const (
	// atOnce is how many mails are under way at one time.
	atOnce = 4
	// atATime is how many due mails are looked up together.
	atATime = 100
	// lease is for how long nobody else sends a mail that somebody is sending: longer than Timeout and recording together.
	lease = 2 * time.Minute
	// recordFor is how long the outcome of an attempt is tried to be recorded.
	recordFor = 10 * time.Second
	// longestAttempt is what a run of function deliver has time for after it began its last attempt.
	longestAttempt = 20 * time.Second
	// patience is how long a mail is tried.
	patience = 72 * time.Hour
)

// Sender sends mails. It is safe for concurrent use.
type Sender struct {
	cfg    Config
	from   *netmail.Address
	domain string
	keys   notify.Keys
	db     *tenancy.DB
	log    *slog.Logger
}

// Open reads Config from the environment. It does not connect.
func Open(getenv func(string) string, keys notify.Keys, db *tenancy.DB, log *slog.Logger) (*Sender, error) {
	var c Config
	if err := config.Load(&c, getenv); err != nil {
		return nil, err
	}
	return New(c, keys, db, log)
}

// New makes a Sender; db logs in as usher_deliver. Its faults are the Config's.
func New(c Config, keys notify.Keys, db *tenancy.DB, log *slog.Logger) (*Sender, error) {
	from, err := netmail.ParseAddress(c.From)
	var faults []error
	if err != nil {
		faults = append(faults, &config.Fault{Variable: "MAIL_FROM", Problem: "is no e-mail address"})
		from = &netmail.Address{}
	}
	switch c.Security {
	case "starttls", "tls":
	case "none":
		if ip := net.ParseIP(c.Host); c.Host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			faults = append(faults, &config.Fault{Variable: "SMTP_SECURITY", Problem: "may be none for a server on this machine alone"})
		}
	default:
		faults = append(faults, &config.Fault{Variable: "SMTP_SECURITY", Problem: "is none of starttls, tls, none"})
	}
	if c.Port < 1 || c.Port > 65535 {
		faults = append(faults, &config.Fault{Variable: "SMTP_PORT", Problem: "is no port number"})
	}
	if c.Timeout <= 0 || c.Timeout > longestAttempt {
		faults = append(faults, &config.Fault{Variable: "SMTP_TIMEOUT", Problem: "must be more than 0 and at most 20s"})
	}
	if u, err := url.Parse(c.InvitationURL); err != nil || c.InvitationURL != "" && (u.Host == "" || u.Fragment != "") {
		faults = append(faults, &config.Fault{Variable: "MAIL_INVITATION_URL", Problem: "is no URL without a fragment"})
	}
	_, domain, _ := strings.Cut(from.Address, "@")
	return &Sender{cfg: c, from: from, domain: domain, keys: keys, db: db, log: log}, errors.Join(faults...)
}

// Report is what a run did, in numbers.
type Report struct {
	// Sent were taken by the server.
	Sent int64 `json:"sent"`
	// Postponed are tried again later.
	Postponed int64 `json:"postponed"`
	// GivenUp were refused for good, or tried for three days.
	GivenUp int64 `json:"given_up"`
}

var mails = telemetry.NewCounter("usher.mails", "{mail}",
	"Mails: sent, postponed (the server did not take it now) or given_up.", "usher.outcome")

// Run sends what is due. Until the given time it begins to send; the last is over within Config.Timeout after it. A server that
// cannot be reached, or answers nobody, ends the run: what is left waits for the next.
func (s *Sender) Run(ctx context.Context, until time.Time) (Report, error) {
	var sent, postponed, givenUp atomic.Int64
	var out atomic.Bool
	err := func() error {
		for ours := int64(1); ours > 0 && time.Now().Before(until) && !out.Load(); {
			before := sent.Load() + postponed.Load() + givenUp.Load()
			due, err := s.due(ctx)
			if err != nil || len(due) == 0 {
				return err
			}
			var all errgroup.Group
			all.SetLimit(atOnce)
			for _, m := range due {
				all.Go(func() error {
					if !time.Now().Before(until) || out.Load() {
						return nil
					}
					how, err := s.send(ctx, m)
					switch how {
					case wasSent:
						sent.Add(1)
					case wasPostponed:
						postponed.Add(1)
					case serverIsOut:
						postponed.Add(1)
						out.Store(true)
					case wasGivenUp:
						givenUp.Add(1)
					case wasTaken:
					}
					return err
				})
			}
			if err := all.Wait(); err != nil {
				return err
			}
			ours = sent.Load() + postponed.Load() + givenUp.Load() - before // another run may be at all of them
		}
		return nil
	}()
	r := Report{sent.Load(), postponed.Load(), givenUp.Load()}
	for outcome, n := range map[string]int64{"sent": r.Sent, "postponed": r.Postponed, "given_up": r.GivenUp} {
		mails.Add(ctx, n, outcome)
	}
	return r, err
}

// outcome is what became of a mail.
type outcome int

const (
	wasTaken outcome = iota // by another sender, or it is over
	wasSent
	wasPostponed
	serverIsOut
	wasGivenUp
)

// reference is a mail's name.
type reference struct {
	tenant tenancy.ID
	id     uuid.UUID
}

func (s *Sender) due(ctx context.Context) (due []reference, err error) {
	err = s.db.Across(ctx, "deliver: mails that are due", func(tx tenancy.Tx) error {
		rows, err := tx.Query(ctx, `SELECT tenant_id, id FROM app.due_mails($1)`, atATime)
		if err != nil {
			return err
		}
		due, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (r reference, err error) {
			var tenant uuid.UUID
			err = row.Scan(&tenant, &r.id)
			r.tenant = tenancy.Verified(tenant)
			return r, err
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("look up the mails that are due: %w", err)
	}
	return due, nil
}

// claimed is a mail that is ours to send.
type claimed struct {
	reference
	kind      notify.Kind
	to        string
	data      map[string]string
	attempt   int
	createdAt time.Time
}

// claim takes the mail, unless somebody else has it.
func (s *Sender) claim(ctx context.Context, r reference) (m claimed, ours bool, err error) {
	m.reference = r
	var data []byte
	err = s.db.As(ctx, r.tenant, func(tx tenancy.Tx) error {
		return tx.QueryRow(ctx, `
			UPDATE app.mails
			   SET attempts = attempts + 1, next_at = now() + $3::interval
			 WHERE tenant_id = $1 AND id = (
			       SELECT o.id FROM app.mails o
			        WHERE o.tenant_id = $1 AND o.id = $2 AND o.status = 'pending' AND o.next_at <= now()
			          FOR UPDATE SKIP LOCKED)
			RETURNING kind, recipient, data, attempts, created_at`, r.tenant.UUID(), r.id, lease,
		).Scan(&m.kind, &m.to, &data, &m.attempt, &m.createdAt)
	})
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return m, false, nil
	case err != nil:
		return m, false, fmt.Errorf("take mail %s: %w", r.id, err)
	}
	if err := json.Unmarshal(data, &m.data); err != nil {
		return m, false, fmt.Errorf("read mail %s: %w", r.id, err)
	}
	return m, true, nil
}

func (s *Sender) send(ctx context.Context, r reference) (outcome, error) {
	m, ours, err := s.claim(ctx, r)
	if err != nil || !ours {
		return wasTaken, err
	}
	how, problem := wasSent, ""
	msg, err := s.message(&m)
	if err != nil { // words that are not there: a later version may have them
		s.log.ErrorContext(ctx, "a mail could not be written", slog.String("mail", r.id.String()), slog.Any("error", err))
		how, problem = wasPostponed, "it could not be written"
	} else if delivered, err := s.transmit(ctx, msg); !delivered {
		how, problem = judge(err)
	}
	if how != wasSent && how != wasGivenUp && time.Since(m.createdAt) > patience {
		how = wasGivenUp
	}
	if how != wasSent {
		s.log.WarnContext(ctx, "a mail was not sent", slog.String("mail", r.id.String()), slog.String("kind", string(m.kind)),
			slog.Bool("given_up", how == wasGivenUp), slog.String("problem", problem))
	}
	return how, s.record(ctx, &m, how, problem)
}

// message is the mail as it is sent.
func (s *Sender) message(m *claimed) (*gomail.Msg, error) {
	for name, sealed := range m.data {
		if !notify.Sealed(name) {
			continue
		}
		text, err := s.keys.Unseal(m.to, sealed)
		if err != nil {
			return nil, fmt.Errorf("read the %s of mail %s: %w", name, m.id, err)
		}
		m.data[name] = text
	}
	accept := ""
	if token := m.data["token"]; token != "" && s.cfg.InvitationURL != "" {
		accept = s.cfg.InvitationURL + "#token=" + url.QueryEscape(token)
	}
	words, err := Write(m.kind, m.data, accept)
	if err != nil {
		return nil, err
	}
	msg := gomail.NewMsg(gomail.WithNoDefaultUserAgent())
	msg.FromMailAddress(s.from)
	if err := msg.To(m.to); err != nil {
		return nil, fmt.Errorf("address mail %s: %w", m.id, err)
	}
	msg.Subject(words.Subject)
	msg.SetDate()
	msg.SetMessageIDWithValue(m.id.String() + "@" + s.domain)
	msg.SetGenHeader("Auto-Submitted", "auto-generated")
	msg.SetBodyString(gomail.TypeTextPlain, words.Text)
	msg.AddAlternativeString(gomail.TypeTextHTML, words.HTML)
	return msg, nil
}

// transmit hands the mail to the server, and says whether the server took it, whatever went wrong later.
func (s *Sender) transmit(ctx context.Context, msg *gomail.Msg) (delivered bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	// The library's deadlines are each of one command: the connection ends with the context.
	dial := func(ctx2 context.Context, network, address string) (net.Conn, error) {
		dialer := &net.Dialer{}
		var conn net.Conn
		var err error
		if s.cfg.Security == "tls" {
			conn, err = (&tls.Dialer{NetDialer: dialer, Config: s.tls()}).DialContext(ctx2, network, address)
		} else {
			conn, err = dialer.DialContext(ctx2, network, address)
		}
		if err == nil {
			context.AfterFunc(ctx, func() { _ = conn.Close() })
		}
		return conn, err
	}
	options := []gomail.Option{
		gomail.WithPort(s.cfg.Port), gomail.WithTimeout(s.cfg.Timeout), gomail.WithDialContextFunc(dial),
		gomail.WithTLSConfig(s.tls()), gomail.WithHELO(s.domain),
	}
	switch s.cfg.Security {
	case "starttls":
		options = append(options, gomail.WithTLSPolicy(gomail.TLSMandatory))
	case "tls":
		options = append(options, gomail.WithTLSPolicy(gomail.NoTLS), gomail.WithSSL())
	case "none":
		options = append(options, gomail.WithTLSPolicy(gomail.NoTLS))
	}
	if s.cfg.Username != "" {
		options = append(options, gomail.WithSMTPAuth(gomail.SMTPAuthAutoDiscover),
			gomail.WithUsername(s.cfg.Username), gomail.WithPassword(s.cfg.Password.Reveal()))
	}
	client, err := gomail.NewClient(s.cfg.Host, options...)
	if err != nil {
		return false, fmt.Errorf("prepare SMTP: %w", err)
	}
	if err := client.DialWithContext(ctx); err != nil {
		return false, fmt.Errorf("%w at %s: %w", errUnreachable, net.JoinHostPort(s.cfg.Host, strconv.Itoa(s.cfg.Port)), err)
	}
	err = client.Send(msg)
	if err == nil {
		_ = client.Close() // it has the mail
	}
	return msg.IsDelivered(), err
}

func (s *Sender) tls() *tls.Config {
	return &tls.Config{ServerName: s.cfg.Host, MinVersion: tls.VersionTLS12}
}

var errUnreachable = errors.New("no SMTP server")

// judge says what an attempt that failed means. Only the server's lasting word on the recipient or on the mail itself is final:
// whatever else it refuses may be mended, such as our password.
func judge(err error) (outcome, string) {
	refused, ok := errors.AsType[*gomail.SendError](err)
	switch {
	case errors.Is(err, errUnreachable):
		return serverIsOut, "the mail server could not be reached"
	case ok && refused.ErrorCode() >= 500 && (refused.Reason == gomail.ErrSMTPRcptTo || refused.Reason == gomail.ErrSMTPDataClose):
		return wasGivenUp, "the mail server refused it: " + strconv.Itoa(refused.ErrorCode())
	case ok && refused.ErrorCode() >= 400:
		return wasPostponed, "the mail server put it off: " + strconv.Itoa(refused.ErrorCode())
	default:
		return serverIsOut, "the mail server did not answer"
	}
}

// record writes down what became of the attempt, unless another sender has taken the mail since. It outlives the run.
func (s *Sender) record(ctx context.Context, m *claimed, how outcome, problem string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordFor)
	defer cancel()
	sql, args := `
		UPDATE app.mails
		   SET status = $4, data = '{}', finished_at = now(), last_error = nullif($5, '')
		 WHERE tenant_id = $1 AND id = $2 AND attempts = $3 AND status = 'pending'`, []any{m.tenant.UUID(), m.id, m.attempt}
	switch how {
	case wasSent:
		args = append(args, "sent", "")
	case wasGivenUp:
		args = append(args, "failed", problem)
	default:
		sql = `
		UPDATE app.mails
		   SET next_at = now() + $4::interval, last_error = $5
		 WHERE tenant_id = $1 AND id = $2 AND attempts = $3 AND status = 'pending'`
		args = append(args, notify.Delay(m.attempt), problem)
	}
	for {
		err := s.db.As(ctx, m.tenant, func(tx tenancy.Tx) error {
			_, err := tx.Exec(ctx, sql, args...)
			return err
		})
		if err == nil {
			return nil
		}
		if f := fault.As(err); f == nil || f.Kind != fault.KindUnavailable || ctx.Err() != nil {
			return fmt.Errorf("record what became of mail %s: %w", m.id, err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
}
