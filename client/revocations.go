package client

import (
	"context"
	"encoding/json"
	"os"
	"strconv"

	"github.com/coditect/usher/client/internal/wholefile"
	"github.com/coditect/usher/client/receipt"
)

// refresh fetches the revocation list, with the part of it that would name a licence, and keeps it beside the receipt. What is
// kept stays when the new one cannot be had, is not believed, or is older.
func (d *drawer) refresh(ctx context.Context, l *line, license string) {
	if d.path == "" || !d.pinned {
		return
	}
	v := d.verifier
	v.Revocations = d.revocations()
	text, list, err := fetch(ctx, l, &v, "")
	if err != nil {
		return
	}
	if shard, missing := list.Missing(license); missing {
		if text, _, err = fetch(ctx, l, &v, "?shard="+strconv.Itoa(shard)); err != nil {
			return
		}
	}
	_ = wholefile.Write(d.path+receipt.RevocationsSuffix, string(text)) // what cannot be kept is fetched again
}

// fetch fetches a revocation list that the verifier believes.
func fetch(ctx context.Context, l *line, v *receipt.Verifier, query string) (json.RawMessage, *receipt.Revocations, error) {
	var text json.RawMessage
	if _, _, err := l.send(ctx, message{path: "/v1/revocations" + query}, &text); err != nil {
		return nil, nil, err
	}
	list, err := v.RevocationList(text)
	return text, list, err
}

// revocations is the list that is kept; nil when there is none that is believed.
func (d *drawer) revocations() *receipt.Revocations {
	text, err := os.ReadFile(d.path + receipt.RevocationsSuffix)
	if err != nil {
		return nil
	}
	list, err := d.verifier.KeptRevocationList(text)
	if err != nil {
		return nil
	}
	return list
}

// revocationsFor is what the kept list says that matters to a licence: of which keys it names, and of the licence itself where
// the part of the list was fetched that would name it.
func (d *drawer) revocationsFor(license string) *receipt.Revocations {
	list := d.revocations()
	if list == nil {
		return nil
	}
	if _, missing := list.Missing(license); missing {
		return &receipt.Revocations{Version: list.Version, Keys: list.Keys}
	}
	return list
}
