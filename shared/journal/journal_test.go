package journal_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"cloud.google.com/go/firestore"
	"github.com/google/uuid"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/coditect/usher/shared/journal"
	"github.com/coditect/usher/shared/platform/testenv"
)

// owner is Firestore as its owner sees it, who may change what is written.
func (w *world) owner(t testing.TB) *firestore.Client {
	t.Helper()
	client, err := firestore.NewClient(context.Background(), w.firestore.Project(), option.WithEndpoint(w.firestore.Addr()),
		option.WithoutAuthentication(), option.WithGRPCDialOption(grpc.WithTransportCredentials(insecure.NewCredentials())))
	must(t, err)
	t.Cleanup(func() { _ = client.Close() })
	return client
}

func TestAJournalThatIsOffSaysSo(t *testing.T) {
	t.Parallel()
	j, err := journal.Open(t.Context(), func(string) string { return "" })
	must(t, err)
	if !j.Off() || j.Ping(t.Context()) != nil || j.Close() != nil {
		t.Error("it is not off")
	}
	if _, err := j.ReadSwitches(t.Context()); !errors.Is(err, journal.ErrOff) {
		t.Errorf("the switches of none: %v", err)
	}
	if s := j.NewCache(time.Now, testenv.Logs(t).Logger).Switches(t.Context()); s.ReadOnly || s.FreezeAdmissions {
		t.Errorf("its switches are %+v", s)
	}
	if r, err := (&journal.Checkpoints{Journal: j}).Run(t.Context()); err != nil || !r.Off {
		t.Errorf("its checkpoints: %+v, %v", r, err)
	}
}

func TestOnlyALoopbackEmulatorOutsideCloudRunIsObeyed(t *testing.T) {
	t.Parallel()
	for _, at := range []struct{ emulator, revision, says string }{
		{"127.0.0.1:8080", "", ""},
		{"127.0.0.1:8080", "incident-00001", "JOURNAL_EMULATOR must not be set on Cloud Run"},
		{"10.0.0.1:8080", "", "JOURNAL_EMULATOR is not host:port of a loopback address"},
		{"hunter2", "", "JOURNAL_EMULATOR is not host:port of a loopback address"},
	} {
		j, err := journal.Open(t.Context(), func(name string) string {
			return map[string]string{"JOURNAL_PROJECT": "usher", "JOURNAL_EMULATOR": at.emulator, "K_REVISION": at.revision}[name]
		})
		if at.says == "" {
			must(t, err)
			must(t, j.Close())
			continue
		}
		if err == nil || err.Error() != at.says {
			t.Errorf("%+v: %v", at, err)
		}
	}
}

func TestTheNewestSettingOfTheSwitchesCounts(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testenv.Firestore(t))
	ctx := t.Context()
	if s, err := w.journal.ReadSwitches(ctx); err != nil || s.Version != 0 {
		t.Fatalf("at first: %+v, %v", s, err)
	}
	// Everybody at once freezes a tenant of their own: none is lost.
	const many = 4
	var all sync.WaitGroup
	for range many {
		all.Go(func() {
			_, err := w.journal.SetSwitches(ctx, "user:1", "fire", time.Now(), func(s *journal.Switches) error {
				s.FrozenTenants = append(s.FrozenTenants, uuid.New())
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	s, err := w.journal.ReadSwitches(ctx)
	must(t, err)
	if s.Version != many || len(s.FrozenTenants) != many || s.By != "user:1" || s.Reason != "fire" {
		t.Errorf("after %d settings at once: %+v", many, s)
	}
	again, err := w.journal.SetSwitches(ctx, "user:2", "again", time.Now(), func(*journal.Switches) error { return nil })
	if err != nil || again.Version != many || again.By != "user:1" {
		t.Errorf("a setting that changes nothing: %+v, %v", again, err)
	}
	entries, err := w.owner(t).Collection("switches").Documents(ctx).GetAll()
	must(t, err)
	if len(entries) != many {
		t.Errorf("%d settings are kept, want %d: they are created and not changed", len(entries), many)
	}
}

func TestSwitchesAreKnownFiveSecondsLaterAndStayWhenTheJournalIsOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testenv.Firestore(t))
	ctx, now := t.Context(), time.Now()
	cache := w.journal.NewCache(func() time.Time { return now }, w.log.Logger)
	cache.Switches(ctx)
	_, err := w.journal.SetSwitches(ctx, "user:1", "fire", time.Now(), func(s *journal.Switches) error { s.ReadOnly = true; return nil })
	must(t, err)
	if now = now.Add(4900 * time.Millisecond); cache.Switches(ctx).ReadOnly {
		t.Error("it asked again before 5 s were over")
	}
	testenv.Eventually(t, 20*time.Second, func() error {
		if now = now.Add(5 * time.Second); !cache.Switches(ctx).ReadOnly {
			return errors.New("5 s later it does not know")
		}
		return nil
	})
	must(t, w.journal.Close())
	if now = now.Add(5 * time.Second); !cache.Switches(ctx).ReadOnly {
		t.Error("without the journal the switch is off")
	}
}

func TestNoIncidentThatWasOpenedOfflineIsForgottenHoweverManyThereAre(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testenv.Firestore(t))
	ctx := t.Context()
	const many = journal.PageSize + 1
	owner := w.owner(t)
	must(t, owner.RunTransaction(ctx, func(_ context.Context, tx *firestore.Transaction) error {
		for range many {
			id := uuid.NewString()
			if err := tx.Create(owner.Doc("incidents/"+id), map[string]any{"offline": true, "incident": `{"id": "` + id + `"}`}); err != nil {
				return err
			}
		}
		return nil
	}))
	seen := map[uuid.UUID]bool{}
	all, err := w.journal.OfflineIncidents(ctx)
	must(t, err)
	for _, i := range all {
		seen[i.ID] = true
	}
	if len(all) != many || len(seen) != many {
		t.Errorf("%d incidents are read, %d different ones, of %d", len(all), len(seen), many)
	}
}
