package receipt

// Refusal is why a document is not believed. What a Verifier answers wraps one
// of them with what it saw.
type Refusal struct {
	// Code is a stable lower-case word, Reason a sentence without a full stop.
	Code, Reason string
}

// Error is the reason.
func (r *Refusal) Error() string { return r.Reason }

// The refusals.
var (
	ErrMalformed     = &Refusal{"malformed", "it is no document of this kind"}
	ErrSignature     = &Refusal{"bad_signature", "its signature is not its key's"}
	ErrUnknownKey    = &Refusal{"unknown_key", "no trusted key signed it"}
	ErrScope         = &Refusal{"wrong_scope", "its key may not sign documents of this kind"}
	ErrExpired       = &Refusal{"expired", "it has expired"}
	ErrNotYetValid   = &Refusal{"not_yet_valid", "it is from the future, or this machine's clock is wrong"}
	ErrWrongProduct  = &Refusal{"wrong_product", "it is for another product"}
	ErrWrongHardware = &Refusal{"wrong_hardware", "it is for another device"}
	ErrRevoked       = &Refusal{"revoked", "it has been revoked"}
	ErrRetiredKey    = &Refusal{"retired_key", "its key had been retired when it was signed"}
	ErrClockSetBack  = &Refusal{"clock_set_back", "this machine's clock has been set back"}
	ErrCopied        = &Refusal{"copied", "it was copied from another machine, or its seal is missing"}
	ErrOlderList     = &Refusal{"older_list", "a newer revocation list is known already"}
	ErrMissingShard  = &Refusal{"missing_shard", "the part of the revocation list that would name it has not been fetched"}
)
