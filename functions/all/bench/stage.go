package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/valyala/fasthttp"
	"golang.org/x/sync/errgroup"

	"github.com/coditect/usher/functions/acquire"
	"github.com/coditect/usher/functions/all/local"
	"github.com/coditect/usher/shared/platform/localenv"
	"github.com/coditect/usher/shared/seat"
	"github.com/coditect/usher/shared/signing"
)

// stage is where the measuring happens: private stores as in production, binaries, and something to ask for.
type stage struct {
	dir      string
	progress func(format string, args ...any)
	postgres *localenv.Postgres
	redis    *localenv.RedisServer
	settings func(function string) map[string]string
	tokens   *signing.Tokens

	operator local.API
	tenant   uuid.UUID
	plan     string

	processes []*process
	closes    []func() error
}

// lease is that of every licence here: nobody lapses while others are measured.
const lease = 24 * time.Hour

// setStage starts the stores, makes the tenant as `make run` does, and builds the binaries.
func setStage(ctx context.Context, progress func(string, ...any)) (s *stage, err error) {
	s = &stage{progress: progress}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if s.dir, err = os.MkdirTemp("", "usher-bench-"); err != nil {
		return s, fmt.Errorf("make a folder for the measuring: %w", err)
	}
	s.closes = append(s.closes, func() error { return os.RemoveAll(s.dir) })
	if err := localenv.Install(ctx, os.Stderr, localenv.PostgreSQL, localenv.Redis); err != nil {
		return s, err
	}
	progress("building the binaries")
	err = build(ctx, s.dir, map[string]string{
		"acquire": "./functions/acquire/cmd", "heartbeat": "./functions/heartbeat/cmd", "release": "./functions/release/cmd",
		"yardstick": "./functions/all/bench/yardstick",
	})
	if err != nil {
		return s, err
	}
	progress("starting PostgreSQL (with fsync) and Redis")
	if s.postgres, err = localenv.StartPostgres(ctx, localenv.PostgresOptions{Fsync: true}); err != nil {
		return s, err
	}
	s.closes = append(s.closes, s.postgres.Close)
	if s.redis, err = localenv.StartRedis(ctx, localenv.RedisOptions{}); err != nil {
		return s, err
	}
	s.closes = append(s.closes, s.redis.Close)
	if err := s.found(ctx); err != nil {
		return s, err
	}
	s.tokens, err = signing.OpenTokens(getenv(s.settings("heartbeat")), slog.New(slog.DiscardHandler))
	return s, err
}

// found makes tables, secrets, an operator and a tenant. The service of `make run` does that; it stays while licences are
// made through it, and is gone before anything is measured.
func (s *stage) found(ctx context.Context) error {
	environment := map[string]string{
		"PORT": "0", "DATABASE_URL": s.postgres.URL("postgres", localenv.Superuser), "REDIS_URL": s.redis.URL(0),
	}
	u, err := local.Start(ctx, local.Options{Dir: filepath.Join(s.dir, "local"), Getenv: getenv(environment), Progress: s.progress})
	if err != nil {
		return err
	}
	d := u.Demo()
	s.settings, s.operator, s.tenant, s.plan = u.Settings, local.API{URL: d.BaseURL, Bearer: d.OperatorAPIKey}, d.TenantID, d.Plan
	s.closes = append(s.closes, u.Close)
	return nil
}

// quiet ends the service of `make run`: from here on only what is measured works.
func (s *stage) quiet() error {
	last := len(s.closes) - 1
	end := s.closes[last]
	s.closes = s.closes[:last]
	return end()
}

func (s *stage) close() error {
	var errs []error
	for _, p := range s.processes {
		errs = append(errs, p.stop())
	}
	for _, end := range slices.Backward(s.closes) {
		errs = append(errs, end())
	}
	return errors.Join(errs...)
}

func getenv(environment map[string]string) func(string) string {
	return func(variable string) string { return environment[variable] }
}

// function starts a function's binary with the settings of production, but for the budgets: few clients here ask as
// often as many would.
func (s *stage) function(ctx context.Context, name string) (*process, error) {
	p, err := startProcess(ctx, s.dir, name, func(host, port string) map[string]string {
		env := map[string]string{
			"HOST": host, "PORT": port, "LOG_LEVEL": "info", "K_SERVICE": name,
			"BUDGET_HOLDER_PER_SECOND": "1000000", "BUDGET_HOLDER_BURST": "1000000", "BUDGET_LICENSE_BASE": "1000000",
		}
		maps.Copy(env, s.settings(name))
		return env
	})
	if err == nil {
		s.processes = append(s.processes, p)
	}
	return p, err
}

