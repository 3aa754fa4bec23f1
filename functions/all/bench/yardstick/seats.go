package main

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"
)

// seats takes and gives back seats as plainly as it can be done: the same scripts in the same order, the row between them in
// a transaction of its own, without the rules and policies that guard it, and a signature of the same kind.
type seats struct {
	rdb    *redis.Client
	db     *pgxpool.Pool
	signer *ecdsa.PrivateKey
}

// claims has the members of a receipt.
type claims struct {
	Version      int      `json:"version"`
	License      string   `json:"sub"`
	Product      string   `json:"aud"`
	Tenant       string   `json:"tenant"`
	IssuedAt     int64    `json:"iat"`
	OfflineUntil int64    `json:"exp"`
	Session      string   `json:"session_id"`
	Seat         int      `json:"seat_no"`
	HardwareHash string   `json:"hardware_hash"`
	Plan         string   `json:"plan"`
	Features     []string `json:"features"`
}

// taken has the members of an acquire's 201, and what the yardstick wants to be told.
type taken struct {
	SessionID             string    `json:"session_id"`
	SeatToken             string    `json:"seat_token"` // the fence
	SeatNo                int       `json:"seat_no"`
	ActiveSeats           int64     `json:"active_seats"`
	MaxSeats              int64     `json:"max_seats"`
	ExpiresAt             time.Time `json:"expires_at"`
	TTLSeconds            int64     `json:"ttl_seconds"`
	HeartbeatAfterSeconds int64     `json:"heartbeat_after_seconds"`
	Receipt               string    `json:"receipt"`
}

// request has the members of an acquire.
type request struct {
	LicenseKey string `json:"license_key"`
	HardwareID string `json:"hardware_id"`
	InstanceID string `json:"instance_id"`
	Version    string `json:"version"`
}

func (s seats) acquire(w http.ResponseWriter, r *http.Request) {
	fail := func() { http.Error(w, "no", http.StatusInternalServerError) }
	var q request
	if json.NewDecoder(r.Body).Decode(&q) != nil {
		fail()
		return
	}
	ctx, pool := r.Context(), r.Header.Get("License")
	tenant, license, _ := strings.Cut(pool, "/")
	head := "seat:{" + pool + "}:"
	holder := "instance:" + q.InstanceID + "@" + q.HardwareID
	session := uuid.Must(uuid.NewV7()).String()
	reply, err := s.rdb.EvalSha(ctx, acquire, append(keys(r), head+"demand", head+"denied"), session, holder, "", "").Slice()
	if err != nil || len(reply) < 6 || reply[0] != "seat" {
		fail()
		return
	}
	fence, _ := reply[2].(string)
	seat := int(number(reply[3]))
	epoch, counter, _ := strings.Cut(fence, ".")
	if _, err := s.db.Exec(ctx, insertRow,
		tenant, session, license, seat, number(epoch), number(counter), false, holder, q.HardwareID, q.InstanceID, q.Version); err != nil {
		fail()
		return
	}
	args := []any{session, fence, "confirm"}
	for i := 6; i < len(reply); i += 5 { // those who sat there before
		args = append(args, reply[i])
	}
	reply, err = s.rdb.EvalSha(ctx, touch, keys(r), args...).Slice()
	if err != nil || len(reply) != 8 || reply[0] != "ok" {
		fail()
		return
	}
	now, lease := number(reply[1]), number(reply[2])
	receipt, err := s.sign(claims{
		Version: 1, License: license, Product: "bench", Tenant: tenant, IssuedAt: now / 1000, OfflineUntil: (now + lease) / 1000,
		Session: session, Seat: seat, HardwareHash: q.HardwareID, Plan: "bench", Features: []string{"export"},
	})
	if err != nil {
		fail()
		return
	}
	write(w, http.StatusCreated, taken{
		SessionID: session, SeatToken: fence, SeatNo: seat, ActiveSeats: number(reply[3]), MaxSeats: number(reply[4]),
		ExpiresAt: time.UnixMilli(now + lease).UTC(), TTLSeconds: lease / 1000, HeartbeatAfterSeconds: lease / 3000, Receipt: receipt,
	})
}

const insertRow = `INSERT INTO app.open_sessions
	(tenant_id, id, license_id, seat_no, fence_epoch, fence_counter, overdraft, holder, hardware_id, instance_id, version)
	VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`

func (s seats) sign(c claims) (string, error) {
	payload, err := json.Marshal(c)
	if err != nil {
		return "", err
	}
	text := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"ES256"}`)) + "." + base64.RawURLEncoding.EncodeToString(payload)
	digest := sha256.Sum256([]byte(text))
	signature, err := ecdsa.SignASN1(rand.Reader, s.signer, digest[:])
	return text + "." + base64.RawURLEncoding.EncodeToString(signature), err
}

func (s seats) release(w http.ResponseWriter, r *http.Request) {
	session := r.Header.Get("Session")
	reply, err := s.rdb.EvalSha(r.Context(), release, keys(r), session, r.Header.Get("Fence")).Slice()
	if err == nil && len(reply) == 5 && reply[0] == "ended" {
		tenant, _, _ := strings.Cut(r.Header.Get("License"), "/")
		_, err = s.db.Exec(r.Context(), moveRow, tenant, session)
	}
	if err != nil {
		http.Error(w, "no", http.StatusInternalServerError)
		return
	}
	write(w, http.StatusOK, map[string]any{"session_id": session, "status": reply[1], "end_reason": reply[3], "ended_by": reply[4]})
}

const moveRow = `WITH gone AS (DELETE FROM app.open_sessions WHERE tenant_id = $1 AND id = $2 RETURNING *)
	INSERT INTO app.ended_sessions (tenant_id, id, license_id, seat_no, overdraft, holder, hardware_id, hostname, user_name,
		instance_id, version, metadata, acquired_at, status, end_reason, ended_by, ended_at)
	SELECT tenant_id, id, license_id, seat_no, overdraft, holder, hardware_id, hostname, user_name,
		instance_id, version, metadata, acquired_at, 'released', 'released', 'holder', now() FROM gone`

// number is an integer of Redis, which may have come as text.
func number(v any) int64 {
	switch v := v.(type) {
	case int64:
		return v
	case string:
		n, _ := strconv.ParseInt(v, 10, 64)
		return n
	default:
		return 0
	}
}
