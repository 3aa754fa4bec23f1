package identity

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/platform/config"
)

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
	issuer *issuer
}

// OpenScheduler reads SchedulerConfig from the environment. It does not connect.
func OpenScheduler(getenv func(string) string) (*SchedulerVerifier, error) {
	var cfg SchedulerConfig
	if err := config.Load(&cfg, getenv); err != nil {
		return nil, err
	}
	if err := checkIssuer("SCHEDULER_ISSUER", cfg.Issuer); err != nil {
		return nil, err
	}
	return NewScheduler(cfg, time.Now), nil
}

// NewScheduler makes a SchedulerVerifier. Now is the clock that tokens expire by.
func NewScheduler(cfg SchedulerConfig, now func() time.Time) *SchedulerVerifier {
	return &SchedulerVerifier{cfg: cfg, issuer: newIssuer(cfg.Issuer, now)}
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
	verified, err := v.issuer.verify(ctx, v.cfg.Audience, token)
	switch {
	case errors.Is(err, errUnreachable):
		return fault.Unavailable(fmt.Errorf("ask the scheduler's issuer: %w", err))
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
