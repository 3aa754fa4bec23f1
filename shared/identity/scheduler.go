package identity

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"

	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/platform/config"
)

// issuerTimeout bounds a call to the issuer.
const issuerTimeout = 10 * time.Second

// SchedulerConfig says whose tokens start scheduled work.
type SchedulerConfig struct {
	// Issuer signs the tokens, and publishes its keys by OpenID Connect discovery.
	Issuer string `env:"SCHEDULER_ISSUER" envDefault:"https://accounts.google.com"`
	// Audience is the function's own URL.
	Audience string `env:"SCHEDULER_AUDIENCE,required"`
	// Email is the scheduler's service account.
	Email string `env:"SCHEDULER_EMAIL,required"`
}

// SchedulerVerifier recognises Cloud Scheduler by its OIDC token. It asks the
// issuer for its keys when it first needs them and when it meets a new one, and
// is safe for concurrent use.
type SchedulerVerifier struct {
	cfg    SchedulerConfig
	client *http.Client
	now    func() time.Time

	keys   atomic.Pointer[oidc.RemoteKeySet] // nil until the issuer was reached
	asking singleflight.Group
}

// OpenScheduler reads SchedulerConfig from the environment. It does not connect.
func OpenScheduler(getenv func(string) string) (*SchedulerVerifier, error) {
	var cfg SchedulerConfig
	if err := config.Load(&cfg, getenv); err != nil {
		return nil, err
	}
	if u, err := url.Parse(cfg.Issuer); err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return nil, &config.Fault{Variable: "SCHEDULER_ISSUER", Problem: "is no https:// URL"}
	}
	return NewScheduler(cfg, time.Now), nil
}

// NewScheduler makes a SchedulerVerifier. Now is the clock that tokens expire by.
func NewScheduler(cfg SchedulerConfig, now func() time.Time) *SchedulerVerifier {
	transport := &sparing{next: http.DefaultTransport, limit: rate.NewLimiter(issuerPerSecond, issuerBurst)}
	return &SchedulerVerifier{cfg: cfg, client: &http.Client{Timeout: issuerTimeout, Transport: transport}, now: now}
}

// Verify is nil when the token is the scheduler's: signed by the issuer (RS256
// and nothing else), for this function, unexpired, and of the service account,
// whose address the issuer vouches for. It is fault.Unauthenticated for every
// other token, and fault.Unavailable when the issuer's keys cannot be had, so
// that the scheduler tries again.
func (v *SchedulerVerifier) Verify(ctx context.Context, token string) error {
	if strings.Count(token, ".") != 2 {
		return v.refuse(errors.New("not a JWT"))
	}
	keys, err := v.keySet(ctx)
	if err != nil {
		return fault.Unavailable(fmt.Errorf("ask the scheduler's issuer for its keys: %w", err))
	}
	asked := &askedKeys{KeySet: keys}
	verified, err := oidc.NewVerifier(v.cfg.Issuer, asked, &oidc.Config{
		ClientID: v.cfg.Audience, SupportedSigningAlgs: []string{oidc.RS256}, Now: v.now,
	}).Verify(ctx, token)
	switch {
	case errors.Is(asked.unreachable, errTooOften):
		return v.refuse(asked.unreachable) // no key that is known signed it
	case asked.unreachable != nil:
		return fault.Unavailable(fmt.Errorf("ask the scheduler's issuer for its keys: %w", asked.unreachable))
	case err != nil:
		return v.refuse(err)
	}
	var claims struct {
		Email    string `json:"email"`
		Verified bool   `json:"email_verified"`
	}
	if err := verified.Claims(&claims); err != nil {
		return v.refuse(err)
	}
	if claims.Email != v.cfg.Email || !claims.Verified {
		return v.refuse(errors.New("the token is of another account, or of an address nobody vouches for"))
	}
	return nil
}

func (v *SchedulerVerifier) refuse(why error) error {
	return fault.Unauthenticated("scheduler_token_invalid", "This is for the scheduler only, and needs its token.").Because(why)
}

// keySet discovers where the issuer's keys are, once it can be reached.
func (v *SchedulerVerifier) keySet(ctx context.Context) (oidc.KeySet, error) {
	if keys := v.keys.Load(); keys != nil {
		return keys, nil
	}
	found := v.asking.DoChan("", func() (any, error) { return v.discover() })
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case answer := <-found:
		if answer.Err != nil {
			return nil, answer.Err
		}
		return v.keys.Load(), nil
	}
}

// discover asks the issuer where its keys are, on behalf of all that wait for them: the client's timeout bounds it.
func (v *SchedulerVerifier) discover() (*oidc.RemoteKeySet, error) {
	ctx := oidc.ClientContext(context.Background(), v.client)
	provider, err := oidc.NewProvider(ctx, v.cfg.Issuer)
	if err != nil {
		return nil, err
	}
	var where struct {
		Keys string `json:"jwks_uri"`
	}
	if err := provider.Claims(&where); err != nil {
		return nil, err
	}
	keys := oidc.NewRemoteKeySet(ctx, where.Keys)
	v.keys.Store(keys)
	return keys, nil
}

// How often the issuer is asked at most, whatever tokens are sent: each that no known key signed is a reason to ask.
const (
	issuerPerSecond = 1
	issuerBurst     = 10
)

var errTooOften = errors.New("the issuer was asked too often lately")

// sparing spares the issuer.
type sparing struct {
	next  http.RoundTripper
	limit *rate.Limiter
}

// RoundTrip is http.RoundTripper's.
func (s *sparing) RoundTrip(r *http.Request) (*http.Response, error) {
	if !s.limit.Allow() {
		return nil, errTooOften
	}
	return s.next.RoundTrip(r)
}

// askedKeys notices, for one token, when the keys could not be had: the verifier's own error no longer tells.
type askedKeys struct {
	oidc.KeySet
	unreachable error
}

// VerifySignature is oidc.KeySet's.
func (k *askedKeys) VerifySignature(ctx context.Context, jwt string) ([]byte, error) {
	payload, err := k.KeySet.VerifySignature(ctx, jwt)
	if err != nil && strings.HasPrefix(err.Error(), "fetching keys") {
		k.unreachable = err
	}
	return payload, err
}
