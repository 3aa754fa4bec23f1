package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/valyala/fasthttp"
	"golang.org/x/sync/errgroup"

	"github.com/coditect/usher/functions/all/local"
	"github.com/coditect/usher/shared/license"
	"github.com/coditect/usher/shared/platform/localenv"
	"github.com/coditect/usher/shared/seat"
	"github.com/coditect/usher/shared/signing"
)

// stage is where the measuring happens: private stores as in production, binaries, and something to ask for.
type stage struct {
	size     Size
	dir      string
	progress func(format string, args ...any)
	postgres *localenv.Postgres
	db       *pgxpool.Pool // as the superuser: to set up, and as pgx alone
	redis    *localenv.RedisServer
	settings func(function string) map[string]string
	tokens   *signing.Tokens
	tenant   uuid.UUID

	acquire, heartbeat, release, yardstick *process

	held    []session    // on licences of which every seat is taken
	free    []sold       // licences whose seats are free
	large   []sold       // licences with more seats than are asked for, counted by instance
	alone   sold         // another, where nobody sat: its pool is small, and copied a hundred thousand times
	bySeats map[int]sold // a licence of so many seats each
	started int          // processes
	rate    float64      // heartbeats a second: half of what there can be here
	closes  []func() error
}

// sold is a licence.
type sold struct {
	key string
	id  uuid.UUID
}

const module = "github.com/coditect/usher/"

// lease is that of every licence here: nobody lapses while others are measured.
const lease = 24 * time.Hour

// setStage starts the stores, makes the tenant and its licences as `make run` does, seats holders, and starts the binaries.
func setStage(ctx context.Context, size Size, progress func(string, ...any)) (s *stage, err error) {
	s = &stage{size: size, progress: progress, bySeats: map[int]sold{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if s.dir, err = os.MkdirTemp("", "usher-bench-"); err != nil {
		return s, fmt.Errorf("make a folder for the measuring: %w", err)
	}
	s.closes = append(s.closes, func() error { return os.RemoveAll(s.dir) })
	progress("building the binaries")
	err = build(ctx, s.dir, map[string]string{
		"acquire": module + "functions/acquire/cmd", "heartbeat": module + "functions/heartbeat/cmd", "release": module + "functions/release/cmd",
		"yardstick": module + "functions/all/bench/yardstick",
	})
	if err != nil {
		return s, err
	}
	if err := s.startStores(ctx); err != nil {
		return s, err
	}
	keys, err := s.sellAll(ctx)
	if err != nil {
		return s, err
	}
	if err := s.startCloud(ctx); err != nil {
		return s, err
	}
	if s.tokens, err = signing.OpenTokens(getenv(s.settings("heartbeat")), slog.New(slog.DiscardHandler)); err != nil {
		return s, err
	}
	for name, at := range map[string]**process{"acquire": &s.acquire, "heartbeat": &s.heartbeat, "release": &s.release} {
		if *at, err = s.function(ctx, name); err != nil {
			return s, err
		}
	}
	if err := s.startYardstick(ctx); err != nil {
		return s, err
	}
	progress("seating %d holders", size.Licenses*size.Seats)
	s.held, err = s.seatAll(ctx, newDoor(s.acquire.address), keys, size.Seats)
	return s, err
}

// startStores starts PostgreSQL, which writes through to the disk, and Redis.
func (s *stage) startStores(ctx context.Context) (err error) {
	if err := localenv.Install(ctx, os.Stderr, localenv.PostgreSQL, localenv.Redis); err != nil {
		return err
	}
	s.progress("starting PostgreSQL (with fsync) and Redis")
	if s.postgres, err = localenv.StartPostgres(ctx, localenv.PostgresOptions{Fsync: true}); err != nil {
		return err
	}
	s.closes = append(s.closes, s.postgres.Close)
	if s.redis, err = localenv.StartRedis(ctx, localenv.RedisOptions{}); err != nil {
		return err
	}
	s.closes = append(s.closes, s.redis.Close)
	config, err := pgxpool.ParseConfig(s.postgres.URL("postgres", localenv.Superuser))
	if err != nil {
		return fmt.Errorf("read the address of PostgreSQL: %w", err)
	}
	config.MaxConns = committers
	if s.db, err = pgxpool.NewWithConfig(ctx, config); err != nil {
		return fmt.Errorf("connect to PostgreSQL: %w", err)
	}
	s.closes = append(s.closes, func() error { s.db.Close(); return nil })
	return nil
}

// sellAll makes tables, secrets, a tenant and every licence through the service of `make run`, which is gone before
// anything is measured. It answers the keys of the licences whose seats are to be taken.
func (s *stage) sellAll(ctx context.Context) (keys []string, err error) {
	environment := map[string]string{
		"PORT": "0", "DATABASE_URL": s.postgres.URL("postgres", localenv.Superuser), "REDIS_URL": s.redis.URL(0),
	}
	u, err := local.Start(ctx, local.Options{Dir: filepath.Join(s.dir, "local"), Getenv: getenv(environment), Progress: s.progress})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, u.Close()) }()
	s.settings, s.tenant = u.Settings, u.Demo().TenantID
	s.progress("making %d licences of %d seats, and some for every purpose", s.size.Licenses, s.size.Seats)
	taken, err := sell(ctx, u.Demo(), s.size.Licenses, s.size.Seats, license.PerDevice)
	if err != nil {
		return nil, err
	}
	for _, l := range taken {
		keys = append(keys, l.key)
	}
	if s.free, err = sell(ctx, u.Demo(), s.size.Sitters, s.size.Seats, license.PerDevice); err != nil {
		return nil, err
	}
	if s.large, err = sell(ctx, u.Demo(), committers, mostSeats, license.PerInstance); err != nil {
		return nil, err
	}
	alone, err := sell(ctx, u.Demo(), 1, mostSeats, license.PerDevice)
	if err != nil {
		return nil, err
	}
	s.alone = alone[0]
	for seats := 1; seats <= s.size.Most; seats *= 10 {
		made, err := sell(ctx, u.Demo(), 1, seats, license.PerDevice)
		if err != nil {
			return nil, err
		}
		s.bySeats[seats] = made[0]
	}
	return keys, nil
}

