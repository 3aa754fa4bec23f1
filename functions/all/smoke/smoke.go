// Package smoke asks each public function one question that costs nothing and changes nothing, over HTTP, as the first thing
// that is done with a release. It knows no credential: what it is told is that nobody may do what it asks, by a function that
// had to look at its stores or its keys to say so.
package smoke

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// patience is how long one answer may take: an instance may have to start first, and its stores to be reached.
const patience = 90 * time.Second

// client stays with what it was told: a redirect is not an answer.
var client = &http.Client{
	Timeout:       patience,
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

const (
	nobody   = "Bearer nobody" // no token of any kind
	question = `{"license_key":"smoke-test","hardware_id":"smoke-test","version":"1.0.0"}`
)

// probe is a question to a function, and what it has to answer.
type probe struct {
	function     string
	method, path string
	bearer, body string
	status       int
	code         string // of the answer; empty when it has none
}

var probes = []probe{
	{"validate", "POST", "/v1/validate", "", question, 200, "not_found"},
	{"acquire", "POST", "/v1/acquire", "", question, 404, "license_not_found"},
	{"heartbeat", "POST", "/v1/heartbeat", nobody, "{}", 401, "seat_token_invalid"},
	{"release", "POST", "/v1/release", nobody, "{}", 401, "seat_token_invalid"},
	{"borrow", "POST", "/v1/borrow", nobody, `{"until":"2000-01-01T00:00:00Z"}`, 401, "seat_token_invalid"},
	{"keys", "GET", "/.well-known/jwks.json", "", "", 200, ""},
	{"register", "POST", "/v1/register", nobody, `{"organization_name":"Smoke"}`, 401, "id_token_invalid"},
	{"trial", "POST", "/v1/trial", nobody, `{"product":"smoke","hardware_id":"smoke-test"}`, 401, "id_token_invalid"},
	{"checkout", "POST", "/v1/checkout", nobody, `{"plan":"smoke","cycle":"monthly","seats":1,"success_url":"https://usher.invalid","cancel_url":"https://usher.invalid"}`, 401, "id_token_invalid"},
	{"subscription", "GET", "/v1/subscription", nobody, "", 401, "id_token_invalid"},
	{"usage", "GET", "/v1/usage", nobody, "", 401, "api_key_invalid"},
	{"webhook", "POST", "/v1/stripe/webhook", "", `{}`, 400, "signature_invalid"},
	{"incident", "GET", "/v1/incidents", nobody, "", 401, "api_key_invalid"},
	{"rotate", "POST", "/v1/signing-keys/rotate", nobody, `{"kind":"receipt"}`, 401, "api_key_invalid"},
	{"admin", "GET", "/v1/me", nobody, "", 401, "api_key_invalid"},
}

// Functions lists the functions that are asked.
func Functions() []string {
	names := make([]string, len(probes))
	for i, p := range probes {
		names[i] = p.function
	}
	return names
}

// Test asks each function at the base URL, and answers an error for each whose answer is not what it has to be.
func Test(ctx context.Context, base string) error {
	failures := make([]error, len(probes))
	done := make(chan struct{})
	for i, p := range probes {
		go func() {
			if err := p.ask(ctx, strings.TrimSuffix(base, "/")); err != nil {
				failures[i] = fmt.Errorf("%s: %w", p.function, err)
			}
			done <- struct{}{}
		}()
	}
	for range probes {
		<-done
	}
	return errors.Join(failures...)
}

func (p probe) ask(ctx context.Context, base string) error {
	request, err := http.NewRequestWithContext(ctx, p.method, base+p.path, strings.NewReader(p.body))
	if err != nil {
		return err
	}
	if p.bearer != "" {
		request.Header.Set("Authorization", p.bearer)
	}
	if p.body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return fmt.Errorf("read the answer of %s: %w", p.path, err)
	}
	var got struct {
		Code string            `json:"code"`
		Keys []json.RawMessage `json:"keys"`
	}
	err = json.NewDecoder(bytes.NewReader(body)).Decode(&got)
	switch {
	case response.StatusCode != p.status || got.Code != p.code:
		return fmt.Errorf("%s %s answered %d %q, want %d %q: %.200s", p.method, p.path, response.StatusCode, got.Code, p.status, p.code, bytes.TrimSpace(body))
	case err != nil:
		return fmt.Errorf("%s %s answered no JSON: %w", p.method, p.path, err)
	case p.function == "keys" && len(got.Keys) == 0:
		return errors.New("the key set is empty: call rotate")
	}
	return nil
}
