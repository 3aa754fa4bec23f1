package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/coditect/usher/shared/platform/config"
	"github.com/coditect/usher/shared/secret"
)

// Config says what signing secrets are made of.
type Config struct {
	// Keys is the ring WEBHOOK_KEYS: the first makes new secrets; one that made a secret which is in use must stay.
	Keys secret.Ring `env:"WEBHOOK_KEYS,required"`
}

// Secrets makes the signing secrets of webhooks. None is stored: each is derived of a key of the ring, the webhook's id and a
// number, so that who has only the database has none.
type Secrets struct{ keys secret.Ring }

// OpenSecrets reads Config from the environment.
func OpenSecrets(getenv func(string) string) (Secrets, error) {
	var c Config
	err := config.Load(&c, getenv)
	return Secrets{c.Keys}, err
}

// NewSecrets makes Secrets.
func NewSecrets(ring secret.Ring) Secrets { return Secrets{ring} }

// inUse is the name of the key that new secrets are made of.
func (s Secrets) inUse() string {
	for name := range s.keys.All() {
		return name
	}
	return ""
}

// of is a webhook's secret of a generation; nil when its key is no longer in the ring.
func (s Secrets) of(id uuid.UUID, key string, generation int) []byte {
	for name, master := range s.keys.All() {
		if name == key {
			mac := hmac.New(sha256.New, master)
			_, _ = mac.Write([]byte("usher-webhook-1"))
			_, _ = mac.Write(id[:])
			_, _ = mac.Write(binary.BigEndian.AppendUint64(nil, uint64(generation)))
			return mac.Sum(nil)
		}
	}
	return nil
}

// reveal writes a secret as Standard Webhooks does.
func reveal(key []byte) string { return "whsec_" + base64.StdEncoding.EncodeToString(key) }

// The headers of Standard Webhooks.
const (
	headerID        = "Webhook-Id"
	headerTimestamp = "Webhook-Timestamp"
	headerSignature = "Webhook-Signature"
)

// sign sets the headers of Standard Webhooks: a signature of each secret, the newest first.
func sign(h http.Header, id string, at time.Time, body []byte, secrets ...[]byte) {
	stamp := strconv.FormatInt(at.Unix(), 10)
	signatures := make([]string, 0, len(secrets))
	for _, key := range secrets {
		mac := hmac.New(sha256.New, key)
		_, _ = fmt.Fprintf(mac, "%s.%s.", id, stamp)
		_, _ = mac.Write(body)
		signatures = append(signatures, "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	}
	h.Set(headerID, id)
	h.Set(headerTimestamp, stamp)
	h.Set(headerSignature, strings.Join(signatures, " "))
}
