package tenancy

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"sync"
	"time"

	"cloud.google.com/go/compute/metadata"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/coditect/usher/shared/platform/config"
)

const (
	// loginScope is all that our tokens are good for, whoever gets hold of one.
	loginScope = "https://www.googleapis.com/auth/sqlservice.login"
	// spare is how long a token must still be good for when a connection begins to be made with it. The metadata server
	// has a new one some minutes before the old one ends.
	spare = time.Minute
)

// errNoToken says that the metadata server gave no token, so that no connection can be made now. Those there are stay good.
var errNoToken = errors.New("no token for the database")

// tokens are OAuth tokens of the service account that the process runs as: its password at Cloud SQL, good for an hour.
type tokens struct {
	mu    sync.Mutex
	token string
	until time.Time
}

// get answers a token that is good for the time that a connection takes, by the deadline of ctx.
func (t *tokens) get(ctx context.Context) (string, error) {
	t.mu.Lock() // of many who come at once, one asks; it holds nobody for longer than its deadline
	defer t.mu.Unlock()
	if time.Until(t.until) > spare {
		return t.token, nil
	}
	asked := time.Now()
	text, err := metadata.GetWithContext(ctx, "instance/service-accounts/default/token?scopes="+url.QueryEscape(loginScope))
	if err != nil {
		return "", fmt.Errorf("%w: ask the metadata server: %w", errNoToken, err)
	}
	var answer struct {
		Token   string `json:"access_token"`
		Seconds int64  `json:"expires_in"`
	}
	if err := json.Unmarshal([]byte(text), &answer); err != nil || answer.Token == "" {
		return "", fmt.Errorf("%w: the metadata server's answer is none", errNoToken) // it may hold a token: not quoted
	}
	t.token, t.until = answer.Token, asked.Add(time.Duration(answer.Seconds)*time.Second)
	return t.token, nil
}

// actAs makes a session that somebody else logged in to one of the role's own: what was set for the role (deadlines, the
// search path) PostgreSQL gives only to who logs in as it.
const actAs = `select set_config(split_part(setting, '=', 1), substr(setting, strpos(setting, '=') + 1), false)
	from pg_roles, unnest(rolconfig) setting where rolname = current_user`

// aboveTheLaw says whether who logged in, or anybody it can become, is not held by row-level security.
const aboveTheLaw = `select coalesce(bool_or(rolsuper or rolbypassrls), true) from pg_roles where pg_has_role(session_user, oid, 'member')`

// byIAM makes the pool's connections log in with tokens, and act as the role that the URL names.
func byIAM(variable string, pool *pgxpool.Config) error {
	var faults []error
	if pool.ConnConfig.RuntimeParams["role"] == "" {
		faults = append(faults, &config.Fault{Variable: variable, Problem: "must say with DATABASE_IAM which role the account acts as: role=usher_…"})
	}
	verified := verifies(pool.ConnConfig.TLSConfig)
	for _, other := range pool.ConnConfig.Fallbacks {
		verified = verified && verifies(other.TLSConfig)
	}
	if !verified { // the token is sent as it is
		faults = append(faults, &config.Fault{Variable: variable, Problem: "must have with DATABASE_IAM sslmode=verify-ca or verify-full, and sslrootcert"})
	}
	if err := errors.Join(faults...); err != nil {
		return err
	}
	var passwords tokens
	timeout := pool.ConnConfig.ConnectTimeout
	pool.BeforeConnect = func(ctx context.Context, c *pgx.ConnConfig) (err error) {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		c.Password, err = passwords.get(ctx)
		return err
	}
	pool.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		var above bool
		b := &pgx.Batch{}
		b.Queue(actAs)
		b.Queue(aboveTheLaw).QueryRow(func(row pgx.Row) error { return row.Scan(&above) })
		if err := conn.SendBatch(ctx, b).Close(); err != nil {
			return fmt.Errorf("act as a role: %w", err)
		}
		if above {
			return fmt.Errorf("%s may bypass row-level security: it must be a member of functions' roles alone", conn.Config().User)
		}
		return nil
	}
	return nil
}

// verifies reports whether who answers must show a certificate that is believed.
func verifies(c *tls.Config) bool {
	return c != nil && (!c.InsecureSkipVerify || c.VerifyPeerCertificate != nil)
}
