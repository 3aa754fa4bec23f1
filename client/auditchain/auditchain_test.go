package auditchain_test

import (
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coditect/usher/client/auditchain"
)

const tenant = "01890a5d-ac96-774b-bcce-b302099a8057"

// chainOf is a chain of so many entries, whole.
func chainOf(n int) (auditchain.Chain, []auditchain.Entry) {
	chain := auditchain.Chain{Tenant: tenant}
	var all []auditchain.Entry
	for i := range n {
		e := auditchain.Entry{
			Seq: int64(i + 1), At: time.UnixMilli(1_700_000_000_000 + int64(i)), Action: "license.suspended", Outcome: "done",
			Actor: "api_key:1", Subject: "license:1", Details: map[string]string{"reason": "unpaid", "amount": "12"},
			Previous: chain.Head.Hash,
		}
		e.Hash = auditchain.Sum(tenant, &e)
		chain.Head = auditchain.Link{Seq: e.Seq, Hash: e.Hash}
		all = append(all, e)
	}
	return chain, all
}

func stream(all []auditchain.Entry) iter.Seq2[auditchain.Entry, error] {
	return func(yield func(auditchain.Entry, error) bool) {
		for _, e := range all {
			if !yield(e, nil) {
				return
			}
		}
	}
}

func verify(t *testing.T, chain auditchain.Chain, all []auditchain.Entry) string {
	t.Helper()
	result, err := auditchain.Verify(chain, stream(all))
	if err != nil {
		t.Fatal(err)
	}
	if result.Entries != int64(len(all)) {
		t.Errorf("%d entries were read, want %d", result.Entries, len(all))
	}
	var problems []string
	for _, p := range result.Problems {
		problems = append(problems, p.String())
	}
	return strings.Join(problems, "; ")
}

func TestAWholeChainHasNoProblems(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, 2, 50} {
		chain, all := chainOf(n)
		if got := verify(t, chain, all); got != "" {
			t.Errorf("of %d entries: %s", n, got)
		}
	}
}

func TestWhateverIsDoneToAnEntryNamesIt(t *testing.T) {
	t.Parallel()
	rehash := func(e *auditchain.Entry) { e.Hash = auditchain.Sum(tenant, e) }
	for _, n := range []int64{1, 5, 9, 10} { // the first, within, the last but one, the last
		at := int(n) - 1
		for _, done := range []struct {
			what string
			do   func([]auditchain.Entry) []auditchain.Entry
			want string
		}{
			{"the actor is another", func(all []auditchain.Entry) []auditchain.Entry { all[at].Actor = "api_key:2"; return all }, "entry %d was altered"},
			{"the time is another", func(all []auditchain.Entry) []auditchain.Entry {
				all[at].At = all[at].At.Add(time.Millisecond)
				return all
			}, "entry %d was altered"},
			{"a detail is another", func(all []auditchain.Entry) []auditchain.Entry {
				all[at].Details = map[string]string{"reason": "unpaid", "amount": "1"}
				return all
			}, "entry %d was altered"},
			{"a detail moved to its name", func(all []auditchain.Entry) []auditchain.Entry {
				all[at].Details = map[string]string{"reason": "unpaid", "amount1": "2"}
				return all
			}, "entry %d was altered"},
			{"it is hashed anew", func(all []auditchain.Entry) []auditchain.Entry {
				all[at].ByOperator = true
				rehash(&all[at])
				return all
			}, "entry %d was altered"},
			{"its hash is another", func(all []auditchain.Entry) []auditchain.Entry { all[at].Hash[0]++; return all }, "entry %d was altered"},
			{"what it follows is another", func(all []auditchain.Entry) []auditchain.Entry { all[at].Previous[0]++; return all }, "entry %d was altered"},
			{"it is dropped", func(all []auditchain.Entry) []auditchain.Entry { return slices.Delete(all, at, at+1) }, "entry %d is missing"},
			{"a copy of it is put behind it", func(all []auditchain.Entry) []auditchain.Entry { return slices.Insert(all, at+1, all[at]) }, "entry %d was inserted"},
			{"a false one is put before it", func(all []auditchain.Entry) []auditchain.Entry {
				e := all[at]
				e.Action = "license.revoked"
				rehash(&e)
				return slices.Insert(all, at, e)
			}, "entry %d was inserted"},
		} {
			chain, all := chainOf(10)
			if got, want := verify(t, chain, done.do(all)), fmt.Sprintf(done.want, n); got != want {
				t.Errorf("%s, of entry %d: %q, want %q", done.what, n, got, want)
			}
		}
	}
}

func TestWhatIsBeyondTheHeadWasInserted(t *testing.T) {
	t.Parallel()
	chain, all := chainOf(3)
	_, longer := chainOf(4)
	if got := verify(t, chain, append(all, longer[3])); got != "entry 4 was inserted" {
		t.Errorf("got %q", got)
	}
}

func TestSeveralMissingAreNamedTogether(t *testing.T) {
	t.Parallel()
	chain, all := chainOf(10)
	if got := verify(t, chain, slices.Delete(all, 2, 6)); got != "entries 3 to 6 are missing" {
		t.Errorf("got %q", got)
	}
	if got := verify(t, chain, nil); got != "entries 1 to 10 are missing" {
		t.Errorf("of nothing: %q", got)
	}
}

func TestAChainWithoutItsOldEntriesIsWhole(t *testing.T) {
	t.Parallel()
	chain, all := chainOf(10)
	chain.Start = auditchain.Link{Seq: 4, Hash: all[3].Hash}
	if got := verify(t, chain, all[4:]); got != "" {
		t.Error(got)
	}
	chain.Start.Hash[0]++
	if got := verify(t, chain, all[4:]); got != "entry 5 was altered" {
		t.Errorf("behind another start: %q", got)
	}
}

func TestAnotherTenantsChainIsNotThisOnes(t *testing.T) {
	t.Parallel()
	chain, all := chainOf(1)
	chain.Tenant = "another"
	if got := verify(t, chain, all); got != "entry 1 was altered" {
		t.Errorf("got %q", got)
	}
}

func TestAnErrorEndsTheVerification(t *testing.T) {
	t.Parallel()
	chain, all := chainOf(2)
	lost := errors.New("lost")
	_, err := auditchain.Verify(chain, func(yield func(auditchain.Entry, error) bool) {
		_ = yield(all[0], nil) && yield(auditchain.Entry{}, lost)
	})
	if !errors.Is(err, lost) {
		t.Errorf("got %v", err)
	}
}
