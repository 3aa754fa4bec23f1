package identity

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"

	"github.com/coditect/usher/shared/platform/config"
)

const (
	// issuerTimeout bounds a call to the issuer.
	issuerTimeout = 10 * time.Second
	// keysLife is how long the issuer's keys are believed before it is asked for them again, so that one that it has
	// withdrawn ends. While it cannot be asked they are believed on.
	keysLife = time.Hour
)

// How often the issuer is asked at most, whatever tokens are sent: each that no known key signed is a reason to ask.
const (
	issuerPerSecond = 1
	issuerBurst     = 10
)

var errTooOften = errors.New("the issuer was asked too often lately")

// issuer is an OpenID Connect issuer, whose keys are found by discovery and kept.
// It is asked when the keys are first needed, when a token names one that is not
// known, and when they are old; never more often than the limits say. It is safe
// for concurrent use.
type issuer struct {
	url    string
	client *http.Client
	now    func() time.Time

	keys   atomic.Pointer[keySet] // nil until the issuer was reached
	asking singleflight.Group
}

// keySet is the issuer's keys as they were found at one time.
type keySet struct {
	*oidc.RemoteKeySet
	where string
	since time.Time
}

func newIssuer(url string, now func() time.Time) *issuer {
	transport := &sparing{next: http.DefaultTransport, limit: rate.NewLimiter(issuerPerSecond, issuerBurst)}
	return &issuer{url: url, client: &http.Client{Timeout: issuerTimeout, Transport: transport}, now: now}
}

// checkIssuer is nil when the variable's value can be an issuer.
func checkIssuer(variable, value string) error {
	if u, err := url.Parse(value); err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return &config.Fault{Variable: variable, Problem: "is no https:// URL"}
	}
	return nil
}

// errUnreachable says that nobody can tell now whether a token is good.
var errUnreachable = errors.New("the issuer's keys cannot be had")

// verify answers a token that the issuer signed (RS256 and nothing else) for the
// audience and that has not expired. The error is errUnreachable when the keys
// cannot be had, errTooOften when no known key signed it and the issuer cannot
// be asked again yet.
func (i *issuer) verify(ctx context.Context, audience, token string) (*oidc.IDToken, error) {
	keys, err := i.keySet(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUnreachable, err)
	}
	asked := &askedKeys{keys: keys}
	verified, err := oidc.NewVerifier(i.url, asked, &oidc.Config{
		ClientID: audience, SupportedSigningAlgs: []string{oidc.RS256}, Now: i.now,
	}).Verify(ctx, token)
	switch {
	case errors.Is(asked.unreachable, errTooOften):
		return nil, asked.unreachable
	case asked.unreachable != nil:
		return nil, fmt.Errorf("%w: %w", errUnreachable, asked.unreachable)
	}
	if err == nil && i.now().Sub(keys.since) > keysLife {
		i.renew(ctx, keys, token)
	}
	return verified, err
}

// renew asks for the keys anew, on the occasion of a good token. Its next
// verification is by the new ones; when they cannot be had the old ones stay.
func (i *issuer) renew(ctx context.Context, old *keySet, token string) {
	fresh := &keySet{i.remote(old.where), old.where, i.now()}
	if _, err := fresh.VerifySignature(ctx, token); err != nil && strings.HasPrefix(err.Error(), fetching) {
		return
	}
	i.keys.CompareAndSwap(old, fresh)
}

// keySet discovers where the issuer's keys are, once it can be reached.
func (i *issuer) keySet(ctx context.Context) (*keySet, error) {
	if keys := i.keys.Load(); keys != nil {
		return keys, nil
	}
	found := i.asking.DoChan("", func() (any, error) { return nil, i.discover() })
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case answer := <-found:
		if answer.Err != nil {
			return nil, answer.Err
		}
		return i.keys.Load(), nil
	}
}

// discover asks the issuer where its keys are, on behalf of all that wait for them: the client's timeout bounds it.
func (i *issuer) discover() error {
	provider, err := oidc.NewProvider(oidc.ClientContext(context.Background(), i.client), i.url)
	if err != nil {
		return err
	}
	var where struct {
		Keys string `json:"jwks_uri"`
	}
	if err := provider.Claims(&where); err != nil {
		return err
	}
	i.keys.Store(&keySet{i.remote(where.Keys), where.Keys, i.now()})
	return nil
}

func (i *issuer) remote(where string) *oidc.RemoteKeySet {
	return oidc.NewRemoteKeySet(oidc.ClientContext(context.Background(), i.client), where)
}

// sparing spares the issuer.
type sparing struct {
	next  http.RoundTripper
	limit *rate.Limiter
}

// RoundTrip is http.RoundTripper's.
func (s *sparing) RoundTrip(r *http.Request) (*http.Response, error) {
	if !s.limit.Allow() {
		return nil, errTooOften
	}
	return s.next.RoundTrip(r)
}

// fetching begins the error of oidc.RemoteKeySet when it could not get the keys.
const fetching = "fetching keys"

// askedKeys notices, for one token, when the keys could not be had: the verifier's own error no longer tells.
type askedKeys struct {
	keys        *keySet
	unreachable error
}

// VerifySignature is oidc.KeySet's.
func (k *askedKeys) VerifySignature(ctx context.Context, jwt string) ([]byte, error) {
	payload, err := k.keys.VerifySignature(ctx, jwt)
	if err != nil && strings.HasPrefix(err.Error(), fetching) {
		k.unreachable = err
	}
	return payload, err
}
