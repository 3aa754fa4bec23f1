package deliver_test

import (
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coditect/usher/functions/all/functiontest"
	"github.com/coditect/usher/shared/identity"
	"github.com/coditect/usher/shared/platform/localenv"
	"github.com/coditect/usher/shared/platform/testenv"
)

func TestMain(m *testing.M) { functiontest.Main(m) }

// token is the scheduler's.
func (w *world) token() string {
	w.t.Helper()
	token, err := w.Scheduler.Token(map[string]any{
		"aud": functiontest.SchedulerAudience, "sub": "1", "email": functiontest.SchedulerEmail, "email_verified": true,
	}, time.Hour)
	w.must(err)
	return token
}

// The process is killed after the mail server has said that it has the mail, and before the database knows. What is promised then is
// that nothing is lost, and that what comes twice comes under one Message-ID.
func TestAKillBetweenTheServersWordAndTheCommitSendsTheMailAgainUnderTheSameMessageID(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	// When the server has the mail, its row is held, so that nobody can write down that it was sent.
	held := w.DB.Owner(t)
	taken := make(chan error, 1)
	var first sync.Once
	server, err := localenv.StartMailServer(w.mails, func(string) {
		first.Do(func() {
			_, err := held.Exec(t.Context(), `BEGIN; SELECT FROM app.mails FOR UPDATE`)
			taken <- err
		})
	})
	w.must(err)
	t.Cleanup(func() { _ = server.Close() })
	w.env["SMTP_PORT"] = server.Port()
	for variable, value := range w.env {
		w.Set(variable, value)
	}
	w.invite("zoe@example.com")
	killed := w.Start(t, "deliver")
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, killed.URL+"/tasks/deliver", strings.NewReader("{}"))
	w.must(err)
	request.Header.Set("Authorization", "Bearer "+w.token())
	request.Header.Set("Content-Type", "application/json")
	var run sync.WaitGroup
	run.Go(func() {
		if answer, err := http.DefaultClient.Do(request); err == nil {
			_ = answer.Body.Close()
			t.Errorf("the run answered %d, and was to be killed", answer.StatusCode)
		}
	})
	w.must(<-taken)
	testenv.Eventually(t, 20*time.Second, func() error { // it has the server's word, and is writing it down
		if testenv.Value[int](t, w.DB, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND usename = 'usher_deliver' AND wait_event_type = 'Lock'`) == 0 {
			return errors.New("it is not recording yet")
		}
		return nil
	})
	killed.Kill(t)
	run.Wait()
	_, err = held.Exec(t.Context(), `ROLLBACK`)
	w.must(err)

	if got := w.run(w.door(nil)); got.Mails.Sent != 0 {
		t.Errorf("it is sent again before it is due: %+v", got)
	}
	w.due()
	if got := w.run(w.door(nil)); got.Mails.Sent != 1 {
		t.Errorf("when it is due the next run did %+v", got)
	}
	w.due()
	if got := w.run(w.door(nil)); got.Mails.Sent != 0 {
		t.Errorf("the run after that did %+v", got)
	}
	all := w.sent()
	if len(all) != 2 || all[0].Header.Get("Message-Id") == "" || all[0].Header.Get("Message-Id") != all[1].Header.Get("Message-Id") {
		t.Errorf("the server has %d mails: %v", len(all), all)
	}
}

// A mail server that accepts and says nothing, and a webhook that reads and says nothing, cost a run its time, and no request any.
func TestSinksThatHangSlowNoRequestAndWhatIsAskedMeanwhileIsDeliveredOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	key := w.OperatorKey(t, identity.OperatorScopes()...)
	w.DB.Exec(t, `INSERT INTO app.users (tenant_id, id, email, role, status, issuer, subject, joined_at) VALUES ($1, gen_random_uuid(), 'boss@example.com', 'owner', 'active', 'i', 's', now())`, w.operator.UUID())
	release := make(chan struct{})
	mute, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	w.must(err)
	asked := make(chan string, 100)
	go func() {
		for {
			conn, err := mute.Accept()
			if err != nil {
				return // it is closed
			}
			asked <- "mail server"
			go func() { <-release; _ = conn.Close() }()
		}
	}()
	good := newSink(t)
	hangs := true
	var mu sync.Mutex
	receiver := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		mu.Lock()
		hung := hangs
		mu.Unlock()
		if hung {
			asked <- "webhook"
			<-release
			rw.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		good.Config.Handler.ServeHTTP(rw, r)
	}))
	let := sync.OnceFunc(func() { mu.Lock(); hangs = false; mu.Unlock(); close(release); _ = mute.Close() })
	t.Cleanup(receiver.Close)
	t.Cleanup(let)
	w.hook(w.operator, receiver.URL, "incident.*")
	door, seats := w.Incident(t), w.Seating(t)
	license := w.Seats(t, 5, time.Minute)
	open := func() string {
		t.Helper()
		reply := door.Send(t, functiontest.Message{Method: "POST", Path: "/v1/incidents", Token: key, Body: functiontest.Body{
			"severity": "P2", "kind": "drill", "summary": "A drill.", "actions": []string{},
		}})
		id, _ := reply.Want(t, http.StatusCreated).Object(t)["id"].(string)
		return id
	}
	open()

	_, port, err := net.SplitHostPort(mute.Addr().String())
	w.must(err)
	hung := w.door(map[string]string{"SMTP_PORT": port, "SMTP_TIMEOUT": "20s", "WEBHOOK_TIMEOUT": "20s"})
	run := make(chan struct{})
	token := w.token()
	go func() {
		defer close(run)
		hung.SendBare(t, functiontest.Message{Token: token})
	}()
	for got := map[string]bool{}; len(got) < 2; {
		got[<-asked] = true
	}
	// Both hang now. Whoever asks is served, and their mails and events are written.
	const many = 5
	for range many {
		id := open()
		door.Send(t, functiontest.Message{Method: "POST", Path: "/v1/incidents/" + id + "/resolve", Token: key, Body: functiontest.Body{"resolution": "It was one."}}).Want(t, http.StatusOK)
	}
	seats.Beat(t, seats.Sit(t, license, "a").SeatToken).Want(t, http.StatusOK)
	select {
	case <-run:
		t.Error("the run was over before the requests were: nothing hung")
	default:
	}
	if n := testenv.Value[int](t, w.DB, `SELECT count(*) FROM app.mails WHERE kind = 'incident' AND status = 'pending'`); n != 1+many {
		t.Errorf("%d mails wait, want %d", n, 1+many)
	}

	let()
	<-run
	for range 3 {
		w.due()
		w.run(w.door(nil))
	}
	ids := map[string]bool{}
	for _, m := range w.sent() {
		ids[m.Header.Get("Message-Id")] = true
	}
	if len(ids) != 1+many || len(w.sent()) != 1+many {
		t.Errorf("%d mails arrived, of %d Message-IDs, want %d", len(w.sent()), len(ids), 1+many)
	}
	if got := good.types(); len(got) != 1+2*many {
		t.Errorf("the webhook heard %v, want %d", got, 1+2*many)
	}
}
