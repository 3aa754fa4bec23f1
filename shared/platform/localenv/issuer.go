package localenv

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// Issuer is a small OpenID Connect issuer: it stands in for Identity Platform and for Cloud Scheduler's identity where
// there is no cloud. It is an http.Handler that serves its discovery document and its keys, and signs tokens (RS256)
// for whoever holds the value: it has no login.
type Issuer struct {
	url    string
	key    *rsa.PrivateKey
	keyID  string
	mux    *http.ServeMux
	server *http.Server
}

// NewIssuer is an issuer named url ("http://127.0.0.1:9000") that signs with the key. Its owner serves it there.
func NewIssuer(url string, key *rsa.PrivateKey) (*Issuer, error) {
	public := jose.JSONWebKey{Key: key.Public(), Algorithm: string(jose.RS256), Use: "sig"}
	thumbprint, err := public.Thumbprint(crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("name the issuer's key: %w", err)
	}
	i := &Issuer{url: url, key: key, keyID: fmt.Sprintf("%x", thumbprint[:8]), mux: http.NewServeMux()}
	public.KeyID = i.keyID
	documents := map[string]any{
		"GET /.well-known/openid-configuration": map[string]any{
			"issuer":                                url,
			"jwks_uri":                              url + "/jwks",
			"authorization_endpoint":                url + "/authorize",
			"token_endpoint":                        url + "/token",
			"response_types_supported":              []string{"id_token"},
			"subject_types_supported":               []string{"public"},
			"id_token_signing_alg_values_supported": []string{string(jose.RS256)},
		},
		"GET /jwks": jose.JSONWebKeySet{Keys: []jose.JSONWebKey{public}},
	}
	for pattern, document := range documents {
		text, err := json.Marshal(document)
		if err != nil {
			return nil, fmt.Errorf("write the issuer's document %s: %w", pattern, err)
		}
		i.mux.HandleFunc(pattern, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write(text) // the reader has gone
		})
	}
	return i, nil
}

// StartIssuer serves an issuer on loopback, at the port or (0) at a free one. The caller stops it with Close.
func StartIssuer(ctx context.Context, port int, key *rsa.PrivateKey) (*Issuer, error) {
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return nil, fmt.Errorf("listen for the issuer: %w", err)
	}
	i, err := NewIssuer("http://"+l.Addr().String(), key)
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	i.server = &http.Server{Handler: i, ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = i.server.Serve(l) }() // always ends with an error: ErrServerClosed
	return i, nil
}

// ServeHTTP answers the discovery document and the keys.
func (i *Issuer) ServeHTTP(w http.ResponseWriter, r *http.Request) { i.mux.ServeHTTP(w, r) }

// URL is the issuer's name, the iss of its tokens.
func (i *Issuer) URL() string { return i.url }

// Token signs claims. iss, iat and exp (now + lifetime) are filled in unless the claims have them: a test may lie.
func (i *Issuer) Token(claims map[string]any, lifetime time.Duration) (string, error) {
	now := time.Now()
	full := map[string]any{"iss": i.url, "iat": now.Unix(), "exp": now.Add(lifetime).Unix()}
	maps.Copy(full, claims)
	payload, err := json.Marshal(full)
	if err != nil {
		return "", fmt.Errorf("write the claims: %w", err)
	}
	options := (&jose.SignerOptions{}).WithType("JWT").WithHeader("kid", i.keyID)
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: i.key}, options)
	if err != nil {
		return "", fmt.Errorf("prepare to sign: %w", err)
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		return "", fmt.Errorf("sign the token: %w", err)
	}
	return signed.CompactSerialize()
}

// Close stops serving.
func (i *Issuer) Close() error {
	if i.server == nil {
		return nil
	}
	return i.server.Close()
}

// NewIssuerKey makes a key for an issuer (RSA, 2048 bits).
func NewIssuerKey() (*rsa.PrivateKey, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, fmt.Errorf("make the issuer's key: %w", err)
	}
	return key, nil
}

// KeepIssuerKey reads the issuer's key from a file (PEM, PKCS #8), or makes one there: tokens outlive a restart.
func KeepIssuerKey(path string) (*rsa.PrivateKey, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return writeIssuerKey(path)
	}
	if err != nil {
		return nil, fmt.Errorf("read the issuer's key: %w", err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("read the issuer's key: %s is not PEM", path)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read the issuer's key: %w", err)
	}
	key, ok := parsed.(*rsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("read the issuer's key: %s is not an RSA key", path)
	}
	return key, nil
}

func writeIssuerKey(path string) (*rsa.PrivateKey, error) {
	key, err := NewIssuerKey()
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("write the issuer's key: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("write the issuer's key: %w", err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	if err := os.WriteFile(path, text, 0o600); err != nil {
		return nil, fmt.Errorf("write the issuer's key: %w", err)
	}
	return key, nil
}
