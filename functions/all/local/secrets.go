package local

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
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
	for variable := range secrets {
		if makers[variable] == nil { // of an earlier version
			delete(secrets, variable)
			changed = true
		}
	}
	for variable, make := range makers {
		if secrets[variable] == "" {
			secrets[variable] = make()
			changed = true
		}
	}
	if !changed {
		return secrets, nil
	}
	return secrets, writeJSON(path, secrets)
}

// makers make the secrets, by their variables.
var makers = map[string]func() string{
	"LICENSE_KEY_PEPPERS": newRing, "API_KEY_PEPPERS": newRing, "NOTIFY_KEYS": newRing, "STRIPE_WEBHOOK_SECRETS": newSigningSecret,
}

// newRing is a ring of one secret.
func newRing() string {
	secret := make([]byte, 32)
	_, _ = rand.Read(secret) // never fails
	return "1:" + base64.StdEncoding.EncodeToString(secret)
}

// newSigningSecret is what the stand-in for Stripe signs with.
func newSigningSecret() string { return "whsec_" + rand.Text() }

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
