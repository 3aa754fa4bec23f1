package admin

import (
	"net/http"

	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/idempotency"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/tenancy"
)

// once answers a POST that creates something: act is done in a transaction of the tenant's and, under an
// Idempotency-Key, its answer is remembered in the same. A repetition gets that answer, and act is not called. Body is
// written by encoding/json, so its lists must not be nil.
func (d Deps) once(c *httpx.Call, who caller, act func(tx tenancy.Tx) (status int, body any, err error)) (httpx.Reply, error) {
	request := idempotency.Request{Tenant: who.tenant, Scope: who.By() + " POST " + c.Request().URL.Path}
	var err error
	if names, given := c.Request().Header[idempotency.Header]; given {
		if len(names) != 1 {
			return httpx.Reply{}, fault.Malformed("idempotency_key_invalid", "An Idempotency-Key is sent once.")
		}
		if err := idempotency.CheckKey(names[0]); err != nil {
			return httpx.Reply{}, err
		}
		request.Key = names[0]
	}
	if request.Body, err = c.Body(); err != nil {
		return httpx.Reply{}, err
	}
	var answer idempotency.Answer
	var replayed bool
	err = d.DB.As(c.Context(), who.tenant, func(tx tenancy.Tx) (err error) {
		answer, replayed, err = idempotency.Do(c.Context(), tx, request, func() (int, any, error) { return act(tx) })
		return err
	})
	if err != nil {
		return httpx.Reply{}, err
	}
	reply := httpx.Reply{Status: answer.Status, Body: httpx.Raw(answer.Body)}
	if replayed {
		reply.Header = http.Header{idempotency.ReplayedHeader: {"true"}}
	}
	return reply, nil
}