// yardstick starts the yardstick.
func (s *stage) yardstick(ctx context.Context) (*process, error) {
	if _, err := s.redis.Do(ctx, "SCRIPT", "LOAD", seat.TouchScript()); err != nil {
		return nil, fmt.Errorf("load the script: %w", err)
	}
	p, err := startProcess(ctx, s.dir, "yardstick", func(host, port string) map[string]string {
		return map[string]string{"YARDSTICK_LISTEN": host + ":" + port, "YARDSTICK_REDIS": s.redis.Addr()}
	})
	if err == nil {
		s.processes = append(s.processes, p)
	}
	return p, err
}

// sell makes a licence through the API, and answers its key.
func (s *stage) sell(ctx context.Context, seats int) (key string, err error) {
	var made struct {
		LicenseKey string `json:"license_key"`
	}
	terms := map[string]any{"plan": s.plan, "max_seats": seats, "ttl_seconds": int(lease / time.Second)}
	_, err = s.operator.Call(ctx, http.MethodPost, "/v1/licenses?tenant_id="+s.tenant.String(), terms, &made)
	return made.LicenseKey, err
}

// sellMany makes licences of so many seats.
func (s *stage) sellMany(ctx context.Context, licenses, seats int) ([]string, error) {
	keys := make([]string, licenses)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(8)
	for i := range keys {
		group.Go(func() (err error) {
			keys[i], err = s.sell(ctx, seats)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, fmt.Errorf("make %d licences: %w", licenses, err)
	}
	return keys, nil
}

// session is one that is held.
type session struct {
	token string
	seat.Ref
}

// acquireRequest is that of a holder.
func acquireRequest(d *door, key, holder string) *fasthttp.Request {
	q := &fasthttp.Request{}
	q.SetRequestURI(d.base + "/v1/acquire")
	q.Header.SetMethod(http.MethodPost)
	q.Header.SetContentType("application/json")
	q.SetBodyString(`{"license_key":"` + key + `","hardware_id":"` + holder + `","version":"1.0.0"}`)
	return q
}

// bearerRequest is a heartbeat or a release.
func bearerRequest(d *door, path, token string) *fasthttp.Request {
	q := &fasthttp.Request{}
	q.SetRequestURI(d.base + path)
	q.Header.SetMethod(http.MethodPost)
	q.Header.Set("Authorization", "Bearer "+token)
	return q
}

// yardstickRequest is a heartbeat of the yardstick.
func yardstickRequest(d *door, h session) *fasthttp.Request {
	q := &fasthttp.Request{}
	q.SetRequestURI(d.base + "/v1/heartbeat")
	q.Header.SetMethod(http.MethodPost)
	q.Header.Set("License", h.Tenant.String()+"/"+h.License.String())
	q.Header.Set("Session", h.Session.String())
	q.Header.Set("Fence", h.Fence().String())
	return q
}

// take takes a seat.
func (s *stage) take(d *door, key, holder string) (session, error) {
	var r fasthttp.Response
	if err := d.send(acquireRequest(d, key, holder), &r, http.StatusCreated); err != nil {
		return session{}, err
	}
	var answer acquire.Answer
	if err := json.Unmarshal(r.Body(), &answer); err != nil {
		return session{}, err
	}
	claims, err := s.tokens.Verify(answer.SeatToken)
	return session{answer.SeatToken, seat.Ref(claims)}, err
}

// seatAll lets every seat of the licences be held.
func (s *stage) seatAll(ctx context.Context, d *door, keys []string, seats int) ([]session, error) {
	sessions := make([]session, len(keys)*seats)
	group, _ := errgroup.WithContext(ctx)
	group.SetLimit(32)
	for i := range sessions {
		group.Go(func() (err error) {
			sessions[i], err = s.take(d, keys[i%len(keys)], fmt.Sprintf("holder-%d", i))
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, fmt.Errorf("seat %d holders: %w", len(sessions), err)
	}
	return sessions, nil
}
