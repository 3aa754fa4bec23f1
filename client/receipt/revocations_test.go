package receipt_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/coditect/usher/client/receipt"
)

// believe reads a revocation list as a client does, and keeps it.
func believe(t testing.TB, v *receipt.Verifier, answer []byte) {
	t.Helper()
	list, err := v.RevocationList(answer)
	if err != nil {
		t.Fatal(err)
	}
	v.Revocations = list
}

func TestWhatAListNamesIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	text, file := w.receipt(t, someReceipt()), w.licenseFile(t, someLicenseFile())
	r, l := someReceipt(), someLicenseFile()
	entitlement := r
	entitlement.Session, entitlement.Seat = "", 0
	bare := w.receipt(t, entitlement)
	key := func(id, code string, at time.Time) []receipt.RevokedKey {
		return []receipt.RevokedKey{{ID: "zzz", Code: receipt.KeyRevoked, At: noon}, {ID: id, Code: code, At: at}, {ID: "aaa", Code: receipt.KeyRevoked, At: noon}}
	}
	for name, c := range map[string]struct {
		keys                 []receipt.RevokedKey
		entries              []receipt.Entry
		receipt, bare, file  error
		receiptByRoots, list error // where pinned roots tell more than a key set
	}{
		"nothing":                         {},
		"other licences":                  {entries: []receipt.Entry{{License: "x"}, {License: "y", Session: "z"}}},
		"the licence":                     {entries: []receipt.Entry{{License: "x"}, {License: r.License}}, receipt: receipt.ErrRevoked, bare: receipt.ErrRevoked, file: receipt.ErrRevoked},
		"the session":                     {entries: []receipt.Entry{{License: r.License, Session: r.Session}}, receipt: receipt.ErrRevoked},
		"the file's session":              {entries: []receipt.Entry{{License: r.License, Session: l.Session}}, file: receipt.ErrRevoked},
		"the receipt key":                 {keys: key(w.keyID, receipt.KeyRevoked, noon.AddDate(1, 0, 0)), receipt: receipt.ErrRevoked, bare: receipt.ErrRevoked},
		"the receipt key, retired before": {keys: key(w.keyID, receipt.KeyRetired, noon), receipt: receipt.ErrRetiredKey, bare: receipt.ErrRetiredKey},
		"the receipt key, retired after":  {keys: key(w.keyID, receipt.KeyRetired, noon.Add(time.Second))},
		"the root, revoked":               {keys: key(w.rootID, receipt.KeyRevoked, noon), file: receipt.ErrRevoked, receiptByRoots: receipt.ErrRevoked, list: receipt.ErrRevoked},
		"the root, retired before":        {keys: key(w.rootID, receipt.KeyRetired, noon), file: receipt.ErrRetiredKey, list: receipt.ErrRetiredKey},
		"the root, retired after":         {keys: key(w.rootID, receipt.KeyRetired, noon.Add(time.Second))},
	} {
		for way, v := range w.verifiers(t) {
			list := someRevocations()
			list.Keys = c.keys
			list.File(c.entries)
			if c.list != nil {
				// A list that its own root may not have signed is none; another root's is.
				if _, err := v.RevocationList(w.list(t, list)); !errors.Is(err, c.list) {
					t.Errorf("%s, %s: the list: %v, want %v", name, way, err, c.list)
				}
				other := newKey(t)
				list := answer(t, receipt.RevocationsAnswer{List: sign(t, other, receipt.TypeRevocations, thumbprint(t, other), list)})
				reader := &receipt.Verifier{Roots: pin(t, other), Now: at(noon)}
				believe(t, reader, list)
				v.Revocations = reader.Revocations
			} else {
				believe(t, v, w.list(t, list))
			}
			want, bareWant := c.receipt, c.bare
			if c.receiptByRoots != nil && way == "by pinned roots" {
				want, bareWant = c.receiptByRoots, c.receiptByRoots
			}
			if _, err := v.Receipt(text); !errors.Is(err, want) {
				t.Errorf("%s, %s: a receipt: %v, want %v", name, way, err, want)
			}
			if _, err := v.Receipt(bare); !errors.Is(err, bareWant) {
				t.Errorf("%s, %s: a receipt without a session: %v, want %v", name, way, err, bareWant)
			}
			if _, err := v.LicenseFile(file); !errors.Is(err, c.file) {
				t.Errorf("%s, %s: a licence file: %v, want %v", name, way, err, c.file)
			}
		}
	}
}

