package notify

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"github.com/coditect/usher/shared/platform/config"
	"github.com/coditect/usher/shared/secret"
)

// KeysConfig says what notices are sealed and signed with.
type KeysConfig struct {
	// Keys is a ring: the first is in use; one that made the secret of a webhook must stay.
	Keys secret.Ring `env:"NOTIFY_KEYS,required"`
}

// Keys seal what a mail says in secret until it is sent, and make the signing secrets of webhooks. Whoever has only the database
// has neither.
type Keys struct{ ring secret.Ring }

// OpenKeys reads KeysConfig from the environment.
func OpenKeys(getenv func(string) string) (Keys, error) {
	var c KeysConfig
	err := config.Load(&c, getenv)
	return Keys{c.Keys}, err
}

// NewKeys makes Keys.
func NewKeys(ring secret.Ring) Keys { return Keys{ring} }

// InUse is the name of the key that is used for what is new.
func (k Keys) InUse() string {
	for name := range k.ring.All() {
		return name
	}
	return ""
}

// Derive makes 32 bytes for one purpose, of which the purpose is the first part, of the named key; nil when the ring lacks it.
// No part but the last may vary in length.
func (k Keys) Derive(name string, parts ...[]byte) []byte {
	for n, key := range k.ring.All() {
		if n == name {
			mac := hmac.New(sha256.New, key)
			for _, p := range parts {
				_, _ = mac.Write(p)
			}
			return mac.Sum(nil)
		}
	}
	return nil
}

const sealedPrefix = "sealed:"

// Seal encrypts a secret that a mail is to say to whom it is addressed.
func (k Keys) Seal(to, text string) (string, error) {
	name := k.InUse()
	box, err := k.box(name)
	if err != nil {
		return "", err
	}
	sealed := box.Seal(nil, nil, []byte(text), []byte(to)) //nolint:gosec // it makes its own nonce and takes none
	return sealedPrefix + name + ":" + base64.RawStdEncoding.EncodeToString(sealed), nil
}

// Unseal is the way back from Seal, for the same addressee.
func (k Keys) Unseal(to, sealed string) (string, error) {
	name, encoded, _ := strings.Cut(strings.TrimPrefix(sealed, sealedPrefix), ":")
	raw, err := base64.RawStdEncoding.DecodeString(encoded)
	if err != nil || !strings.HasPrefix(sealed, sealedPrefix) {
		return "", errors.New("it is not sealed")
	}
	box, err := k.box(name)
	if err != nil {
		return "", err
	}
	text, err := box.Open(nil, nil, raw, []byte(to))
	if err != nil {
		return "", fmt.Errorf("unseal: %w", err)
	}
	return string(text), nil
}

// box is AES-256-GCM, which makes its own nonces.
func (k Keys) box(name string) (cipher.AEAD, error) {
	key := k.Derive(name, []byte("usher-mail-1"))
	if key == nil {
		return nil, fmt.Errorf("NOTIFY_KEYS has no key %q", name)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	box, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	return box, nil
}
