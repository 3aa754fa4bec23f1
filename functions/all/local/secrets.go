package local

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// keepSecrets reads the secrets of this machine, by the variables they stand in for, or makes what is missing: they
// outlive a restart, like the data that was hashed and signed with them.
func keepSecrets(path string) (map[string]string, error) {
	secrets := map[string]string{}
	text, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("read the secrets: %w", err)
	default:
		if err := json.Unmarshal(text, &secrets); err != nil {
			return nil, fmt.Errorf("read the secrets in %s: %w", path, err)
		}
	}
	changed := false
	for variable, make := range map[string]func() (string, error){
		"LICENSE_KEY_PEPPERS": newRing,
		"API_KEY_PEPPERS":     newRing,
		"SEAT_TOKEN_KEYS":     newRing,
		"RECEIPT_SIGNING_KEY": newSigningKey,
	} {
		if secrets[variable] != "" {
			continue
		}
		if secrets[variable], err = make(); err != nil {
			return nil, fmt.Errorf("make %s: %w", variable, err)
		}
		changed = true
	}
	if !changed {
		return secrets, nil
	}
	return secrets, writeJSON(path, secrets)
}

// newRing is a ring of one secret.
func newRing() (string, error) {
	secret := make([]byte, 32)
	_, _ = rand.Read(secret) // never fails
	return "1:" + base64.StdEncoding.EncodeToString(secret), nil
}

func newSigningKey() (string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return "", err
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), nil
}

// writeJSON writes a file that only its owner reads, in one piece.
func writeJSON(path string, value any) error {
	text, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.WriteFile(path+".new", append(text, '\n'), 0o600); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
