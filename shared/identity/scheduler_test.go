package identity_test

import (
	"context"
	"crypto"
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/identity"
	"github.com/coditect/usher/shared/platform/localenv"
	"github.com/coditect/usher/shared/platform/testenv"
)

func scheduler(issuer string) *identity.SchedulerVerifier {
	return identity.NewScheduler(identity.SchedulerConfig{Issuer: issuer, Audience: "https://sweep.example", Email: "scheduler@example.iam"}, time.Now)
}

func TestOnlyTheSchedulersTokenStartsWork(t *testing.T) {
	t.Parallel()
	issuer := testenv.Issuer(t)
	v := scheduler(issuer.URL())
	good := map[string]any{"aud": "https://sweep.example", "email": "scheduler@example.iam", "email_verified": true, "sub": "1"}
	token := func(changes map[string]any, life time.Duration) string {
		claims := map[string]any{}
		maps.Copy(claims, good)
		maps.Copy(claims, changes)
		text, err := issuer.Token(claims, life)
		must(t, err)
		return text
	}
	must(t, v.Verify(t.Context(), token(nil, time.Minute)))
	must(t, v.Verify(t.Context(), token(map[string]any{"aud": []string{"x", "https://sweep.example"}}, time.Minute)))

	key, err := localenv.NewIssuerKey()
	must(t, err)
	stranger, err := localenv.NewIssuer("https://stranger.example", key)
	must(t, err)
	strange, err := stranger.Token(good, time.Minute)
	must(t, err)
	posing, err := stranger.Token(map[string]any{"iss": issuer.URL(), "aud": good["aud"], "email": good["email"], "email_verified": true}, time.Minute)
	must(t, err)
	genuine := token(nil, time.Minute)
	for name, text := range map[string]string{
		"none":                   "",
		"no JWT":                 "hello",
		"three parts of nothing": "a.b.c",
		"another audience":       token(map[string]any{"aud": "https://acquire.example"}, time.Minute),
		"another account":        token(map[string]any{"email": "mallory@example.iam"}, time.Minute),
		"no account":             token(map[string]any{"email": ""}, time.Minute),
		"an unverified address":  token(map[string]any{"email_verified": false}, time.Minute),
		"a word for verified":    token(map[string]any{"email_verified": "true"}, time.Minute),
		"another issuer's name":  token(map[string]any{"iss": "https://accounts.google.com"}, time.Minute),
		"expired":                token(nil, -time.Minute),
		"another issuer":         strange,
		"another posing as it":   posing,
		"its signature cut":      genuine[:len(genuine)-10],
		"alg none":               unsigned(t, issuer.URL(), good),
		"HMAC by the public key": hmacByPublicKey(t, issuer, good),
	} {
		err := v.Verify(t.Context(), text)
		if f := fault.As(err); f == nil || f.Kind != fault.KindUnauthenticated || f.Code != "scheduler_token_invalid" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// unsigned is a JWT with alg none.
func unsigned(t *testing.T, issuer string, claims map[string]any) string {
	t.Helper()
	full := map[string]any{"iss": issuer, "exp": time.Now().Add(time.Minute).Unix()}
	maps.Copy(full, claims)
	payload, err := json.Marshal(full)
	must(t, err)
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: make([]byte, 32)}, nil)
	must(t, err)
	signed, err := signer.Sign(payload)
	must(t, err)
	text, err := signed.CompactSerialize()
	must(t, err)
	// {"alg":"none"}
	return "eyJhbGciOiJub25lIn0" + text[len("eyJhbGciOiJIUzI1NiJ9"):]
}

// hmacByPublicKey signs with HS256 under the published key, the classic confusion.
func hmacByPublicKey(t *testing.T, issuer *localenv.Issuer, claims map[string]any) string {
	t.Helper()
	answer := httptest.NewRecorder()
	issuer.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/jwks", nil))
	var set jose.JSONWebKeySet
	must(t, json.Unmarshal(answer.Body.Bytes(), &set))
	thumbprint, err := set.Keys[0].Thumbprint(crypto.SHA256)
	must(t, err)
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: thumbprint}, (&jose.SignerOptions{}).WithHeader("kid", set.Keys[0].KeyID))
	must(t, err)
	full := map[string]any{"iss": issuer.URL(), "exp": time.Now().Add(time.Minute).Unix()}
	maps.Copy(full, claims)
	payload, err := json.Marshal(full)
	must(t, err)
	signed, err := signer.Sign(payload)
	must(t, err)
	text, err := signed.CompactSerialize()
	must(t, err)
	return text
}

