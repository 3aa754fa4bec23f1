package incident

import (
	"context"

	"github.com/google/uuid"
)

// ActAgain does the actions of an incident as a run does that read them before another had done them.
func (d Deps) ActAgain(ctx context.Context, id uuid.UUID) error {
	r, err := d.read(ctx, id)
	if err != nil {
		return err
	}
	for i := range r.Actions {
		r.Actions[i].Outcome = pending
	}
	d.actAll(ctx, actor{by: r.OpenedBy, request: "again"}, &r)
	return nil
}
