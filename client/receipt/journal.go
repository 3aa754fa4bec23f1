package receipt

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"time"
)

// The "typ" of what is signed to be kept outside the database, or handed to somebody outside.
const (
	TypeCheckpoint = "usher-checkpoint+jwt"
	TypeIncident   = "usher-incident+jwt"
)

// Checkpoint is a statement of what the head of a tenant's audit chain was at one time. Its JSON is its claims.
type Checkpoint struct {
	Issuer string
	// Number counts a tenant's checkpoints from 1.
	Number int64
	Tenant string
	// Seq and Hash, in hexadecimal, are those of the chain's last entry.
	Seq  int64
	Hash string
	// At is when it was so, in milliseconds once signed.
	At time.Time
}

type checkpointClaims struct {
	Issuer   string `json:"iss"`
	Tenant   string `json:"sub"`
	IssuedAt int64  `json:"iat"`
	Number   int64  `json:"number"`
	Seq      int64  `json:"seq"`
	Hash     string `json:"hash"`
	At       string `json:"at"`
}

// MarshalJSON writes the checkpoint's claims.
func (c Checkpoint) MarshalJSON() ([]byte, error) {
	return json.Marshal(checkpointClaims{
		Issuer: c.Issuer, Tenant: c.Tenant, IssuedAt: c.At.Unix(), Number: c.Number, Seq: c.Seq, Hash: c.Hash, At: c.At.UTC().Format(timeLayout),
	})
}

// UnmarshalJSON reads a checkpoint's claims.
func (c *Checkpoint) UnmarshalJSON(text []byte) error {
	var d checkpointClaims
	if err := json.Unmarshal(text, &d); err != nil {
		return err
	}
	at, err := time.Parse(timeLayout, d.At)
	switch {
	case err != nil:
		return fmt.Errorf("at is no time: %w", err)
	case at.Unix() != d.IssuedAt:
		return fmt.Errorf("iat %d is not at %s", d.IssuedAt, d.At)
	case d.Tenant == "" || d.Number < 1 || d.Seq < 1 || d.Hash == "":
		return fmt.Errorf("sub, number, seq or hash is missing")
	}
	*c = Checkpoint{Issuer: d.Issuer, Number: d.Number, Tenant: d.Tenant, Seq: d.Seq, Hash: d.Hash, At: at}
	return nil
}

// Checkpoint believes a checkpoint: a root signed it while it was in use. It does not expire.
func (v *Verifier) Checkpoint(text string) (Checkpoint, error) {
	var c Checkpoint
	signed, err := v.open(text, TypeCheckpoint, ScopeRoot, &c)
	if err == nil {
		err = v.signedAt(signed, c.At)
	}
	if err != nil {
		return Checkpoint{}, fmt.Errorf("the checkpoint is refused: %w", err)
	}
	return c, nil
}

// signedAt believes what was signed at a time by a key that was good then, and was not revoked since.
func (v *Verifier) signedAt(signed *trust, at time.Time) error {
	if err := v.Revocations.refuseKeys(signed, at); err != nil {
		return err
	}
	return signed.cover(at)
}

// IncidentFile is what is known of an incident, to be handed to somebody outside. Its JSON is its claims.
type IncidentFile struct {
	Issuer string
	// ID is the incident's.
	ID string
	// At is when it was exported, in milliseconds once signed.
	At time.Time
	// Incident and Timeline are as GET /v1/incidents/{id} answers them.
	Incident, Timeline json.RawMessage
}

type incidentClaims struct {
	Issuer   string          `json:"iss"`
	ID       string          `json:"sub"`
	IssuedAt int64           `json:"iat"`
	At       string          `json:"at"`
	Incident json.RawMessage `json:"incident"`
	Timeline json.RawMessage `json:"timeline"`
}

// MarshalJSON writes the file's claims.
func (f IncidentFile) MarshalJSON() ([]byte, error) {
	return json.Marshal(incidentClaims{
		Issuer: f.Issuer, ID: f.ID, IssuedAt: f.At.Unix(), At: f.At.UTC().Format(timeLayout), Incident: f.Incident, Timeline: f.Timeline,
	})
}

// UnmarshalJSON reads the file's claims.
func (f *IncidentFile) UnmarshalJSON(text []byte) error {
	var d incidentClaims
	if err := json.Unmarshal(text, &d); err != nil {
		return err
	}
	at, err := time.Parse(timeLayout, d.At)
	switch {
	case err != nil:
		return fmt.Errorf("at is no time: %w", err)
	case at.Unix() != d.IssuedAt || d.ID == "" || len(d.Incident) == 0 || len(d.Timeline) == 0:
		return fmt.Errorf("sub, iat, incident or timeline is missing, or contradicts another")
	}
	*f = IncidentFile{Issuer: d.Issuer, ID: d.ID, At: at, Incident: d.Incident, Timeline: d.Timeline}
	return nil
}

// incidentFileBlock is the type of an incident file's PEM block.
const incidentFileBlock = "USHER INCIDENT FILE"

// EncodeIncidentFile is the file of a compact JWS: one PEM block.
func EncodeIncidentFile(compact string) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: incidentFileBlock, Bytes: []byte(compact)})
}

// IncidentFile believes an incident file, in its PEM: a root signed it while it was in use. It does not expire.
func (v *Verifier) IncidentFile(text []byte) (IncidentFile, error) {
	compact, err := unarmour(text, incidentFileBlock)
	var f IncidentFile
	if err == nil {
		var signed *trust
		if signed, err = v.open(compact, TypeIncident, ScopeRoot, &f); err == nil {
			err = v.signedAt(signed, f.At)
		}
	}
	if err != nil {
		return IncidentFile{}, fmt.Errorf("the incident file is refused: %w", err)
	}
	return f, nil
}