func TestAListIsRefusedForWhatItIs(t *testing.T) {
	t.Parallel()
	w, stranger := newWorld(t), newWorld(t)
	good := someRevocations()
	old := good
	old.Version = 6
	unlisted := good
	unlisted.Total = 1
	neither := good
	neither.Keys = []receipt.RevokedKey{{ID: "x", Code: "lost", At: noon}}
	for name, c := range map[string]struct {
		answer []byte
		want   error
		now    time.Time
	}{
		"expired":                  {w.list(t, good), receipt.ErrExpired, noon.AddDate(0, 0, 7)},
		"from the future":          {w.list(t, good), receipt.ErrNotYetValid, noon.Add(-time.Hour)},
		"older than the known":     {w.list(t, old), receipt.ErrOlderList, noon},
		"of another root":          {stranger.list(t, good), receipt.ErrUnknownKey, noon},
		"that holds not its total": {w.list(t, unlisted), receipt.ErrMalformed, noon},
		"with a key of no fate":    {w.list(t, neither), receipt.ErrMalformed, noon},
		"with a shard that it lacks": {answer(t, receipt.RevocationsAnswer{
			List: sign(t, w.root, receipt.TypeRevocations, w.rootID, good), Number: new(int),
		}), receipt.ErrSignature, noon},
		"that is a receipt": {answer(t, receipt.RevocationsAnswer{List: w.receipt(t, someReceipt())}), receipt.ErrMalformed, noon},
		"that is nothing":   {nil, receipt.ErrMalformed, noon},
		"that is HTML":      {[]byte("<html>"), receipt.ErrMalformed, noon},
	} {
		for way, v := range w.verifiers(t) {
			believe(t, v, w.list(t, good))
			v.Now = at(c.now)
			if list, err := v.RevocationList(c.answer); !errors.Is(err, c.want) || list != nil {
				t.Errorf("a list %s, %s: %v, want %v", name, way, err, c.want)
			}
		}
	}
}

func TestAListWithoutATreeIsRefused(t *testing.T) {
	t.Parallel()
	for _, tree := range []string{
		`"shards":3,"root":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"`,
		`"shards":-2,"root":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"`,
		`"shards":4294967296,"root":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"`,
		`"shards":33554432,"root":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"`,
		`"shards":2`,
		`"shards":2,"root":"AAAA"`,
		`"shards":2,"root":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA","licenses":["x"]`,
		`"root":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"`,
		`"total":-1`,
		`"version":0`,
		`"exp":0`,
		`"keys":3`,
	} {
		var list receipt.Revocations
		if err := json.Unmarshal([]byte(`{"iss":"i","iat":1,"exp":2,"version":1,"keys":[],"total":0,`+tree+`}`), &list); err == nil {
			t.Errorf("%s was read as %+v", tree, list)
		}
	}
}

// many are n entries: licences, and every fourth a session of one.
func many(n int) []receipt.Entry {
	entries := make([]receipt.Entry, n)
	for i := range entries {
		entries[i].License = fmt.Sprintf("01a20901-0000-7000-8000-%012d", i)
		if i%4 == 3 {
			entries[i].Session = fmt.Sprintf("01a20901-0000-7000-9000-%012d", i)
		}
	}
	return entries
}

func TestAListOfAnySizeFindsWhatItNames(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, n := range []int{0, 1, 255, 256, 257, 512, 513, 3000} {
		entries := many(n)
		list := someRevocations()
		shards := list.File(entries)
		if len(shards) != list.Shards || list.Total != n || (list.Shards == 0) != (n <= receipt.ShardSize) || list.Shards*receipt.ShardSize >= 2*max(n, receipt.ShardSize)+receipt.ShardSize*2 {
			t.Fatalf("%d entries: %d shards, %d of them filed, total %d", n, list.Shards, len(shards), list.Total)
		}
		compact := sign(t, w.root, receipt.TypeRevocations, w.rootID, list)
		v := w.offline()
		v.HardwareID = ""
		believe(t, v, answer(t, receipt.RevocationsAnswer{List: compact}))
		for i := 0; i < n+2; i += max(1, n/40) {
			r := someReceipt()
			r.License = fmt.Sprintf("01a20901-0000-7000-8000-%012d", i)
			want := receipt.ErrRevoked
			switch {
			case i >= n:
				want = nil
			case i%4 == 3:
				r.Session = entries[i].Session
			}
			text := w.receipt(t, r)
			if shard, missing := v.Revocations.Missing(r.License); missing {
				if _, err := v.Receipt(text); !errors.Is(err, receipt.ErrMissingShard) {
					t.Fatalf("%d entries: before the shard is fetched: %v", n, err)
				}
				s := shards[shard]
				believe(t, v, answer(t, receipt.RevocationsAnswer{List: compact, Number: &shard, Licenses: s.Licenses, Sessions: s.Sessions, Proof: s.Proof}))
			}
			if _, err := v.Receipt(text); (want == nil) != (err == nil) || want != nil && !errors.Is(err, want) {
				t.Fatalf("%d entries, the one numbered %d: %v, want %v", n, i, err, want)
			}
			if i < n && i%4 == 3 {
				r.Session = ""
				if _, err := v.Receipt(w.receipt(t, r)); err != nil {
					t.Fatalf("%d entries: the licence of a withdrawn session: %v", n, err)
				}
			}
		}
	}
}

func TestAShardThatIsNotTheListsIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	list := someRevocations()
	shards := list.File(many(3000))
	compact := sign(t, w.root, receipt.TypeRevocations, w.rootID, list)
	number := 5
	for name, change := range map[string]func(s *receipt.Shard){
		"as it is":          func(*receipt.Shard) {},
		"a licence less":    func(s *receipt.Shard) { s.Licenses = s.Licenses[1:] },
		"none":              func(s *receipt.Shard) { s.Licenses, s.Sessions = nil, nil },
		"a licence renamed": func(s *receipt.Shard) { s.Licenses[0] = s.Licenses[0][1:] },
		"a session less":    func(s *receipt.Shard) { s.Sessions = s.Sessions[1:] },
		"a session as licence": func(s *receipt.Shard) {
			s.Licenses, s.Sessions = append(s.Licenses, s.Sessions[0]), s.Sessions[1:]
		},
		"in another order":  func(s *receipt.Shard) { slices.Reverse(s.Licenses) },
		"in another place":  func(s *receipt.Shard) { s.Number ^= 1 },
		"in no place":       func(s *receipt.Shard) { s.Number = -1 },
		"beyond the last":   func(s *receipt.Shard) { s.Number += list.Shards },
		"without a proof":   func(s *receipt.Shard) { s.Proof = nil },
		"a proof too short": func(s *receipt.Shard) { s.Proof = s.Proof[1:] },
		"a proof too long":  func(s *receipt.Shard) { s.Proof = append(s.Proof, receipt.Hash{}) },
		"an altered proof":  func(s *receipt.Shard) { s.Proof[2][7] ^= 1 },
		"another's proof":   func(s *receipt.Shard) { s.Proof = shards[number^1].Proof },
	} {
		s := shards[number]
		s.Licenses, s.Sessions, s.Proof = slices.Clone(s.Licenses), slices.Clone(s.Sessions), slices.Clone(s.Proof)
		change(&s)
		_, err := w.offline().RevocationList(answer(t, receipt.RevocationsAnswer{
			List: compact, Number: &s.Number, Licenses: s.Licenses, Sessions: s.Sessions, Proof: s.Proof,
		}))
		if (err == nil) != (name == "as it is") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestShardsAreKeptWhileTheListIsTheSame(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	list := someRevocations()
	shards := list.File(many(600))
	fetch := func(v *receipt.Verifier, list receipt.Revocations, s receipt.Shard) {
		believe(t, v, answer(t, receipt.RevocationsAnswer{
			List: sign(t, w.root, receipt.TypeRevocations, w.rootID, list), Number: &s.Number, Licenses: s.Licenses, Sessions: s.Sessions, Proof: s.Proof,
		}))
	}
	missing := func(v *receipt.Verifier) (n int) {
		for shard := range list.Shards {
			license := slices.IndexFunc(many(600), func(e receipt.Entry) bool { return receipt.ShardOf(e.License, list.Shards) == shard })
			if _, missing := v.Revocations.Missing(many(600)[license].License); missing {
				n++
			}
		}
		return n
	}
	v := w.offline()
	for fetched := range list.Shards {
		first := v.Revocations
		fetch(v, list, shards[fetched])
		if got := missing(v); got != list.Shards-fetched-1 {
			t.Errorf("after %d shards %d are missing", fetched+1, got)
		}
		if first != nil && first == v.Revocations {
			t.Error("the list in use was changed")
		}
	}
	newer := list
	newer.Version++
	fetch(v, newer, shards[0])
	if got := missing(v); got != list.Shards-1 {
		t.Errorf("of a newer version %d shards are missing, want all but the one fetched", got)
	}
}

// download is how many bytes a client fetches to know whether a licence is withdrawn: the list, then the shard with the
// list again. Of all licences it takes one of the largest shard.
func download(t testing.TB, w *world, entries []receipt.Entry) int {
	t.Helper()
	list := someRevocations()
	for i := range 5 {
		list.Keys = append(list.Keys, receipt.RevokedKey{ID: fmt.Sprintf("%043d", i), Code: receipt.KeyRevoked, At: noon})
	}
	shards := list.File(entries)
	if len(shards) == 0 {
		return len(w.list(t, list))
	}
	largest := slices.MaxFunc(shards, func(a, b receipt.Shard) int {
		return len(a.Licenses) + len(a.Sessions) - len(b.Licenses) - len(b.Sessions)
	})
	compact := sign(t, w.root, receipt.TypeRevocations, w.rootID, list)
	shard := answer(t, receipt.RevocationsAnswer{
		List: compact, Version: 7, Number: &largest.Number, Licenses: largest.Licenses, Sessions: largest.Sessions, Proof: largest.Proof,
	})
	return len(w.list(t, list)) + len(shard)
}

// BenchmarkFileAMillionRevocations does the same for a million, and prints the bytes.
func TestAHundredThousandRevocationsAreASmallDownload(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, n := range []int{receipt.ShardSize, receipt.ShardSize + 1, 100_000} {
		if got := download(t, w, many(n)); got > 15_000 {
			t.Errorf("of %d revocations a client fetches %d bytes, want at most 15,000", n, got)
		}
	}
}

func BenchmarkFileAMillionRevocations(b *testing.B) {
	entries := many(1_000_000)
	for b.Loop() {
		list := someRevocations()
		list.File(entries)
	}
	fetched := download(b, newWorld(b), entries)
	if fetched > 15_000 {
		b.Errorf("a client fetches %d bytes, want at most 15,000", fetched)
	}
	b.ReportMetric(float64(fetched), "bytes-fetched")
}
