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

	"github.com/coditect/usher/shared/notify"
)

// secretOf is a webhook's signing secret of a generation; nil when its key is no longer in the ring. None is stored: each is
// derived of a key, the webhook's id and a number.
func secretOf(k notify.Keys, id uuid.UUID, key string, generation int) []byte {
	return k.Derive(key, []byte("usher-webhook-1"), id[:], binary.BigEndian.AppendUint64(nil, uint64(generation)))
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
