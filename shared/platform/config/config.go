// Package config reads a function's configuration from its environment, all of it at once, and keeps secrets out of
// whatever is printed.
//
// Configuration is a struct whose fields are tagged as github.com/caarlos0/env wants them, declared beside its reader:
//
//	type Config struct {
//		RedisURL config.Secret `env:"REDIS_URL,required"`
//		TTL      time.Duration `env:"SEAT_TTL" envDefault:"90s"`
//	}
//
// The package must not know what any variable means.
package config

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"reflect"
	"slices"

	"github.com/caarlos0/env/v11"
)

// Fault says what is wrong with one variable. It never tells the value.
type Fault struct {
	// Variable is the variable's name.
	Variable string
	// Problem is what is wrong with it, as the rest of a sentence: "is required and not set".
	Problem string
}

// Error returns the variable and what is wrong with it.
func (f *Fault) Error() string { return f.Variable + " " + f.Problem }

// Load fills cfg, a pointer to a struct, from the variables that getenv knows; an empty variable counts as not set. The
// error joins a [Fault] for every variable that is missing or cannot be read. What
// else must hold of the values is for their reader to say, as a [Fault] too.
func Load(cfg any, getenv func(string) string) error {
	if t := reflect.TypeOf(cfg); t == nil || t.Kind() != reflect.Pointer || t.Elem().Kind() != reflect.Struct {
		return fmt.Errorf("load the configuration: want a pointer to a struct, have %T", cfg)
	}
	params, err := env.GetFieldParams(cfg)
	if err != nil {
		return fmt.Errorf("load the configuration: %w", err)
	}
	environment := make(map[string]string, len(params))
	for _, p := range params {
		if v := getenv(p.Key); v != "" {
			environment[p.Key] = v
		}
	}
	if err := env.ParseWithOptions(cfg, env.Options{Environment: environment}); err != nil {
		return faults(cfg, environment, err)
	}
	return nil
}

// faults says what is wrong with which variable, without the values that env's own errors repeat.
func faults(cfg any, environment map[string]string, err error) error {
	var out []error
	parse := false
	for _, err := range all(err) {
		switch err := err.(type) { //nolint:errorlint // all has unwrapped them
		case env.VarIsNotSetError:
			out = append(out, &Fault{err.Key, "is required and not set"})
		case env.EmptyVarError:
			out = append(out, &Fault{err.Key, "must not be empty"})
		case env.LoadFileContentError:
			out = append(out, &Fault{err.Key, "names a file that cannot be read"})
		case env.ParseError, env.ParseValueError:
			parse = true
		default:
			out = append(out, err) // a mistake in the struct, not in a variable
		}
	}
	if !parse {
		return errors.Join(out...)
	}
	// env tells the field and not the variable; with one variable at a time there is no question which it is.
	for _, key := range slices.Sorted(maps.Keys(environment)) {
		alone := env.Options{Environment: map[string]string{key: environment[key]}}
		for _, err := range all(env.ParseWithOptions(reflect.New(reflect.TypeOf(cfg).Elem()).Interface(), alone)) {
			if e, ok := errors.AsType[env.ParseError](err); ok {
				out = append(out, &Fault{key, "is no valid " + e.Type.String()})
			}
		}
	}
	if out == nil { // then it was a default
		out = append(out, err)
	}
	return errors.Join(out...)
}

func all(err error) []error {
	if e, ok := errors.AsType[env.AggregateError](err); ok {
		return e.Errors
	}
	if err == nil {
		return nil
	}
	return []error{err}
}

// hidden is what a secret prints as.
const hidden = "[hidden]"

// Secret is a string that prints as [hidden] wherever it is printed, logged or encoded by mistake. Only as a key of a map
// would encoding/json write it out: never make it one.
type Secret string

// Reveal returns the secret itself. Whoever calls it answers for where it goes.
func (s Secret) Reveal() string { return string(s) }

// String returns [hidden].
func (Secret) String() string { return hidden }

// GoString returns [hidden].
func (Secret) GoString() string { return hidden }

// Format prints [hidden] for every verb.
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, hidden) }

// LogValue returns [hidden].
func (Secret) LogValue() slog.Value { return slog.StringValue(hidden) }

// MarshalText returns [hidden], for JSON and every other encoding.
func (Secret) MarshalText() ([]byte, error) { return []byte(hidden), nil }

// MarshalJSON returns "[hidden]".
func (Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + hidden + `"`), nil }
