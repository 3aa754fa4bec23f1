// Package httpxtest holds handlers to the OpenAPI document that describes them: every exchange of a test is validated
// against the document, by another implementation than the one that made it.
//
// It is for tests only.
package httpxtest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"
)

// Check reads the OpenAPI document spec and returns a middleware that fails the test when an exchange does not follow
// it: an answer whose status, media type or body the document does not describe, or a request that was accepted though
// the document forbids it. The test fails at once when the document itself is not valid OpenAPI 3.1.
//
// A handler of a single operation answers it at "/" too, which the document does not say and Check knows.
func Check(t testing.TB, spec []byte) func(http.Handler) http.Handler {
	t.Helper()
	d, err := load(spec)
	if err != nil {
		t.Fatalf("the OpenAPI document is not valid: %v", err)
	}
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if err := d.exchange(next, w, r); err != nil {
				t.Errorf("%s %s does not follow the OpenAPI document: %v", r.Method, r.URL.Path, err)
			}
		})
	}
}

// The validator reads no media type it was not told of.
func init() {
	openapi3filter.RegisterBodyDecoder("application/jwk-set+json", openapi3filter.JSONBodyDecoder)
}

// document is an OpenAPI document and its way from a request to an operation.
type document struct {
	router routers.Router
	only   string // the path of the one operation beside /health, or "" when there are several
}

// known are the documents that this process has read; with the race detector, reading one takes seconds.
var known sync.Map // text → func() (*document, error)

func load(spec []byte) (*document, error) {
	read, _ := known.LoadOrStore(string(spec), sync.OnceValues(func() (*document, error) { return read(spec) }))
	return read.(func() (*document, error))()
}

func read(spec []byte) (*document, error) {
	// The loader's own reader takes everything for YAML, which takes ten times as long.
	doc := &openapi3.T{}
	if err := json.Unmarshal(spec, doc); err != nil {
		return nil, err
	}
	if err := openapi3.NewLoader().ResolveRefsIn(doc, nil); err != nil {
		return nil, err
	}
	if doc.OpenAPI != "3.1.0" {
		return nil, fmt.Errorf("its version is %q, want 3.1.0", doc.OpenAPI)
	}
	if err := doc.Validate(context.Background()); err != nil {
		return nil, err
	}
	router, err := gorillamux.NewRouter(doc)
	if err != nil {
		return nil, err
	}
	d := &document{router: router}
	operations := 0
	for path, item := range doc.Paths.Map() {
		if !strings.HasPrefix(path, "/health") {
			operations += len(item.Operations())
			d.only = path
		}
	}
	if operations != 1 {
		d.only = ""
	}
	return d, nil
}

// exchange serves the request, passes the answer on, and says what about the two the document does not describe.
func (d *document) exchange(next http.Handler, w http.ResponseWriter, r *http.Request) error {
	var sent []byte
	if r.Body != nil {
		var err error
		if sent, err = io.ReadAll(r.Body); err != nil {
			return fmt.Errorf("read the request: %w", err)
		}
		if r.Body != http.NoBody {
			r.Body = io.NopCloser(bytes.NewReader(sent))
		}
	}
	asked := r.Clone(context.WithoutCancel(r.Context()))
	answer := httptest.NewRecorder()
	next.ServeHTTP(answer, r)
	maps.Copy(w.Header(), answer.Header())
	w.WriteHeader(answer.Code)
	if answer.Body.Len() > 0 {
		if _, err := w.Write(answer.Body.Bytes()); err != nil {
			return fmt.Errorf("pass the answer on: %w", err)
		}
	}
	return d.follows(asked, sent, answer)
}

func (d *document) follows(asked *http.Request, sent []byte, answer *httptest.ResponseRecorder) error {
	if asked.URL.Path == "/" && d.only != "" {
		asked.URL.Path = d.only
	}
	if asked.Method == http.MethodHead { // is described by GET, and answered without a body
		return nil
	}
	asked.Body = io.NopCloser(bytes.NewReader(sent))
	route, params, err := d.router.FindRoute(asked)
	if err != nil {
		if answer.Code == http.StatusNotFound || answer.Code == http.StatusMethodNotAllowed {
			return nil
		}
		return fmt.Errorf("the document has no such operation, and the answer was %d", answer.Code)
	}
	request := &openapi3filter.RequestValidationInput{
		Request: asked, PathParams: params, Route: route,
		Options: &openapi3filter.Options{
			AuthenticationFunc:    openapi3filter.NoopAuthenticationFunc,
			IncludeResponseStatus: true,
			MultiError:            true,
			SkipSettingDefaults:   true,
		},
	}
	if answer.Code < 300 {
		if err := openapi3filter.ValidateRequest(context.Background(), request); err != nil {
			return fmt.Errorf("the request was accepted (%d): %w", answer.Code, err)
		}
	}
	response := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: request, Status: answer.Code, Header: answer.Header(), Options: request.Options,
	}
	documented := route.Operation.Responses.Status(answer.Code)
	if documented != nil && len(documented.Value.Content) == 0 {
		if answer.Body.Len() > 0 {
			return fmt.Errorf("the answer %d has a body, and the document describes none", answer.Code)
		}
		return nil
	}
	response.SetBodyBytes(answer.Body.Bytes())
	if err := openapi3filter.ValidateResponse(context.Background(), response); err != nil {
		return fmt.Errorf("the answer was %d: %w", answer.Code, err)
	}
	return nil
}
