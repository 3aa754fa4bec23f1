package acquire_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/coditect/usher/client/receipt"
	"github.com/coditect/usher/functions/acquire"
	"github.com/coditect/usher/functions/all/functiontest"
)

// BenchmarkAcquire tells, beside what an acquire costs this process, how many times that is of what it would cost without
// the signature of its receipt.
func BenchmarkAcquire(b *testing.B) {
	w := functiontest.New(b)
	l := w.Seats(b, 100_000, time.Hour)
	d := w.AcquireDeps(b)
	handler := acquire.New(d)
	var holders atomic.Int64
	b.SetParallelism(32) // so many share a connection and a commit, as they do under load
	before := ownCPU(b)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			body, err := json.Marshal(functiontest.Ask(l, functiontest.Device(int(holders.Add(1)))))
			if err != nil {
				b.Error(err)
			}
			answer := httptest.NewRecorder()
			r := httptest.NewRequest(http.MethodPost, "/v1/acquire", bytes.NewReader(body))
			r.Header.Set("Content-Type", "application/json")
			if handler.ServeHTTP(answer, r); answer.Code != http.StatusCreated {
				b.Error(answer.Code, answer.Body)
			}
		}
	})
	whole := ownCPU(b) - before
	signer, err := d.Receipts.Current(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	now, session := time.Now(), uuid.NewString()
	before = ownCPU(b)
	for range b.N {
		_, err := signer.Sign(receipt.Receipt{
			License: l.ID.String(), Product: functiontest.Product, Tenant: w.Tenant.String(), IssuedAt: now, OfflineUntil: now.Add(time.Hour),
			Session: session, Seat: 1, HardwareHash: receipt.HashHardware("device-1"), Plan: "team",
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	signing := ownCPU(b) - before
	b.ReportMetric(float64(whole.Microseconds())/float64(b.N), "cpu-µs/op")
	b.ReportMetric(float64(whole)/float64(whole-signing), "of-unsigned")
}

// ownCPU is the user and system time of this process so far.
func ownCPU(b *testing.B) time.Duration {
	b.Helper()
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}
