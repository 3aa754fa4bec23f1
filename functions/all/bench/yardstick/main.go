// Command yardstick is what the functions are measured against: bare handlers of net/http that run the functions' scripts
// through go-redis, and write their rows through pgx, all as they come, and answer JSON of the same members. They are told
// licence, session and fence ready-made in headers: they have no credentials, no budgets, no log and no framework.
//
// Only `make bench` runs it. YARDSTICK_LISTEN is its address, YARDSTICK_REDIS that of Redis, YARDSTICK_POSTGRES that of
// PostgreSQL, as its superuser.
package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"log"
	"net/http"
	"os"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"

	"github.com/coditect/usher/shared/seat"
)

// answer has the members of a heartbeat's 200.
type answer struct {
	SessionID             string     `json:"session_id"`
	SeatNo                int64      `json:"seat_no"`
	ExpiresAt             time.Time  `json:"expires_at"`
	TTLSeconds            int64      `json:"ttl_seconds"`
	HeartbeatAfterSeconds int64      `json:"heartbeat_after_seconds"`
	Draining              bool       `json:"draining"`
	DrainUntil            *time.Time `json:"drain_until,omitempty"`
	ActiveSeats           int64      `json:"active_seats"`
	MaxSeats              int64      `json:"max_seats"`
}

func main() {
	rdb := redis.NewClient(&redis.Options{Addr: os.Getenv("YARDSTICK_REDIS"), PoolSize: 50})
	db, err := pgxpool.New(context.Background(), os.Getenv("YARDSTICK_POSTGRES"))
	if err != nil {
		log.Fatal(err)
	}
	signer, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		log.Fatal(err)
	}
	s := seats{rdb, db, signer}
	http.HandleFunc("GET /health", func(http.ResponseWriter, *http.Request) {})
	http.HandleFunc("POST /v1/heartbeat", func(w http.ResponseWriter, r *http.Request) {
		session := r.Header.Get("Session")
		reply, err := rdb.EvalSha(r.Context(), touch, keys(r), session, r.Header.Get("Fence"), "beat").Slice()
		if err != nil || len(reply) != 8 || reply[0] != "ok" {
			http.Error(w, "no", http.StatusInternalServerError)
			return
		}
		number := func(i int) int64 { n, _ := reply[i].(int64); return n }
		a := answer{
			SessionID: session, SeatNo: number(7), ExpiresAt: time.UnixMilli(number(1) + number(2)).UTC(),
			TTLSeconds: number(2) / 1000, HeartbeatAfterSeconds: number(2) / 3000, ActiveSeats: number(3), MaxSeats: number(4),
		}
		if drain := number(6); drain > 0 {
			until := time.UnixMilli(drain).UTC()
			a.Draining, a.DrainUntil = true, &until
		}
		write(w, http.StatusOK, a)
	})
	http.HandleFunc("POST /v1/acquire", s.acquire)
	http.HandleFunc("POST /v1/release", s.release)
	server := &http.Server{Addr: os.Getenv("YARDSTICK_LISTEN"), ReadHeaderTimeout: 10 * time.Second}
	log.Fatal(server.ListenAndServe())
}

// The names that Redis knows the scripts by.
var (
	touch   = redis.NewScript(seat.TouchScript()).Hash()
	acquire = redis.NewScript(seat.AcquireScript()).Hash()
	release = redis.NewScript(seat.ReleaseScript()).Hash()
)

// keys are those of a request's pool.
func keys(r *http.Request) []string {
	pool := "seat:{" + r.Header.Get("License") + "}:"
	return []string{
		pool + "meta", pool + "leases", pool + "sessions", pool + "freed", pool + "dirty",
		pool + "holders", pool + "tombs", pool + "ends", pool + "queue", pool + "polls",
	}
}

func write(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(body); err != nil {
		log.Print(err)
	}
}
