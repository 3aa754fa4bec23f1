package functiontest_test

import (
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coditect/usher/functions/acquire"
	. "github.com/coditect/usher/functions/all/functiontest"
	"github.com/coditect/usher/migrations"
	"github.com/coditect/usher/shared/platform/localenv"
	"github.com/coditect/usher/shared/platform/testenv"
)

// As in Google Cloud: accounts that IAM made users of the database, what the migrate job grants them, tokens for passwords.
func TestFunctionsThatLogInByIAMSeatAndRelease(t *testing.T) {
	t.Parallel()
	w, m := New(t, Options{Guarded: true}), testenv.Metadata(t)
	account := func(role string) string { return strings.Replace(role, "usher_", "fn-", 1) + "@usher-test.iam" }
	const token = "ya29.of-all"
	m.Hand(token, time.Hour)
	logins := migrations.Logins{}
	for _, role := range []string{"usher_acquire", "usher_heartbeat", "usher_release"} {
		w.DB.Exec(t, `create role "`+account(role)+`" login password '`+token+`'`)
		logins[account(role)] = []string{role}
	}
	if err := migrations.Grant(t.Context(), w.DB.URL(localenv.Superuser), logins, io.Discard); err != nil {
		t.Fatal(err)
	}
	l := w.Seats(t, 1, time.Minute)
	w.Set("DATABASE_IAM", "true")
	w.Set("GCE_METADATA_HOST", m.Addr())
	p := w.Moved(func(role string) string { return w.Postgres.GuardedURL(account(role)) + "&role=" + role }).StartSeating(t)

	door := p.Doors[0]
	seated := door.Sit(t, l, "laptop")
	door.Beat(t, seated.SeatToken).Want(t, 200)
	door.Leave(t, seated.SeatToken).Want(t, 200)
	next := Read[acquire.Answer](t, p.Doors[1].Acquire.Send(t, Message{Body: Ask(l, "desktop")}))
	if next.SeatToken == "" {
		t.Error("the seat that was given back is nobody's")
	}
	inside := testenv.Values[string](t, w.DB, `select distinct usename::text from pg_stat_activity where usename = any($1) order by 1`,
		[]string{account("usher_acquire"), account("usher_release"), "usher_acquire", "usher_release", "usher_heartbeat"})
	if want := []string{account("usher_acquire"), account("usher_release")}; !slices.Equal(inside, want) {
		t.Errorf("functions are logged in as %q, want %q", inside, want)
	}
	for _, process := range []*Process{p.Acquires[0], p.Acquires[1], p.Heartbeat, p.Release} {
		if strings.Contains(process.Output(), token) {
			t.Error("the token is in a log")
		}
	}
}
