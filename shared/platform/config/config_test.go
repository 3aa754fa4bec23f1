package config_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/coditect/usher/shared/platform/config"
)

type settings struct {
	URL   config.Secret `env:"STORE_URL,required"`
	Name  string        `env:"NAME" envDefault:"usher"`
	TTL   time.Duration `env:"TTL" envDefault:"90s"`
	Seats uint16        `env:"SEATS" envDefault:"4"`
	Mode  mode          `env:"MODE" envDefault:"fast"`
	More  nested        `envPrefix:"MORE_"`
}

type nested struct {
	Seats int      `env:"SEATS"`
	Keys  []string `env:"KEYS"`
}

type mode string

func (m *mode) UnmarshalText(b []byte) error {
	if string(b) != "fast" && string(b) != "slow" {
		return fmt.Errorf("%q is no mode", b)
	}
	*m = mode(b)
	return nil
}

func from(m map[string]string) func(string) string { return func(k string) string { return m[k] } }

func TestLoadReadsWhatIsSetAndDefaultsTheRest(t *testing.T) {
	t.Parallel()
	var s settings
	err := config.Load(&s, from(map[string]string{
		"STORE_URL": "redis://u:pw@h", "TTL": "2s", "SEATS": "", "MORE_SEATS": "7", "MORE_KEYS": "a,b", "MODE": "slow",
	}))
	if err != nil {
		t.Fatal(err)
	}
	if s.URL.Reveal() != "redis://u:pw@h" || s.Name != "usher" || s.TTL != 2*time.Second || s.Seats != 4 || s.Mode != "slow" || s.More.Seats != 7 || len(s.More.Keys) != 2 {
		t.Errorf("%+v", s)
	}
}

func TestLoadNamesEveryFaultAndNoValue(t *testing.T) {
	t.Parallel()
	var s settings
	err := config.Load(&s, from(map[string]string{
		"TTL": "s3cr3t", "SEATS": "70000", "MORE_SEATS": "s3cr3t", "MODE": "s3cr3t", "NAME": "fine",
	}))
	if err == nil {
		t.Fatal("no fault was found")
	}
	var got []string
	for _, err := range err.(interface{ Unwrap() []error }).Unwrap() {
		f, ok := errors.AsType[*config.Fault](err)
		if !ok {
			t.Errorf("%v is no Fault", err)
			continue
		}
		got = append(got, f.Variable)
	}
	if want := "STORE_URL MODE MORE_SEATS SEATS TTL"; strings.Join(got, " ") != want {
		t.Errorf("named %v, want %s", got, want)
	}
	if strings.Contains(err.Error(), "s3cr3t") || strings.Contains(err.Error(), "70000") {
		t.Errorf("a value was told: %v", err)
	}
}

func TestLoadWantsAPointerToAStruct(t *testing.T) {
	t.Parallel()
	for _, cfg := range []any{nil, settings{}, new(string)} {
		if err := config.Load(cfg, from(nil)); err == nil {
			t.Errorf("loaded into %T", cfg)
		}
	}
}

func TestDefaultThatCannotBeReadIsTold(t *testing.T) {
	t.Parallel()
	var s struct {
		N int `env:"N" envDefault:"x"`
	}
	if err := config.Load(&s, from(nil)); err == nil {
		t.Error("no fault was found")
	}
}

func TestSecretIsHiddenHoweverItIsPrinted(t *testing.T) {
	t.Parallel()
	s := struct{ Key config.Secret }{"s3cr3t"}
	var b strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T"} {
		fmt.Fprintf(&b, verb+verb, s.Key, s)
	}
	fmt.Fprint(&b, s.Key.String(), s.Key.GoString(), map[config.Secret]config.Secret{s.Key: s.Key}, fmt.Errorf("x %s", s.Key))
	for _, h := range []slog.Handler{slog.NewJSONHandler(&b, nil), slog.NewTextHandler(&b, nil)} {
		slog.New(h).Info("x", "key", s.Key, "in", s, "pointer", &s)
	}
	j, err := json.Marshal(map[string]any{"a": s, "b": s.Key})
	if err != nil {
		t.Fatal(err)
	}
	b.Write(j)
	for _, trace := range []string{"s3cr3t", fmt.Sprintf("%x", "s3cr3t"), fmt.Sprintf("%X", "s3cr3t")} {
		if strings.Contains(b.String(), trace) {
			t.Errorf("told in %s", b.String())
		}
	}
	if s.Key.Reveal() != "s3cr3t" {
		t.Error("Reveal does not reveal")
	}
}
