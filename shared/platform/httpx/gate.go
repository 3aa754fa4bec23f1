package httpx

import (
	"context"
	"net/http"
	"net/netip"
	"slices"

	"github.com/coditect/usher/shared/fault"
)

// Gated are routes by which people and automation change something only while gate answers nil: else they answer its error, before
// anything else is decided. What only reads, and what clients, the scheduler and Stripe ask for, goes on.
func Gated(gate func(context.Context) error, routes []Route) []Route {
	gated := slices.Clone(routes)
	for i := range gated {
		r := &gated[i]
		if !r.changes() {
			continue
		}
		handle := r.Handle
		r.Handle = func(c *Call) (Reply, error) {
			if err := gate(c.Context()); err != nil {
				return Reply{}, err
			}
			return handle(c)
		}
	}
	return gated
}

// changes says whether people or automation, and nobody else, change something by the route.
func (r *Route) changes() bool {
	others := func(c Credential) bool { return c != APIKey && c != IDToken }
	return r.Method != http.MethodGet && len(r.Credentials) > 0 && !slices.ContainsFunc(r.Credentials, others)
}

// Watched are routes that tell refused, before they answer, from where a credential came that was refused with 401: of routes for people and
// automation, whose API keys and ID tokens somebody may guess or have found. Who shows none is not told of.
func Watched(refused func(context.Context, netip.Addr), routes []Route) []Route {
	watched := slices.Clone(routes)
	for i := range watched {
		r := &watched[i]
		if !slices.Contains(r.Credentials, APIKey) && !slices.Contains(r.Credentials, IDToken) {
			continue
		}
		handle := r.Handle
		r.Handle = func(c *Call) (Reply, error) {
			reply, err := handle(c)
			if f := fault.As(err); f != nil && f.Kind == fault.KindUnauthenticated {
				if _, shown := c.Bearer(); shown {
					refused(c.Context(), c.Address())
				}
			}
			return reply, err
		}
	}
	return watched
}
