// Package keys publishes the public keys with which clients verify receipts, offline.
//
//	GET /.well-known/jwks.json   200, a JSON Web Key Set that may be cached for an hour
//
// It holds no private key and asks no store.
package keys

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"

	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/platform/serve"
	"github.com/coditect/usher/shared/signing"
)

// Deps is what the function works with.
type Deps struct {
	Keys *signing.KeySet
	Log  *slog.Logger
}

// KeySet documents a JSON Web Key Set (RFC 7517).
type KeySet struct {
	Keys []Key `json:"keys"`
}

// Key documents one public key: P-256 (kty EC, with x and y) or Ed25519 (kty OKP, with x).
type Key struct {
	KeyType   string `json:"kty" enum:"EC,OKP"`
	KeyID     string `json:"kid" doc:"RFC 7638 thumbprint; receipts name it."`
	Use       string `json:"use" enum:"sig"`
	Algorithm string `json:"alg" enum:"ES256,EdDSA"`
	Curve     string `json:"crv" enum:"P-256,Ed25519"`
	X         string `json:"x"`
	Y         string `json:"y,omitempty"`
}

// New is the function on its own.
func New(d Deps) http.Handler {
	return httpx.New(httpx.Service{Name: "keys", Version: "development", Log: d.Log}, Routes(d)...)
}

// Routes is what the function serves.
func Routes(d Deps) []httpx.Route {
	serve.Complete(d)
	body, err := json.Marshal(d.Keys)
	if err != nil {
		panic(fmt.Sprintf("encode the key set: %v", err))
	}
	header := http.Header{"Cache-Control": {"max-age=3600"}}
	return []httpx.Route{{
		Method: "GET", Path: "/.well-known/jwks.json", ID: "get_jwks", Tag: "keys",
		Summary:     "The public keys of receipts",
		Description: "A JSON Web Key Set. Clients may cache it for an hour.",
		Replies:     []httpx.Doc{{Status: http.StatusOK, Body: KeySet{}}},
		Handle: func(*httpx.Call) (httpx.Reply, error) {
			return httpx.Reply{Body: httpx.Raw(body), Header: header}, nil
		},
	}}
}
