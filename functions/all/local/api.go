package local

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"
)

// API is the service as its callers see it, over HTTP.
type API struct {
	// URL is where the service is, such as "http://127.0.0.1:8080".
	URL string
	// Bearer is the credential of the Authorization header: an API key, a seat token or the scheduler's; "" for none.
	Bearer string
}

// As is the same service with another credential.
func (a API) As(bearer string) API { return API{a.URL, bearer} }

// Refusal is a problem document: an answer of status 400 and above.
type Refusal struct {
	Status            int    `json:"status"`
	Code              string `json:"code"`
	Detail            string `json:"detail"`
	Reason            string `json:"reason"`
	RetryAfterSeconds int    `json:"retry_after_seconds"`
}

// Error is the status, the code and the sentence.
func (r *Refusal) Error() string { return fmt.Sprintf("%d %s: %s", r.Status, r.Code, r.Detail) }

var client = &http.Client{Timeout: time.Minute}

// Call sends body as JSON, unless it is nil, decodes the answer into answer, unless that is nil, and returns the status.
// A problem document comes back as a *Refusal; every other error is of the network.
func (a API) Call(ctx context.Context, method, path string, body, answer any) (status int, err error) {
	var sent io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return 0, fmt.Errorf("%s %s: %w", method, path, err)
		}
		sent = bytes.NewReader(text)
	}
	request, err := http.NewRequestWithContext(ctx, method, a.URL+path, sent)
	if err != nil {
		return 0, err
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	if a.Bearer != "" {
		request.Header.Set("Authorization", "Bearer "+a.Bearer)
	}
	response, err := client.Do(request)
	if err != nil {
		return 0, err
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, fmt.Errorf("%s %s: %w", method, path, err)
	}
	if response.StatusCode >= http.StatusBadRequest {
		refusal := &Refusal{Status: response.StatusCode}
		if err := json.Unmarshal(text, refusal); err != nil {
			return response.StatusCode, fmt.Errorf("%s %s: %d without a problem document", method, path, response.StatusCode)
		}
		return response.StatusCode, refusal
	}
	if answer != nil {
		if err := json.Unmarshal(text, answer); err != nil {
			return response.StatusCode, fmt.Errorf("%s %s: %w", method, path, err)
		}
	}
	return response.StatusCode, nil
}
