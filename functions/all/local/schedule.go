package local

import (
	"context"
	"log/slog"
	"net/http"
	"path/filepath"
	"time"

	"github.com/coditect/usher/shared/platform/localenv"
)

// job is what the scheduler calls.
type job struct {
	path  string
	every time.Duration
}

// jobs are more frequent here than in the cloud, where the sweep and what is delivered run each minute, the meter each hour, and the others each day.
var jobs = []job{{"/tasks/sweep", 10 * time.Second}, {"/tasks/deliver", 5 * time.Second}, {"/tasks/rotate", time.Hour}, {"/tasks/meter", time.Minute}, {"/tasks/expire", 30 * time.Second}}

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
func schedule(ctx context.Context, job job, api API, token func(time.Duration) (string, error), log *slog.Logger) {
	go func() {
		for tick := time.NewTicker(job.every); ; {
			select {
			case <-ctx.Done():
				tick.Stop()
				return
			case <-tick.C:
			}
			bearer, err := token(time.Hour)
			if err == nil {
				_, err = api.As(bearer).Call(ctx, http.MethodPost, job.path, nil, nil)
			}
			if err != nil && ctx.Err() == nil {
				log.ErrorContext(ctx, "the schedule could not call", "path", job.path, "error", err)
			}
		}
	}()
}
