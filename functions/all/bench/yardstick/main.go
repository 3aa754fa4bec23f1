// Command yardstick is what heartbeats are measured against: a bare handler of net/http that runs the script of a
// heartbeat through go-redis, both as they come, and answers JSON of the same fields. It is told licence, session and
// fence ready-made in headers: it has no credentials, no budgets, no log and no framework.
//
// Only `make bench` runs it. YARDSTICK_LISTEN is its address, YARDSTICK_REDIS that of Redis.
package main

import (
	"encoding/json"
	"log"
	"net/http"
	"os"
	"time"

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
	http.HandleFunc("GET /health", func(http.ResponseWriter, *http.Request) {})
	http.HandleFunc("POST /v1/heartbeat", func(w http.ResponseWriter, r *http.Request) {
		pool := "seat:{" + r.Header.Get("License") + "}:"
		session := r.Header.Get("Session")
		keys := []string{
			pool + "meta", pool + "leases", pool + "sessions", pool + "freed", pool + "dirty",
			pool + "holders", pool + "tombs", pool + "ends", pool + "queue", pool + "polls",
		}
		reply, err := rdb.EvalSha(r.Context(), touch, keys, session, r.Header.Get("Fence"), "beat").Slice()
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
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(a); err != nil {
			log.Print(err)
		}
	})
	server := &http.Server{Addr: os.Getenv("YARDSTICK_LISTEN"), ReadHeaderTimeout: 10 * time.Second}
	log.Fatal(server.ListenAndServe())
}

// touch is the name that Redis knows the script by.
var touch = redis.NewScript(seat.TouchScript()).Hash()