// startCloud stands in for the cloud with the keys of `make run`, whose own stand-in is gone with it.
func (s *stage) startCloud(ctx context.Context) error {
	cloud, keys, err := local.StartCloud(ctx, filepath.Join(s.dir, "local"))
	if err != nil {
		return err
	}
	s.closes = append(s.closes, cloud.Close)
	settings := s.settings
	s.settings = func(function string) map[string]string {
		all := settings(function)
		maps.Copy(all, keys)
		return all
	}
	return nil
}

// mostSeats is how many seats a licence may have.
const mostSeats = 100_000

func (s *stage) close() error {
	var errs []error
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
	return s.start(ctx, name, func(host, port string) map[string]string {
		env := map[string]string{
			// The last is how the framework knows that it is on Cloud Run.
			"HOST": host, "PORT": port, "LOG_LEVEL": "info", "K_SERVICE": name,
			"BUDGET_HOLDER_PER_SECOND": "1000000", "BUDGET_HOLDER_BURST": "1000000", "BUDGET_LICENSE_BASE": "1000000",
		}
		maps.Copy(env, s.settings(name))
		return env
	})
}

func (s *stage) startYardstick(ctx context.Context) (err error) {
	for _, script := range []string{seat.TouchScript(), seat.AcquireScript(), seat.ReleaseScript()} {
		if _, err := s.redis.Do(ctx, "SCRIPT", "LOAD", script); err != nil {
			return fmt.Errorf("load a script: %w", err)
		}
	}
	s.yardstick, err = s.start(ctx, "yardstick", func(host, port string) map[string]string {
		return map[string]string{
			"YARDSTICK_LISTEN": net.JoinHostPort(host, port), "YARDSTICK_REDIS": s.redis.Addr(),
			"YARDSTICK_POSTGRES": s.postgres.URL("postgres", localenv.Superuser) + fmt.Sprintf("&pool_max_conns=%d", committers),
		}
	})
	return err
}

