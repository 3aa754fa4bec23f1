package admin

import (
	"encoding/base64"

	"github.com/google/uuid"

	"github.com/coditect/usher/shared/fault"
)

// Paging is the query of every list.
type Paging struct {
	Limit  int    `query:"limit" minimum:"1" maximum:"100" default:"20" doc:"How many to answer at most."`
	Cursor string `query:"cursor" maxLength:"64" doc:"The next_cursor of the page before."`
}

// TenantPaging is the query of a list of what a tenant has.
type TenantPaging struct {
	TenantQuery
	Paging
}

// Page is a part of a list.
type Page[T any] struct {
	Items      []T     `json:"items"`
	NextCursor *string `json:"next_cursor" doc:"Asks for the page after this one; null when there is none."`
}

// after is the id of the last thing of the page before; start when there is no such page.
func (p *Paging) after(start uuid.UUID) (uuid.UUID, error) {
	if p.Cursor == "" {
		return start, nil
	}
	id, err := base64.RawURLEncoding.Strict().DecodeString(p.Cursor)
	if err != nil || len(id) != len(uuid.UUID{}) {
		return uuid.Nil, fault.Invalid("The cursor is not valid.", fault.Field{
			Field: "cursor", Code: "bad_format", Detail: "Must be the next_cursor of the page before.",
		})
	}
	return uuid.UUID(id), nil
}

// more is how many rows to read: one more than is shown tells whether there are others.
func (p *Paging) more() int { return p.Limit + 1 }

// cut takes the further row off again, and answers the cursor of the next page if there is one.
func cut[T any](rows []T, p Paging, id func(*T) uuid.UUID) (shown []T, next *string) {
	if len(rows) <= p.Limit {
		return rows, nil
	}
	rows = rows[:p.Limit]
	return rows, cursorOf(id(&rows[len(rows)-1]))
}

// cursorOf is the cursor of the page that begins behind the id.
func cursorOf(id uuid.UUID) *string {
	cursor := base64.RawURLEncoding.EncodeToString(id[:])
	return &cursor
}

// pageOf shows the rows of a list.
func pageOf[R, T any](rows []R, p Paging, id func(*R) uuid.UUID, show func(*R) T) Page[T] {
	rows, next := cut(rows, p, id)
	page := Page[T]{Items: make([]T, len(rows)), NextCursor: next}
	for i := range rows {
		page.Items[i] = show(&rows[i])
	}
	return page
}
