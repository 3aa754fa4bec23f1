package incident

import (
	"errors"
	"net/http"
	"strconv"

	"github.com/google/uuid"

	"github.com/coditect/usher/client/auditchain"
	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/identity"
	"github.com/coditect/usher/shared/journal"
	"github.com/coditect/usher/shared/platform/httpx"
)

// Checkpoint is what the head of a tenant's audit chain was at one time.
type Checkpoint struct {
	Number   int64           `json:"number" doc:"Counts a tenant's checkpoints from 1, without a gap."`
	TenantID string          `json:"tenant_id"`
	Seq      int64           `json:"seq" doc:"Of the entry that was the last."`
	Hash     auditchain.Hash `json:"hash" doc:"Of that entry, in hexadecimal."`
	At       httpx.Time      `json:"at"`
	Signed   string          `json:"signed" doc:"A compact JWS of a root that says the same: believe this, and not the other fields."`
}

// CheckpointPage is a part of a tenant's checkpoints.
type CheckpointPage struct {
	Items      []Checkpoint `json:"items"`
	NextCursor *string      `json:"next_cursor" doc:"Asks for the page after this one; null when there is none."`
}

// CheckpointQuery says whose checkpoints are asked for.
type CheckpointQuery struct {
	TenantID uuid.UUID `query:"tenant_id" doc:"Of which tenant; the operator's own when left out. It need not be in the database any more."`
	Limit    int       `query:"limit" minimum:"1" maximum:"100" default:"20" doc:"How many to answer at most."`
	Cursor   string    `query:"cursor" maxLength:"64" doc:"The next_cursor of the page before."`
}

// Checkpointed is a tenant that has checkpoints.
type Checkpointed struct {
	TenantID uuid.UUID `json:"tenant_id"`
}

// CheckpointedPage is a part of the tenants that have checkpoints.
type CheckpointedPage struct {
	Items      []Checkpointed `json:"items"`
	NextCursor *string        `json:"next_cursor" doc:"Asks for the page after this one; null when there is none."`
}

// CheckpointedQuery pages through them.
type CheckpointedQuery struct {
	Limit  int    `query:"limit" minimum:"1" maximum:"100" default:"20" doc:"How many to answer at most."`
	Cursor string `query:"cursor" maxLength:"64" doc:"The next_cursor of the page before."`
}

var errBadCursor = fault.Invalid("The cursor is not valid.", fault.Field{Field: "cursor", Code: "bad_format", Detail: "Must be the next_cursor of the page before."})

// ofJournal is an error of the journal as the caller hears it.
func ofJournal(err error) error {
	if errors.Is(err, journal.ErrOff) {
		return fault.Conflict("journal_off", "There are no checkpoints: the journal is off. Set JOURNAL_PROJECT.")
	}
	return err
}

// listCheckpoints answers what the journal has, and asks the database nothing but who asks.
func (d Deps) listCheckpoints(c *httpx.Call, _ caller) (httpx.Reply, error) {
	var q CheckpointQuery
	if err := c.DecodeQuery(&q); err != nil {
		return httpx.Reply{}, err
	}
	after := int64(0)
	if q.Cursor != "" {
		var err error
		if after, err = strconv.ParseInt(q.Cursor, 10, 64); err != nil {
			return httpx.Reply{}, errBadCursor
		}
	}
	if q.TenantID == uuid.Nil {
		q.TenantID = identity.OperatorID
	}
	points, err := d.Journal.Checkpoints(c.Context(), q.TenantID, after, q.Limit+1)
	if err != nil {
		return httpx.Reply{}, ofJournal(err)
	}
	page := CheckpointPage{Items: []Checkpoint{}}
	for i := range points {
		if i == q.Limit {
			next := strconv.FormatInt(points[i-1].Number, 10)
			page.NextCursor = &next
			break
		}
		p := &points[i]
		page.Items = append(page.Items, Checkpoint{p.Number, p.Tenant, p.Seq, p.Hash, httpx.At(p.At), p.Signed})
	}
	return httpx.Reply{Status: http.StatusOK, Body: page}, nil
}

func (d Deps) listCheckpointed(c *httpx.Call, _ caller) (httpx.Reply, error) {
	var q CheckpointedQuery
	if err := c.DecodeQuery(&q); err != nil {
		return httpx.Reply{}, err
	}
	after := uuid.Nil
	if q.Cursor != "" {
		var err error
		if after, err = uuid.Parse(q.Cursor); err != nil {
			return httpx.Reply{}, errBadCursor
		}
	}
	tenants, err := d.Journal.Chains(c.Context(), after, q.Limit+1)
	if err != nil {
		return httpx.Reply{}, ofJournal(err)
	}
	page := CheckpointedPage{Items: []Checkpointed{}}
	for i, tenant := range tenants {
		if i == q.Limit {
			next := tenants[i-1].String()
			page.NextCursor = &next
			break
		}
		page.Items = append(page.Items, Checkpointed{tenant.UUID()})
	}
	return httpx.Reply{Status: http.StatusOK, Body: page}, nil
}
