package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const (
	// longestAnswer is far more than the service ever says.
	longestAnswer = 1 << 20
	// longestTerm bounds a duration that was answered, so that it can be added to a time.
	longestTerm = 10 * 365 * 24 * time.Hour
)

// line leads to the service. Whatever comes back that is not the service's own word is a silence.
type line struct {
	base string
	http *http.Client
	// own says that the connections are nobody else's.
	own bool
	now func() instant
}

// newLine checks the address. A client of its own has its own connections, and hang ends them.
func newLine(base string, given *http.Client, now func() instant) (*line, error) {
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return nil, fmt.Errorf("usher: %q is not the URL of a service, such as https://usher.example.com: set %s", base, EnvURL)
	}
	l := &line{base: strings.TrimSuffix(base, "/"), now: now}
	if given != nil {
		c := *given
		l.http = &c
	} else {
		l.own = true
		l.http = &http.Client{Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, TLSHandshakeTimeout: 10 * time.Second,
			MaxIdleConns: 2, IdleConnTimeout: 30 * time.Second, MaxResponseHeaderBytes: 64 << 10,
		}}
	}
	// A credential goes to the address that was given, and nowhere else.
	l.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return l, nil
}

// hang closes the connections that nothing is asked over, so that the next question has one of its own.
func (l *line) hang() {
	if l.own {
		l.http.CloseIdleConnections()
	}
}

// message is a question.
type message struct {
	path  string
	body  []byte // JSON; nil = there is none, and it is a GET
	token string // of a seat
	key   string // Idempotency-Key
}

// send asks, reads the answer into answer, and says when the question was sent. An error is a Refusal or a silence.
func (l *line) send(ctx context.Context, m message, answer any) (status int, sent instant, err error) {
	method := http.MethodPost
	if m.body == nil {
		method = http.MethodGet
	}
	request, err := http.NewRequestWithContext(ctx, method, l.base+m.path, bytes.NewReader(m.body))
	if err != nil {
		return 0, 0, &silence{cause: err, futile: true}
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Accept", "application/json, application/problem+json")
	request.Header.Set("User-Agent", "usher-go")
	if m.token != "" {
		request.Header.Set("Authorization", "Bearer "+m.token)
	}
	if m.key != "" {
		request.Header.Set("Idempotency-Key", m.key)
	}
	sent = l.now()
	response, err := l.http.Do(request)
	if err != nil {
		l.hang() // a connection that was slept through is never heard of again
		var untrusted *tls.CertificateVerificationError
		return 0, sent, &silence{cause: err, futile: errors.As(err, &untrusted)}
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(response.Body, longestAnswer+1))
	if err != nil {
		l.hang()
		return 0, sent, &silence{cause: fmt.Errorf("its answer broke off: %w", err)}
	}
	if err := read(response, text, answer); err != nil {
		return 0, sent, err
	}
	return response.StatusCode, sent, nil
}

// read takes an answer for the service's word, or not.
func read(response *http.Response, text []byte, answer any) error {
	later := parseRetryAfter(response.Header)
	strange := func(format string, args ...any) error {
		return &silence{cause: fmt.Errorf("it answered "+strconv.Itoa(response.StatusCode)+" "+format, args...), retryAfter: later}
	}
	media, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type")) // what cannot be parsed is not ours
	switch status := response.StatusCode; {
	case len(text) > longestAnswer:
		return strange("with more than %d bytes", longestAnswer)
	case status >= 300 && status < 400:
		return strange("and wants to lead to %.200q: give the address that answers", response.Header.Get("Location"))
	case status >= 200 && status < 300 && media == "application/json":
		if err := json.Unmarshal(text, answer); err != nil {
			return strange("with JSON of another shape: %w", err)
		}
		return nil
	case status >= 400 && media == "application/problem+json":
		refusal := new(Refusal)
		if err := json.Unmarshal(text, refusal); err != nil || refusal.Code == "" {
			return strange("with a problem that has no code")
		}
		refusal.Status, refusal.RetryAfter = status, later
		if status >= 500 {
			return &silence{cause: refusal, retryAfter: later}
		}
		return refusal
	default:
		return strange("as %.60q, which is no answer of Usher's", response.Header.Get("Content-Type"))
	}
}

// parseRetryAfter reads a Retry-After of either kind; 0 = there is none.
func parseRetryAfter(h http.Header) time.Duration {
	text := h.Get("Retry-After")
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return seconds(n)
	}
	at, err := http.ParseTime(text)
	if err != nil {
		return 0
	}
	from, err := http.ParseTime(h.Get("Date"))
	if err != nil {
		return 0
	}
	return max(at.Sub(from), 0)
}

// seconds is a number of them that was answered, within reason.
func seconds(n int64) time.Duration {
	return time.Duration(min(max(n, 0), int64(longestTerm/time.Second))) * time.Second
}
