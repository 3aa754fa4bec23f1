package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"cloud.google.com/go/firestore"
	"github.com/google/uuid"

	"github.com/coditect/usher/shared/fault"
)

// Incident is an incident as it was opened: what becomes of it is told by its entries. Its JSON is what waits for a journal that
// is out.
type Incident struct {
	ID       uuid.UUID `json:"id"`
	Severity string    `json:"severity"`
	Kind     string    `json:"kind"`
	Summary  string    `json:"summary"`
	// Scope says whom it is about: tenant_id, license_id, user_id, api_key_id, signing_key_id.
	Scope   map[string]string `json:"scope"`
	Actions []string          `json:"actions"`
	By      string            `json:"by"`
	At      time.Time         `json:"at"`
	// RespondBy is when somebody should have looked at it.
	RespondBy time.Time `json:"respond_by"`
	// Offline says that the database was out when it was opened.
	Offline bool `json:"offline"`
}

// Entry is one thing that happened to an incident. Its JSON is as Incident's.
type Entry struct {
	ID       uuid.UUID `json:"id"`
	Incident uuid.UUID `json:"incident"`
	At       time.Time `json:"at"`
	// What happened: opened, acted, failed, noted, resolved.
	What string `json:"what"`
	By   string `json:"by"`
	// Text is for people.
	Text    string            `json:"text"`
	Details map[string]string `json:"details"`
	// Opening is the incident, of the entry that opened it.
	Opening *Incident `json:"opening,omitempty"`
}

// incidentDocument and entryDocument are as Firestore keeps them: what is looked for, and the whole as JSON.
type incidentDocument struct {
	At      time.Time `firestore:"at"`
	Offline bool      `firestore:"offline"`
	Text    string    `firestore:"incident"`
}

type entryDocument struct {
	At   time.Time `firestore:"at"`
	Text string    `firestore:"entry"`
}

func incidentPath(id uuid.UUID) string { return "incidents/" + id.String() }

// WriteEntry writes an entry of an incident's timeline, and with the one that opened it the incident. Again it does nothing.
// Errors: ErrOff, fault.Unavailable.
func (j *Journal) WriteEntry(ctx context.Context, e Entry) error {
	if e.Opening != nil {
		text, err := json.Marshal(e.Opening)
		if err != nil {
			return fmt.Errorf("write incident %s: %w", e.Incident, err)
		}
		if err := j.createOnce(ctx, incidentPath(e.Incident), incidentDocument{e.Opening.At.UTC(), e.Opening.Offline, string(text)}); err != nil {
			return err
		}
	}
	text, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("write an entry of incident %s: %w", e.Incident, err)
	}
	return j.createOnce(ctx, incidentPath(e.Incident)+"/entries/"+e.ID.String(), entryDocument{e.At.UTC(), string(text)})
}

// createOnce is create, and content with a document that is there already: its name says which it is.
func (j *Journal) createOnce(ctx context.Context, path string, document any) error {
	err := j.create(ctx, path, document)
	if errors.Is(err, errExists) {
		return nil
	}
	return err
}

// ReadIncident answers an incident as it was opened. Errors: ErrOff, fault.NotFound, fault.Unavailable.
func (j *Journal) ReadIncident(ctx context.Context, id uuid.UUID) (Incident, error) {
	found, err := j.get(ctx, incidentPath(id))
	if errors.Is(err, errMissing) {
		return Incident{}, fault.NotFound("not_found", "There is no such incident.")
	}
	if err != nil {
		return Incident{}, err
	}
	return readIncident(found)
}

func readIncident(found *firestore.DocumentSnapshot) (i Incident, err error) {
	var d incidentDocument
	if err := found.DataTo(&d); err != nil {
		return Incident{}, err
	}
	return i, json.Unmarshal([]byte(d.Text), &i)
}

// OfflineIncidents answers the incidents that were opened while the database was out. Errors: ErrOff, fault.Unavailable.
func (j *Journal) OfflineIncidents(ctx context.Context) (all []Incident, err error) {
	err = j.all(ctx, "incidents", func(q firestore.Query) firestore.Query { return q.Where("offline", "==", true) }, func(found *firestore.DocumentSnapshot) error {
		i, err := readIncident(found)
		all = append(all, i)
		return err
	})
	return all, err
}

// MostEntries is how many entries of an incident are read.
const MostEntries = 1000

// Entries answers an incident's timeline, the oldest first. Errors: ErrOff, fault.Unavailable.
func (j *Journal) Entries(ctx context.Context, incident uuid.UUID) (all []Entry, err error) {
	err = j.list(ctx, incidentPath(incident)+"/entries", func(q firestore.Query) firestore.Query {
		return q.OrderBy("at", firestore.Asc).Limit(MostEntries)
	}, func(found *firestore.DocumentSnapshot) error {
		var d entryDocument
		if err := found.DataTo(&d); err != nil {
			return err
		}
		var e Entry
		if err := json.Unmarshal([]byte(d.Text), &e); err != nil {
			return err
		}
		all = append(all, e)
		return nil
	})
	return all, err
}