// start starts a binary, which ends with the stage at the latest.
func (s *stage) start(ctx context.Context, name string, env func(host, port string) map[string]string) (*process, error) {
	s.started++
	p, err := startProcess(ctx, s.dir, name, fmt.Sprintf("%s-%d.log", name, s.started), env)
	if err == nil {
		s.closes = append(s.closes, p.stop)
	}
	return p, err
}

// sell makes licences of so many seats, one for each of per, through the API.
func sell(ctx context.Context, d local.Demo, licenses, seats int, per string) ([]sold, error) {
	operator := local.API{URL: d.BaseURL, Bearer: d.OperatorAPIKey}
	terms := map[string]any{"plan": d.Plan, "max_seats": seats, "ttl_seconds": int(lease / time.Second), "seat_per": per}
	all := make([]sold, licenses)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(8)
	for i := range all {
		group.Go(func() error {
			var made struct {
				License    struct{ ID uuid.UUID }
				LicenseKey string `json:"license_key"`
			}
			_, err := operator.Call(ctx, http.MethodPost, "/v1/licenses?tenant_id="+d.TenantID.String(), terms, &made)
			all[i] = sold{made.LicenseKey, made.License.ID}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, fmt.Errorf("make %d licences of %d seats: %w", licenses, seats, err)
	}
	return all, nil
}

// session is one that is held.
type session struct {
	token           string
	pool, id, fence string // as the yardstick is told
	seat.Ref
}

// pool names a licence's pool, as the yardstick is told.
func (s *stage) pool(l sold) string { return s.tenant.String() + "/" + l.id.String() }

// acquireRequest is that of a device, or of an instance on it.
func acquireRequest(d *door, key, hardware, instance string) *fasthttp.Request {
	q := &fasthttp.Request{}
	q.SetRequestURI(d.base + "/v1/acquire")
	q.Header.SetMethod(http.MethodPost)
	q.Header.SetContentType("application/json")
	q.SetBodyString(`{"license_key":"` + key + `","hardware_id":"` + hardware + `","instance_id":"` + instance + `","version":"1.0.0"}`)
	return q
}

// request is one without a body: a heartbeat or a release, of nobody yet.
func request(d *door, path string) *fasthttp.Request {
	q := &fasthttp.Request{}
	q.SetRequestURI(d.base + path)
	q.Header.SetMethod(http.MethodPost)
	return q
}

// bearerRequest is that of who has the token.
func bearerRequest(d *door, path, token string) *fasthttp.Request {
	q := request(d, path)
	asHolder(q, session{token: token})
	return q
}

// asHolder makes a request that of a session's holder.
func asHolder(q *fasthttp.Request, h session) { q.Header.Set("Authorization", "Bearer "+h.token) }

// asYardstick makes a request of the yardstick that of a session.
func asYardstick(q *fasthttp.Request, h session) {
	q.Header.Set("License", h.pool)
	q.Header.Set("Session", h.id)
	q.Header.Set("Fence", h.fence)
}

// take takes a seat.
func (s *stage) take(d *door, key, holder string) (session, error) {
	var r fasthttp.Response
	if err := d.send(acquireRequest(d, key, holder, ""), &r, http.StatusCreated); err != nil {
		return session{}, err
	}
	token, err := member(r.Body(), "seat_token")
	if err != nil {
		return session{}, err
	}
	claims, err := s.tokens.Verify(token)
	if err != nil {
		return session{}, err
	}
	ref := seat.Ref(claims)
	return session{token, ref.Tenant.String() + "/" + ref.License.String(), ref.Session.String(), ref.Fence().String(), ref}, nil
}

// member finds a text in an acquire's answer.
func member(answer []byte, name string) (string, error) {
	_, rest, ok := bytes.Cut(answer, []byte(`"`+name+`":"`))
	text, _, ok2 := bytes.Cut(rest, []byte{'"'})
	if !ok || !ok2 {
		return "", fmt.Errorf("no %s in %.300s", name, answer)
	}
	return string(text), nil
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
