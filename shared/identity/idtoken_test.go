package identity_test

import (
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/identity"
	"github.com/coditect/usher/shared/platform/localenv"
	"github.com/coditect/usher/shared/platform/testenv"
)

const project = "usher-project"

func idTokens(issuer string, now func() time.Time) *identity.IDTokens {
	return identity.NewIDTokens(identity.IDTokenConfig{Issuer: issuer, Audience: project}, now)
}

// ada is what a good token says.
func ada(changes map[string]any) map[string]any {
	claims := map[string]any{"aud": project, "sub": "ada-1", "email": "Ada@Example.com", "email_verified": true, "name": "Ada"}
	maps.Copy(claims, changes)
	return claims
}

// counted serves an issuer, counts how often it is asked, and may be turned to another.
type counted struct {
	*localenv.Issuer
	asked  atomic.Int64
	out    atomic.Bool
	serves atomic.Pointer[localenv.Issuer]
}

func countedIssuer(t *testing.T) *counted {
	t.Helper()
	c := &counted{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.asked.Add(1)
		if c.out.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		c.serves.Load().ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	c.Issuer = anotherIssuer(t, server.URL)
	c.serves.Store(c.Issuer)
	return c
}

// anotherIssuer has a key of its own, and any name.
func anotherIssuer(t *testing.T, url string) *localenv.Issuer {
	t.Helper()
	key, err := localenv.NewIssuerKey()
	must(t, err)
	issuer, err := localenv.NewIssuer(url, key)
	must(t, err)
	return issuer
}

func signed(t *testing.T, issuer *localenv.Issuer, claims map[string]any) string {
	t.Helper()
	text, err := issuer.Token(claims, time.Hour)
	must(t, err)
	return text
}

func TestAnIDTokenSaysWhoAPersonIs(t *testing.T) {
	t.Parallel()
	issuer := testenv.Issuer(t)
	v := idTokens(issuer.URL(), time.Now)
	for name, claims := range map[string]map[string]any{
		"as it is":             ada(nil),
		"several audiences":    ada(map[string]any{"aud": []string{"x", project}}),
		"a clock a bit ahead":  ada(map[string]any{"iat": time.Now().Add(30 * time.Second).Unix()}),
		"a name with a NUL":    ada(map[string]any{"name": "A\x00da"}),
		"a name that is white": ada(map[string]any{"name": "  Ada "}),
	} {
		who, err := v.Verify(t.Context(), signed(t, issuer, claims))
		if err != nil || who.Issuer != issuer.URL() || who.Subject != "ada-1" || who.Email != "ada@example.com" || who.Name != "Ada" {
			t.Errorf("%s: %+v, %v", name, who, err)
		}
	}
	who, err := v.Verify(t.Context(), signed(t, issuer, ada(map[string]any{"name": strings.Repeat("ä", 500)})))
	if err != nil || len([]rune(who.Name)) != 200 {
		t.Errorf("a long name: %d characters, %v", len([]rune(who.Name)), err)
	}
}

func TestEachBadIDTokenIsRefusedWithItsCode(t *testing.T) {
	t.Parallel()
	issuer := testenv.Issuer(t)
	v := idTokens(issuer.URL(), time.Now)
	now := time.Now().Unix()
	stranger := anotherIssuer(t, "https://stranger.example")
	poser := anotherIssuer(t, issuer.URL())
	good := signed(t, issuer, ada(nil))
	for name, c := range map[string]struct{ token, code string }{
		"nothing":                   {"", "id_token_invalid"},
		"no JWT":                    {"hello", "id_token_invalid"},
		"three parts of nothing":    {"a.b.c", "id_token_invalid"},
		"four parts":                {good + ".x", "id_token_invalid"},
		"no subject":                {signed(t, issuer, ada(map[string]any{"sub": ""})), "id_token_invalid"},
		"a long subject":            {signed(t, issuer, ada(map[string]any{"sub": strings.Repeat("x", 256)})), "id_token_invalid"},
		"no issue time":             {signed(t, issuer, ada(map[string]any{"iat": nil})), "id_token_invalid"},
		"no expiry":                 {signed(t, issuer, ada(map[string]any{"exp": nil})), "id_token_invalid"},
		"a word for verified":       {signed(t, issuer, ada(map[string]any{"email_verified": "true"})), "id_token_invalid"},
		"alg none":                  {unsigned(t, issuer.URL(), ada(map[string]any{"iat": now})), "id_token_algorithm_refused"},
		"HS256 with the public key": {hmacByPublicKey(t, issuer, ada(map[string]any{"iat": now})), "id_token_algorithm_refused"},
		"another issuer":            {signed(t, stranger, ada(nil)), "id_token_wrong_issuer"},
		"another issuer's name":     {signed(t, issuer, ada(map[string]any{"iss": "https://stranger.example"})), "id_token_wrong_issuer"},
		"another audience":          {signed(t, issuer, ada(map[string]any{"aud": "other"})), "id_token_wrong_audience"},
		"no audience":               {signed(t, issuer, ada(map[string]any{"aud": nil})), "id_token_wrong_audience"},
		"expired":                   {signed(t, issuer, ada(map[string]any{"exp": now - 1})), "id_token_expired"},
		"issued in the future":      {signed(t, issuer, ada(map[string]any{"iat": now + 120})), "id_token_not_yet_valid"},
		"not before the future":     {signed(t, issuer, ada(map[string]any{"nbf": now + 120})), "id_token_not_yet_valid"},
		"another posing as it":      {signed(t, poser, ada(nil)), "id_token_signature_invalid"},
		"its signature cut":         {good[:len(good)-10], "id_token_signature_invalid"},
		"its claims changed":        {swapped(t, good, signed(t, issuer, ada(map[string]any{"sub": "eve"}))), "id_token_signature_invalid"},
	} {
		_, err := v.Verify(t.Context(), c.token)
		if f := fault.As(err); f == nil || f.Kind != fault.KindUnauthenticated || f.Code != c.code {
			t.Errorf("%s: %v, want %s", name, err, c.code)
		}
	}
	for name, changes := range map[string]map[string]any{
		"an unverified address": {"email_verified": false},
		"no word on it":         {"email_verified": nil},
		"no address":            {"email": ""},
		"no such address":       {"email": "ada"},
		"a long one":            {"email": strings.Repeat("x", 250) + "@example.com"},
	} {
		_, err := v.Verify(t.Context(), signed(t, issuer, ada(changes)))
		if f := fault.As(err); f == nil || f.Kind != fault.KindForbidden || f.Code != "email_not_verified" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// swapped is the claims of one token under the signature of another.
func swapped(t *testing.T, signature, claims string) string {
	t.Helper()
	parts, others := strings.Split(signature, "."), strings.Split(claims, ".")
	return parts[0] + "." + others[1] + "." + parts[2]
}

func TestAStormOfUnknownKeysReachesTheIssuerSeldom(t *testing.T) {
	t.Parallel()
	issuer := countedIssuer(t)
	v := idTokens(issuer.URL(), time.Now)
	genuine := signed(t, issuer.Issuer, ada(nil))
	if _, err := v.Verify(t.Context(), genuine); err != nil || issuer.asked.Load() != 2 {
		t.Fatalf("%v, and the issuer was asked %d times, want for its document and its keys", err, issuer.asked.Load())
	}
	forger := anotherIssuer(t, issuer.URL())
	began := time.Now()
	for range 200 {
		_, err := v.Verify(t.Context(), signed(t, forger, ada(nil)))
		wantFault(t, err, fault.KindUnauthenticated, "id_token_signature_invalid")
		if _, err := v.Verify(t.Context(), genuine); err != nil {
			t.Fatalf("a good token in the storm: %v", err)
		}
	}
	if limit := 10 + int64(time.Since(began).Seconds()) + 1; issuer.asked.Load() > limit {
		t.Errorf("the issuer was asked %d times, want %d at most", issuer.asked.Load(), limit)
	}
	// Those that are refused by their own word are no reason to ask at all.
	before := issuer.asked.Load()
	for _, changes := range []map[string]any{{"iss": "https://x.example"}, {"aud": "x"}, {"exp": 1}, {"iat": time.Now().Add(time.Hour).Unix()}} {
		for range 20 {
			_, err := v.Verify(t.Context(), signed(t, forger, ada(changes)))
			if fault.As(err) == nil {
				t.Fatalf("%v: %v", changes, err)
			}
		}
	}
	if issuer.asked.Load() != before {
		t.Errorf("the issuer was asked %d times for tokens that say themselves that they are not good", issuer.asked.Load()-before)
	}
}

func TestANewKeyOfTheIssuerIsLearntAndAWithdrawnOneForgotten(t *testing.T) {
	t.Parallel()
	issuer := countedIssuer(t)
	var ahead atomic.Int64
	clock := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	v := idTokens(issuer.URL(), clock)
	forLong := func(from *localenv.Issuer) string {
		token, err := from.Token(ada(nil), 24*time.Hour)
		must(t, err)
		return token
	}
	old := forLong(issuer.Issuer)
	verify := func(token string) error { _, err := v.Verify(t.Context(), token); return err }
	must(t, verify(old))
	next := anotherIssuer(t, issuer.URL())
	issuer.serves.Store(next)
	must(t, verify(forLong(next)))

	// The issuer cannot be asked: what is known is believed on.
	ahead.Store(int64(2 * time.Hour))
	issuer.out.Store(true)
	must(t, verify(forLong(next)))
	must(t, verify(forLong(next)))
	issuer.out.Store(false)

	last := anotherIssuer(t, issuer.URL())
	issuer.serves.Store(last)
	must(t, verify(forLong(next))) // the occasion on which it is asked
	wantFault(t, verify(forLong(next)), fault.KindUnauthenticated, "id_token_signature_invalid")
	must(t, verify(forLong(last)))
}

func TestAnIssuerThatIsOutIsNotThePersonsFault(t *testing.T) {
	t.Parallel()
	issuer := countedIssuer(t)
	issuer.out.Store(true)
	v := idTokens(issuer.URL(), time.Now)
	token := signed(t, issuer.Issuer, ada(nil))
	_, err := v.Verify(t.Context(), token)
	wantFault(t, err, fault.KindUnavailable, "store_unavailable")
	issuer.out.Store(false)
	_, err = v.Verify(t.Context(), token)
	must(t, err)
}

func TestTheIssuerOfIDTokensIsConfigured(t *testing.T) {
	t.Parallel()
	env := map[string]string{"IDENTITY_ISSUER": "https://issuer.example", "IDENTITY_AUDIENCE": project}
	open := func(env map[string]string) error {
		_, err := identity.OpenIDTokens(func(name string) string { return env[name] })
		return err
	}
	must(t, open(env))
	for name := range env {
		without := maps.Clone(env)
		delete(without, name)
		if err := open(without); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("without %s: %v", name, err)
		}
	}
	env["IDENTITY_ISSUER"] = "s3cr3t"
	if err := open(env); err == nil || strings.Contains(err.Error(), "s3cr3t") {
		t.Errorf("with an issuer that is none: %v", err)
	}
}

func TestOnlyATokenOfThreePartsIsTakenForAnIDToken(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{"": false, "ush_0": false, "a.b": false, "a.b.c": true, "a.b.c.d": false} {
		if identity.IsIDToken(text) != want {
			t.Errorf("%q is taken wrongly", text)
		}
	}
}
