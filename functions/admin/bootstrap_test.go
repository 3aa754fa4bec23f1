package admin_test

import (
	"sync"
	"testing"

	"github.com/coditect/usher/functions/admin"
	"github.com/coditect/usher/shared/identity"
	"github.com/coditect/usher/shared/platform/testenv"
)

func TestBootstrapMakesOneOperatorAndOneKey(t *testing.T) {
	t.Parallel()
	w := &world{t: t, db: testenv.Postgres(t), log: testenv.Logs(t)}
	operator := w.as("usher_operator")
	keys := identity.New(identity.Config{Peppers: w.peppers()}, operator)
	var mu sync.Mutex
	var made []string
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			key, err := admin.Bootstrap(t.Context(), operator, keys, false)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			if !key.IsZero() {
				made = append(made, key.Reveal())
			}
		})
	}
	all.Wait()
	if n := testenv.Value[int64](t, w.db, `SELECT count(*) FROM app.api_keys`); len(made) != 1 || n != 1 {
		t.Fatalf("%d keys were told, %d are stored", len(made), n)
	}
	further, err := admin.Bootstrap(t.Context(), operator, keys, true)
	w.must(err)
	who := identity.New(identity.Config{Peppers: w.peppers()}, w.as("usher_admin"))
	for _, key := range []string{made[0], further.Reveal()} {
		p, err := who.APIKey(t.Context(), key)
		w.must(err)
		if !p.Operator || len(p.Scopes) != len(identity.OperatorScopes()) || p.Tenant.UUID() != identity.OperatorID {
			t.Errorf("the key is of %+v", p)
		}
		w.log.Hides(t, key)
	}
}