func TestAnIssuerThatIsOutIsNotTheSchedulersFault(t *testing.T) {
	t.Parallel()
	key, err := localenv.NewIssuerKey()
	must(t, err)
	var issuer *localenv.Issuer
	var out, outForKeys atomic.Bool
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if out.Load() || outForKeys.Load() && r.URL.Path == "/jwks" {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		issuer.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	issuer, err = localenv.NewIssuer(server.URL, key)
	must(t, err)
	token, err := issuer.Token(map[string]any{"aud": "https://sweep.example", "email": "scheduler@example.iam", "email_verified": true}, time.Minute)
	must(t, err)

	v := scheduler(server.URL)
	out.Store(true)
	wantFault(t, v.Verify(t.Context(), token), fault.KindUnavailable, "store_unavailable")
	out.Store(false)
	outForKeys.Store(true)
	wantFault(t, v.Verify(t.Context(), token), fault.KindUnavailable, "store_unavailable")
	outForKeys.Store(false)
	must(t, v.Verify(t.Context(), token))
	out.Store(true)
	if err := v.Verify(t.Context(), token); err != nil {
		t.Errorf("with its keys known, an issuer that is out: %v", err)
	}
}

func TestAnIssuerThatDoesNotAnswerHoldsNobodyLongerThanItsTime(t *testing.T) {
	t.Parallel()
	silent := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-silent }))
	t.Cleanup(server.Close)
	t.Cleanup(func() { close(silent) })
	v := scheduler(server.URL)
	first, stop := context.WithCancel(t.Context())
	waits := make(chan error, 1)
	go func() { waits <- v.Verify(first, "a.b.c") }()
	second, over := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer over()
	wantFault(t, v.Verify(second, "a.b.c"), fault.KindUnavailable, "store_unavailable")
	stop()
	wantFault(t, <-waits, fault.KindUnavailable, "store_unavailable")
}

func TestAStormOfForgedTokensDoesNotReachTheIssuer(t *testing.T) {
	t.Parallel()
	key, err := localenv.NewIssuerKey()
	must(t, err)
	var issuer *localenv.Issuer
	var asked atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		issuer.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	issuer, err = localenv.NewIssuer(server.URL, key)
	must(t, err)
	another, err := localenv.NewIssuerKey()
	must(t, err)
	forger, err := localenv.NewIssuer(server.URL, another)
	must(t, err)
	claims := map[string]any{"aud": "https://sweep.example", "email": "scheduler@example.iam", "email_verified": true}
	genuine, err := issuer.Token(claims, time.Hour)
	must(t, err)
	forged, err := forger.Token(claims, time.Hour)
	must(t, err)

	v := scheduler(server.URL)
	must(t, v.Verify(t.Context(), genuine))
	began := time.Now()
	for range 200 {
		wantFault(t, v.Verify(t.Context(), forged), fault.KindUnauthenticated, "scheduler_token_invalid")
	}
	must(t, v.Verify(t.Context(), genuine))
	if limit := 10 + int64(time.Since(began).Seconds()) + 1; asked.Load() > limit {
		t.Errorf("the issuer was asked %d times, want %d at most", asked.Load(), limit)
	}
}

func TestTheSchedulerIsConfigured(t *testing.T) {
	t.Parallel()
	env := map[string]string{"SCHEDULER_AUDIENCE": "https://sweep.example", "SCHEDULER_EMAIL": "scheduler@example.iam"}
	if _, err := identity.OpenScheduler(func(name string) string { return env[name] }); err != nil {
		t.Error(err)
	}
	for name := range env {
		_, err := identity.OpenScheduler(func(asked string) string {
			if asked == name {
				return ""
			}
			return env[asked]
		})
		if err == nil {
			t.Errorf("%s is not required", name)
		}
	}
}
