package secretmanager_test

import (
	"errors"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/coditect/usher/shared/platform/testenv"
	"github.com/coditect/usher/shared/secret/secretmanager"
)

const name = "projects/p/secrets/ring"

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestTheNewestVersionIsRead(t *testing.T) {
	t.Parallel()
	c := testenv.Cloud(t)
	s, err := secretmanager.Open(func(variable string) string {
		return map[string]string{"CLOUD_EMULATOR": c.Addr(), "SEAT_TOKEN_SECRET": name, "SECRET_MANAGER_TIMEOUT": "10s"}[variable]
	})
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })

	if _, err := s.Latest(t.Context()); !errors.Is(err, secretmanager.ErrNoVersion) {
		t.Errorf("a secret that is not there: %v", err)
	}
	if err := s.Add(t.Context(), []byte("x")); status.Code(errors.Unwrap(err)) != codes.NotFound {
		t.Errorf("adding to a secret that is not there: %v", err)
	}
	must(t, c.MakeSecret(name))
	if _, err := s.Latest(t.Context()); !errors.Is(err, secretmanager.ErrNoVersion) {
		t.Errorf("a secret without a version: %v", err)
	}
	for _, data := range []string{"first", "second"} {
		must(t, s.Add(t.Context(), []byte(data)))
		if got, err := s.Latest(t.Context()); err != nil || string(got) != data {
			t.Errorf("the newest is %q, %v", got, err)
		}
	}
	c.Corrupt("AccessSecretVersion", true)
	if _, err := s.Latest(t.Context()); err == nil || !strings.Contains(err.Error(), "mangled") {
		t.Errorf("with a wrong checksum: %v", err)
	}
}

func TestASecretHasAName(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"", "hunter2", "projects/p/secrets/", "projects/p/secrets/s/versions/1"} {
		_, err := secretmanager.Open(func(variable string) string { return map[string]string{"SEAT_TOKEN_SECRET": bad}[variable] })
		if err == nil || !strings.Contains(err.Error(), "SEAT_TOKEN_SECRET") || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
