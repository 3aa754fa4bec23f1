package incident_test

import (
	"maps"
	"net/http"
	"testing"
	"time"

	"github.com/coditect/usher/functions/all/functiontest"
	"github.com/coditect/usher/functions/incident"
	"github.com/coditect/usher/shared/identity"
	"github.com/coditect/usher/shared/platform/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m, nil) }

// world is a small deployment with a journal, and function incident in it.
type world struct {
	*functiontest.World
	door *functiontest.Door
	key  string // an API key of the operator
}

func newWorld(t testing.TB, o functiontest.Options) *world {
	t.Helper()
	w := &world{World: functiontest.New(t, o)}
	w.key = w.OperatorKey(t, identity.OperatorScopes()...)
	w.door = w.Incident(t)
	return w
}

// call sends a request of the operator.
func (w *world) call(t testing.TB, method, path string, body any) functiontest.Reply {
	t.Helper()
	return w.door.Send(t, functiontest.Message{Method: method, Path: path, Token: w.key, Body: body})
}

// opened opens an incident.
func (w *world) opened(t testing.TB, body functiontest.Body) incident.Incident {
	t.Helper()
	return functiontest.Read[incident.Incident](t, w.call(t, "POST", "/v1/incidents", body).Want(t, http.StatusCreated))
}

func (w *world) shown(t testing.TB, i incident.Incident) incident.Shown {
	t.Helper()
	return functiontest.Read[incident.Shown](t, w.call(t, "GET", "/v1/incidents/"+i.ID.String(), nil).Want(t, http.StatusOK))
}

// watch is what the scheduler does each minute.
func (w *world) watch(t testing.TB) incident.WatchAnswer {
	t.Helper()
	return functiontest.Read[incident.WatchAnswer](t, w.watchWith(t).Want(t, http.StatusOK))
}

func (w *world) watchWith(t testing.TB) functiontest.Reply {
	t.Helper()
	token, err := w.Scheduler.Token(map[string]any{
		"aud": functiontest.SchedulerAudience, "sub": "1", "email": functiontest.SchedulerEmail, "email_verified": true,
	}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return w.door.Send(t, functiontest.Message{Method: "POST", Path: "/tasks/watch", Token: token})
}

// person is an ID token of somebody, with claims beside the usual ones.
func (w *world) person(t testing.TB, claims map[string]any) string {
	t.Helper()
	all := map[string]any{"aud": functiontest.PeopleAudience, "sub": "op-1", "email": "op@usher.test", "email_verified": true}
	maps.Copy(all, claims)
	token, err := w.Scheduler.Token(all, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// outcomes are those of an incident's actions.
func outcomes(i incident.Incident) map[string]string {
	all := map[string]string{}
	for _, a := range i.Actions {
		all[a.Action] = a.Outcome
	}
	return all
}
