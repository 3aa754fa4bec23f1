package stripesim

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"slices"
	"time"
)

// Deliver sends events to the webhook until the context is over, each until it is taken: 200. It is for one goroutine.
// Each second it does what has fallen due.
func (s *Sim) Deliver(ctx context.Context) {
	client := &http.Client{Timeout: 20 * time.Second}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		for _, d := range s.due() {
			if !s.send(ctx, client, d.Event) {
				s.again(d)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-s.pending:
		case <-tick.C:
			s.Tick()
		}
	}
}

// due takes from the queue what is to be sent now.
func (s *Sim) due() []delivery {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now().UnixMilli()
	var due []delivery
	s.st.Queue = slices.DeleteFunc(s.st.Queue, func(d delivery) bool {
		if d.At <= now {
			due = append(due, d)
			return true
		}
		return false
	})
	return due
}

// again puts a delivery back, later each time.
func (s *Sim) again(d delivery) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d.Attempts++
	wait := min(time.Duration(d.Attempts)*time.Second, time.Minute)
	d.At = time.Now().Add(wait).UnixMilli()
	s.st.Queue = append(s.st.Queue, d)
	s.save()
}

func (s *Sim) send(ctx context.Context, client *http.Client, event string) bool {
	payload := s.Payload(event, Version)
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.options.Webhook, bytes.NewReader(payload))
	if err != nil {
		return false
	}
	r.Header.Set("Content-Type", "application/json; charset=utf-8")
	r.Header.Set("Stripe-Signature", Sign(payload, time.Now(), s.options.Secret))
	response, err := client.Do(r)
	if err != nil {
		return false
	}
	_, _ = io.Copy(io.Discard, response.Body)
	_ = response.Body.Close()
	if response.StatusCode == http.StatusOK {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.save()
		return true
	}
	return false
}
