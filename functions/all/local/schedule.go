package local

import (
	"context"
	"log/slog"
	"net/http"
	"path/filepath"
	"time"

	"github.com/coditect/usher/shared/platform/localenv"
)

// sweepInterval is how often the sweep runs here. In the cloud it is a minute.
const sweepInterval = 10 * time.Second

// newIssuer is the local issuer of tokens, with a key that is kept.
func newIssuer(dir, url string) (*localenv.Issuer, error) {
	key, err := localenv.KeepIssuerKey(filepath.Join(dir, "issuer.pem"))
	if err != nil {
		return nil, err
	}
	return localenv.NewIssuer(url, key)
}

// schedulerToken makes tokens such as Cloud Scheduler sends.
func schedulerToken(issuer *localenv.Issuer, audience string) func(life time.Duration) (string, error) {
	return func(life time.Duration) (string, error) {
		return issuer.Token(map[string]any{
			"aud": audience, "sub": "scheduler", "email": schedulerEmail, "email_verified": true,
		}, life)
	}
}

// schedule calls what Cloud Scheduler would call, until the context is over.
func schedule(ctx context.Context, api API, token func(time.Duration) (string, error), log *slog.Logger) {
	go func() {
		for tick := time.NewTicker(sweepInterval); ; {
			select {
			case <-ctx.Done():
				tick.Stop()
				return
			case <-tick.C:
			}
			bearer, err := token(time.Hour)
			if err == nil {
				_, err = api.As(bearer).Call(ctx, http.MethodPost, "/tasks/sweep", nil, nil)
			}
			if err != nil && ctx.Err() == nil {
				log.ErrorContext(ctx, "the schedule could not call the sweep", "error", err)
			}
		}
	}()
}
