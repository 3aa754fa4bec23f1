package admin

import (
	"net/http"

	"github.com/coditect/usher/shared/idempotency"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/tenancy"
)

// once answers a POST that creates something: act is done in a transaction of the tenant's and, under an
// Idempotency-Key, its answer is remembered in the same. A repetition gets that answer, and act is not called. Body is
// written by idempotency.Encode.
func (d Deps) once(c *httpx.Call, who caller, act func(tx tenancy.Tx) (status int, body any, err error)) (httpx.Reply, error) {
	request, err := requestOf(c, who)
	if err != nil {
		return httpx.Reply{}, err
	}
	return d.onceOf(c, request, act)
}

// requestOf is a POST as it may be repeated.
func requestOf(c *httpx.Call, who caller) (idempotency.Request, error) {
	key, err := idempotency.KeyOf(c.Request().Header)
	if err != nil {
		return idempotency.Request{}, err
	}
	body, err := c.Body()
	if err != nil {
		return idempotency.Request{}, err
	}
	return idempotency.Request{Tenant: who.tenant, Scope: who.By() + " POST " + c.Request().URL.Path, Key: key, Body: body}, nil
}

func (d Deps) onceOf(c *httpx.Call, request idempotency.Request, act func(tx tenancy.Tx) (status int, body any, err error)) (httpx.Reply, error) {
	var answer idempotency.Answer
	var replayed bool
	err := d.DB.As(c.Context(), request.Tenant, func(tx tenancy.Tx) (err error) {
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
