package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// api is the service as administrators see it, over HTTP.
type api struct {
	service string // its URL
	key     string // an API key
	client  *http.Client
}

// The bounds of one call: of an attempt, of what is read of an answer, and of how often and how long the service is
// given to come back.
const (
	attemptTime   = 30 * time.Second
	answerSize    = 16 << 20
	attempts      = 3
	longestPause  = 5 * time.Second
	shortestPause = 200 * time.Millisecond
)

// administration is the service as the holder of the API key.
func (a *app) administration() (*api, error) {
	service, err := a.service()
	if err != nil {
		return nil, err
	}
	key := a.setting(a.apiKey, "USHER_API_KEY")
	if key == "" {
		return nil, wrong("on whose behalf? Set USHER_API_KEY, or give --api-key")
	}
	return &api{service: service, key: key, client: &http.Client{Timeout: attemptTime}}, nil
}

// problem is an answer of status 400 and above.
type problem struct {
	Status int    `json:"status"`
	Code   string `json:"code"`
	Detail string `json:"detail"`
	Errors []struct {
		Field  string `json:"field"`
		Detail string `json:"detail"`
	} `json:"errors"`
	RetryAfterSeconds int `json:"retry_after_seconds"`
}

// failure is the problem as one sentence after the other.
func (p *problem) failure() *failure {
	says := []string{p.Detail}
	for _, e := range p.Errors {
		says = append(says, fmt.Sprintf("%s: %s", e.Field, e.Detail))
	}
	exit := exitNo
	if p.Status == http.StatusTooManyRequests || p.Status >= http.StatusInternalServerError {
		exit = exitUnreachable
	}
	return &failure{exit, p.Code, fmt.Sprintf("%s (%s)", printable(strings.Join(says, " ")), p.Code)}
}

// call sends a request and answers the service's. It asks again when the service could not be reached or could not answer
// now: every call that creates something carries a key that makes it count once, and every other may be repeated.
func (s *api) call(ctx context.Context, method, path string, query url.Values, body any) (json.RawMessage, error) {
	var sent []byte
	if body != nil {
		var err error
		if sent, err = json.Marshal(body); err != nil {
			return nil, fmt.Errorf("%s %s: %w", method, path, err)
		}
	}
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	once := rand.Text()
	for attempt := 1; ; attempt++ {
		answer, pause, err := s.try(ctx, method, path, once, sent)
		if err == nil || pause == 0 || attempt == attempts || !sleep(ctx, min(pause, longestPause)) {
			return answer, err
		}
	}
}

// try is one attempt. A pause says that another may help, after so long.
func (s *api) try(ctx context.Context, method, path, once string, body []byte) (answer json.RawMessage, pause time.Duration, err error) {
	r, err := http.NewRequestWithContext(ctx, method, s.service+path, bytes.NewReader(body))
	if err != nil {
		return nil, 0, wrong("the service's URL is none that can be asked")
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if method == http.MethodPost {
		r.Header.Set("Idempotency-Key", once)
	}
	r.Header.Set("Authorization", "Bearer "+s.key)
	r.Header.Set("User-Agent", "usher/"+released)
	response, err := s.client.Do(r)
	if err != nil {
		return nil, shortestPause, s.unreachable(ctx, err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(response.Body, answerSize))
	if err != nil {
		return nil, shortestPause, s.unreachable(ctx, err)
	}
	if response.StatusCode >= http.StatusBadRequest {
		var p problem
		if err := json.Unmarshal(text, &p); err != nil || p.Code == "" {
			return nil, 0, s.stranger(response.StatusCode)
		}
		if response.StatusCode == http.StatusServiceUnavailable || response.StatusCode == http.StatusTooManyRequests {
			pause = max(shortestPause, time.Duration(p.RetryAfterSeconds)*time.Second)
		}
		return nil, pause, p.failure()
	}
	if !json.Valid(text) {
		return nil, 0, s.stranger(response.StatusCode)
	}
	return text, 0, nil
}

// unreachable says that nothing was answered. It keeps the cause, without the request's path.
func (s *api) unreachable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return interrupted
	}
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	return &failure{exitUnreachable, "unreachable", fmt.Sprintf("%s cannot be reached: %v", s.service, err)}
}

// stranger says that what answers is not Usher: a proxy, or another service.
func (s *api) stranger(status int) error {
	return &failure{exitUnreachable, "not_usher", fmt.Sprintf("%s answers with status %d, and not as Usher does: is the URL right?", s.service, status)}
}

// sleep waits, and says whether it did to the end.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
