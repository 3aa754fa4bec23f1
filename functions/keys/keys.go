// Package keys publishes what clients verify with, offline: the public keys, and what was revoked.
//
//	GET /.well-known/jwks.json       200, a JSON Web Key Set that may be cached for an hour
//	GET /v1/revocations              200, the signed revocation list
//	GET /v1/revocations?shard=N      200, that list and one of its shards, with the proof that it belongs to it
//
//	404  not_found: the list has no such shard
//	503  store_unavailable: nothing has been published yet that could be served instead
//
// It may read no private key, not even a wrapped one. A root signs the list, through Cloud KMS, when what it says has
// changed or a day has passed.
package keys

import (
	"log/slog"
	"net/http"

	"github.com/coditect/usher/client/receipt"
	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/platform/serve"
	"github.com/coditect/usher/shared/signing"
)

// Deps is what the function works with.
type Deps struct {
	Publisher *signing.Publisher
	Log       *slog.Logger
}

// KeySet documents a JSON Web Key Set (RFC 7517).
type KeySet struct {
	Keys []Key `json:"keys"`
}

// Key documents one public key.
type Key struct {
	KeyType   string   `json:"kty" enum:"EC"`
	Curve     string   `json:"crv" enum:"P-256"`
	X         string   `json:"x"`
	Y         string   `json:"y"`
	KeyID     string   `json:"kid" doc:"RFC 7638 thumbprint; receipts name it."`
	Algorithm string   `json:"alg" enum:"ES256"`
	Use       string   `json:"use" enum:"sig"`
	Chain     []string `json:"x5c,omitempty" doc:"The certificate by which a root vouches for it, base64 of DER."`
}

// ListQuery is the query of the revocation list.
type ListQuery struct {
	Shard *int `query:"shard" minimum:"0" maximum:"2147483647" doc:"One shard of the list too: the first bits of the SHA-256 of the licence id's text, as many as the list has shards."`
}

// List is the revocation list and, when one was asked for, a shard of it.
type List struct {
	List     string         `json:"list" doc:"Compact JWS, typ usher-revocations+jwt, signed by a root. It holds all that is revoked, or the root of a Merkle tree over shards."`
	Version  int64          `json:"version" doc:"Rises with every change."`
	Shard    *int           `json:"shard,omitempty" doc:"With the query shard only, as are the others."`
	Licenses []string       `json:"licenses,omitzero"`
	Sessions []string       `json:"sessions,omitzero"`
	Proof    []receipt.Hash `json:"proof,omitzero" doc:"Hashes beside the way to the root that the list names, the lowest first."`
}

// New is the function on its own.
func New(d Deps) http.Handler {
	return httpx.New(httpx.Service{Name: "keys", Version: "development", Log: d.Log}, Routes(d)...)
}

// Routes is what the function serves.
func Routes(d Deps) []httpx.Route {
	serve.Complete(d)
	return []httpx.Route{{
		Method: "GET", Path: "/.well-known/jwks.json", ID: "get_jwks", Tag: "keys",
		Summary:     "The public keys of receipts",
		Description: "A JSON Web Key Set of fewer than twenty keys. Clients may cache it for an hour.",
		Replies:     []httpx.Doc{{Status: http.StatusOK, Body: KeySet{}}},
		Handle:      d.keySet,
	}, {
		Method: "GET", Path: "/v1/revocations", ID: "get_revocations", Tag: "keys",
		Summary: "What was revoked before its time",
		Description: "The signed list of revoked keys, licences and sessions. A long one is sharded: a client asks again for the one shard " +
			"that could name its licence, and so reads about ten kilobytes however much was revoked.",
		Query:    ListQuery{},
		Replies:  []httpx.Doc{{Status: http.StatusOK, Body: List{}, Description: "With `shard`, its `licenses`, `sessions` and `proof` too."}},
		Problems: []int{http.StatusNotFound},
		Handle:   d.revocations,
	}}
}

func (d Deps) keySet(c *httpx.Call) (httpx.Reply, error) {
	set, err := d.Publisher.KeySet(c.Context())
	if err != nil {
		return httpx.Reply{}, err
	}
	return httpx.Reply{Body: httpx.Raw(set), Header: http.Header{"Cache-Control": {"max-age=3600"}}}, nil
}

func (d Deps) revocations(c *httpx.Call) (httpx.Reply, error) {
	var q ListQuery
	if err := c.DecodeQuery(&q); err != nil {
		return httpx.Reply{}, err
	}
	list, err := d.Publisher.List(c.Context())
	if err != nil {
		return httpx.Reply{}, err
	}
	header := http.Header{"Cache-Control": {"max-age=60"}}
	if q.Shard == nil {
		return httpx.Reply{Body: List{List: list.Text, Version: list.Version}, Header: header}, nil
	}
	if *q.Shard >= len(list.Shards) {
		return httpx.Reply{}, fault.NotFound("not_found", "The list has no such shard. A short list has none: it holds all entries itself.")
	}
	s := list.Shards[*q.Shard]
	return httpx.Reply{Header: header, Body: List{
		List: list.Text, Version: list.Version, Shard: &s.Number,
		Licenses: append([]string{}, s.Licenses...), Sessions: append([]string{}, s.Sessions...), Proof: append([]receipt.Hash{}, s.Proof...),
	}}, nil
}
