package receipt_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"math/big"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/coditect/usher/client/receipt"
)

func TestAReceiptIsBelievedByPinnedRootsAndByTheKeySet(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	text := w.receipt(t, someReceipt())
	want := someReceipt()
	for way, v := range w.verifiers(t) {
		if got, err := v.Receipt(text); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v; want %+v", way, got, err, want)
		}
	}
}

func TestAReceiptNamesNothingThatItHasNot(t *testing.T) {
	t.Parallel()
	r := someReceipt()
	r.Session, r.Seat, r.Nonce, r.Features = "", 0, "", nil
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"iss":"https://licences.example","sub":"01a20901-0000-7000-8000-000000000002","aud":"editor","iat":1772366400,` +
		`"exp":1772366760,"jti":"01a20901-0000-7000-8000-000000000001","tenant_id":"01a20901-0000-7000-8000-000000000003",` +
		`"hardware_id":"AyBN6S4R_IxSgTm-QZBlkg64Pb_xpGY7vqRVqm6XAr0","plan":"team","features":[],"versions":"\u003e=2.0 \u003c4.0",` +
		`"offline_until":"2026-03-01T12:06:00.987Z","revocations_version":5}`
	if got := string(text); got != want {
		t.Errorf("the claims are\n%s\nwant\n%s", got, want)
	}
}

func TestAnotherImplementationBelievesAReceiptByTheKeySetAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	published, err := json.Marshal(w.keys)
	if err != nil {
		t.Fatal(err)
	}
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(published, &set); err != nil {
		t.Fatal(err)
	}
	signed, err := jose.ParseSignedCompact(w.receipt(t, someReceipt()), []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		t.Fatal(err)
	}
	keys := set.Key(signed.Signatures[0].Protected.KeyID)
	if len(keys) != 1 || len(keys[0].Certificates) != 1 {
		t.Fatalf("the set has %d keys of the receipt's kid, want one with a certificate", len(keys))
	}
	payload, err := signed.Verify(keys[0])
	if err != nil {
		t.Fatal(err)
	}
	var got receipt.Receipt
	if err := json.Unmarshal(payload, &got); err != nil || !reflect.DeepEqual(got, someReceipt()) {
		t.Errorf("%+v, %v", got, err)
	}
}

// parts are the three parts of a compact JWS, decoded.
func parts(t testing.TB, text string) (header, claims map[string]any, signature []byte) {
	t.Helper()
	part := strings.Split(text, ".")
	for i, into := range []any{&header, &claims} {
		raw, err := base64.RawURLEncoding.DecodeString(part[i])
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(raw, into); err != nil {
			t.Fatal(err)
		}
	}
	signature, err := base64.RawURLEncoding.DecodeString(part[2])
	if err != nil {
		t.Fatal(err)
	}
	return header, claims, signature
}

func encodeJSON(t testing.TB, value any) json.RawMessage {
	t.Helper()
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// with makes a text of the receipt's claims, with some header fields changed and the whole signed again with a key.
func with(t testing.TB, text string, key *ecdsa.PrivateKey, fields map[string]any) string {
	t.Helper()
	header, claims, _ := parts(t, text)
	for name, value := range fields {
		if value == nil {
			delete(header, name)
		} else {
			header[name] = value
		}
	}
	return signText(t, key, base64.RawURLEncoding.EncodeToString(encodeJSON(t, header)), encodeJSON(t, claims))
}

func TestEachRefusalHasItsOwnError(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	good := w.receipt(t, someReceipt())
	stranger := newWorld(t)
	_, _, signature := parts(t, good)
	late := someReceipt()
	late.IssuedAt, late.OfflineUntil = noon.Add(26*time.Hour), noon.Add(27*time.Hour)
	early := someReceipt()
	early.IssuedAt = noon.Add(-2 * time.Hour)
	rootSigned := sign(t, w.root, receipt.TypeReceipt, w.rootID, someReceipt())
	rootScoped := certifyRoot(t, w.key, w.root)
	own := certifyReceiptKey(t, stranger.key, stranger.key, noon.Add(-time.Hour), noon.Add(time.Hour))
	empty := base64.RawURLEncoding.EncodeToString([]byte("{}"))

	order := new(big.Int).Set(w.key.Params().N)
	high := append([]byte(nil), signature...)
	order.Sub(order, new(big.Int).SetBytes(high[32:])).FillBytes(high[32:])

	type change = func(v *receipt.Verifier)
	for name, c := range map[string]struct {
		text   string
		want   error
		change change
	}{
		"expired":                      {good, receipt.ErrExpired, func(v *receipt.Verifier) { v.Now = at(noon.Add(6 * time.Minute)) }},
		"from the future":              {good, receipt.ErrNotYetValid, func(v *receipt.Verifier) { v.Now = at(noon.Add(-5*time.Minute - time.Second)) }},
		"signed before its key's time": {w.receipt(t, early), receipt.ErrNotYetValid, nil},
		"of another product":           {good, receipt.ErrWrongProduct, func(v *receipt.Verifier) { v.Product = "viewer" }},
		"on another device":            {good, receipt.ErrWrongHardware, func(v *receipt.Verifier) { v.HardwareID = "device-2" }},
		"signed after its key's end":   {w.receipt(t, late), receipt.ErrRetiredKey, func(v *receipt.Verifier) { v.Now = at(noon.Add(26 * time.Hour)) }},
		"of another issuer":            {stranger.receipt(t, someReceipt()), receipt.ErrUnknownKey, nil},
		"kid of another key":           {with(t, good, stranger.key, map[string]any{"kid": stranger.keyID}), receipt.ErrUnknownKey, nil},
		"kid of nobody":                {with(t, good, w.key, map[string]any{"kid": "x"}), receipt.ErrUnknownKey, nil},
		"without a kid":                {with(t, good, w.key, map[string]any{"kid": nil}), receipt.ErrUnknownKey, nil},
		"signed by another key":        {with(t, good, stranger.key, nil), receipt.ErrSignature, nil},
		"signed by a root":             {rootSigned, receipt.ErrScope, nil},
		"the other signature value":    {good[:strings.LastIndexByte(good, '.')+1] + base64.RawURLEncoding.EncodeToString(high), receipt.ErrSignature, nil},
		"no signature":                 {good[:strings.LastIndexByte(good, '.')+1], receipt.ErrSignature, nil},
		"an ASN.1 signature":           {good + "AAAA", receipt.ErrSignature, nil},
		"alg none":                     {base64.RawURLEncoding.EncodeToString(encodeJSON(t, map[string]any{"alg": "none", "typ": receipt.TypeReceipt, "kid": w.keyID})) + "." + strings.Split(good, ".")[1] + ".", receipt.ErrMalformed, nil},
		"alg none, signed":             {with(t, good, w.key, map[string]any{"alg": "none"}), receipt.ErrMalformed, nil},
		"alg ES384":                    {with(t, good, w.key, map[string]any{"alg": "ES384"}), receipt.ErrMalformed, nil},
		"no alg":                       {with(t, good, w.key, map[string]any{"alg": nil}), receipt.ErrMalformed, nil},
		"HS256 with the public key":    {hs256(t, w, good), receipt.ErrMalformed, nil},
		"typ of a licence file":        {with(t, good, w.key, map[string]any{"typ": receipt.TypeLicenseFile}), receipt.ErrMalformed, nil},
		"typ JWT":                      {with(t, good, w.key, map[string]any{"typ": "JWT"}), receipt.ErrMalformed, nil},
		"without a typ":                {with(t, good, w.key, map[string]any{"typ": nil}), receipt.ErrMalformed, nil},
		"critical extensions":          {with(t, good, w.key, map[string]any{"crit": []string{"b64"}, "b64": false}), receipt.ErrMalformed, nil},
		"no JSON claims":               {signText(t, w.key, strings.Split(good, ".")[0], json.RawMessage("x")), receipt.ErrMalformed, nil},
		"claims of nothing":            {signText(t, w.key, strings.Split(good, ".")[0], json.RawMessage("{}")), receipt.ErrMalformed, nil},
		"nothing":                      {"", receipt.ErrMalformed, nil},
		"dots":                         {"..", receipt.ErrMalformed, nil},
		"a line break":                 {good[:20] + "\n" + good[20:], receipt.ErrMalformed, nil},
		"a space before":               {" " + good, receipt.ErrMalformed, nil},
		"padded":                       {good + "==", receipt.ErrMalformed, nil},
		"a fourth part":                {good + "." + empty, receipt.ErrMalformed, nil},
		"endless":                      {strings.Repeat(good, 2000), receipt.ErrMalformed, nil},
	} {
		for way, v := range w.verifiers(t) {
			if c.change != nil {
				c.change(v)
			}
			r, err := v.Receipt(c.text)
			if !errors.Is(err, c.want) || !reflect.DeepEqual(r, receipt.Receipt{}) {
				t.Errorf("%s, %s: %+v, %v; want %v", name, way, r, err, c.want)
			}
			if refusal, ok := errors.AsType[*receipt.Refusal](err); !ok || !errors.Is(refusal, c.want) {
				t.Errorf("%s, %s: the refusal is %v, want %v", name, way, refusal, c.want)
			}
		}
	}
	// What only the certificate in the header can be wrong in.
	for name, c := range map[string]struct {
		chain [][]byte
		want  error
	}{
		"a root's certificate":     {[][]byte{rootScoped}, receipt.ErrScope},
		"one of another key":       {[][]byte{certifyReceiptKey(t, stranger.key, w.root, noon.Add(-time.Hour), noon.Add(time.Hour))}, receipt.ErrUnknownKey},
		"one by an unknown root":   {[][]byte{certifyReceiptKey(t, w.key, stranger.root, noon.Add(-time.Hour), noon.Add(time.Hour))}, receipt.ErrUnknownKey},
		"one by a receipt key":     {[][]byte{certifyReceiptKey(t, w.key, stranger.key, noon.Add(-time.Hour), noon.Add(time.Hour)), own}, receipt.ErrScope},
		"none":                     {nil, receipt.ErrUnknownKey},
		"one that is none":         {[][]byte{[]byte("x")}, receipt.ErrMalformed},
		"one with more behind it":  {[][]byte{append(append([]byte(nil), w.certificate...), 0)}, receipt.ErrMalformed},
		"one whose time is not in": {[][]byte{certifyReceiptKey(t, w.key, w.root, noon.Add(-2*time.Hour), noon.Add(-time.Hour))}, receipt.ErrRetiredKey},
	} {
		text := sign(t, w.key, receipt.TypeReceipt, w.keyID, someReceipt(), c.chain...)
		if _, err := w.offline().Receipt(text); !errors.Is(err, c.want) {
			t.Errorf("the certificate is %s: %v, want %v", name, err, c.want)
		}
	}
}

// hs256 is the old trick: a MAC under the text of the public key.
func hs256(t testing.TB, w *world, good string) string {
	t.Helper()
	_, claims, _ := parts(t, good)
	public, err := w.key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: public},
		(&jose.SignerOptions{}).WithType(receipt.TypeReceipt).WithHeader("kid", w.keyID))
	if err != nil {
		t.Fatal(err)
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	text, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestAnyAlteredCharacterIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	text := w.receipt(t, someReceipt())
	file := string(w.licenseFile(t, someLicenseFile()))
	believed := func(v *receipt.Verifier, text string) bool {
		r, err := v.Receipt(text)
		if _, refused := errors.AsType[*receipt.Refusal](err); err != nil && !refused {
			t.Fatalf("an error that is no refusal: %v", err)
		}
		return err == nil || r.ID != ""
	}
	for way, v := range w.verifiers(t) {
		for i := range text {
			// Each bit in turn: every character costs a verification.
			if believed(v, text[:i]+string([]byte{text[i] ^ 1<<(i%8)})+text[i+1:]) {
				t.Fatalf("%s: character %d of the receipt, altered, is believed", way, i)
			}
			if i%16 == 0 && believed(v, text[:i]+text[i+1:]) {
				t.Fatalf("%s: the receipt without character %d is believed", way, i)
			}
		}
		for i := range len(file) - 1 { // the line end at its end may be any
			altered := []byte(file)
			altered[i] ^= []byte{1, 4, 32, '\n' ^ ' '}[i%4]
			if _, err := v.LicenseFile(altered); err == nil {
				t.Fatalf("%s: character %d of the licence file, altered, is believed", way, i)
			}
		}
	}
}

func TestAnyAlteredByteIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	part := strings.Split(w.receipt(t, someReceipt()), ".")
	for n := range part {
		raw, err := base64.RawURLEncoding.DecodeString(part[n])
		if err != nil {
			t.Fatal(err)
		}
		for i := range raw {
			altered := bytes.Clone(raw)
			altered[i] ^= 1 << (i % 8)
			text := slices.Clone(part)
			text[n] = base64.RawURLEncoding.EncodeToString(altered)
			if _, err := w.offline().Receipt(strings.Join(text, ".")); err == nil {
				t.Fatalf("byte %d of part %d, altered, is believed", i, n+1)
			}
		}
	}
}

func TestASignatureOfACloudKeyHasOneText(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	for n := range 20 { // half of all signatures have the higher value
		text := signText(t, key, "header", json.RawMessage(strconv.Itoa(n)))
		signed, signature := text[:strings.LastIndex(text, ".")], text[strings.LastIndex(text, ".")+1:]
		raw, err := base64.RawURLEncoding.DecodeString(signature)
		if err != nil || len(raw) != 64 {
			t.Fatalf("the signature has %d bytes, %v", len(raw), err)
		}
		digest := sha256.Sum256([]byte(signed))
		r, s := new(big.Int).SetBytes(raw[:32]), new(big.Int).SetBytes(raw[32:])
		if !ecdsa.Verify(&key.PublicKey, digest[:], r, s) || s.Cmp(new(big.Int).Rsh(key.Params().N, 1)) > 0 {
			t.Fatal("the signature does not verify, or is the higher one")
		}
	}
	for _, broken := range [][]byte{nil, {1}, {0x30, 0}, {0x30, 6, 2, 1, 0, 2, 1, 1}, append([]byte{0x30, 6, 2, 1, 1, 2, 1, 1}, 0)} {
		if text, err := receipt.Sign("header", json.RawMessage("1"), brokenSigner{key, broken}); err == nil {
			t.Errorf("the signature %x was written as %s", broken, text)
		}
	}
}

// brokenSigner answers with what is no signature.
type brokenSigner struct {
	crypto.Signer
	answer []byte
}

func (s brokenSigner) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return s.answer, nil
}

func TestAReceiptThatContradictsItselfIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	good := w.receipt(t, someReceipt())
	for name, change := range map[string]func(claims map[string]any){
		"exp after offline_until": func(c map[string]any) { c["exp"] = noon.AddDate(1, 0, 0).Unix() },
		"no offline_until":        func(c map[string]any) { delete(c, "offline_until") },
		"no exp":                  func(c map[string]any) { delete(c, "exp") },
		"no iat":                  func(c map[string]any) { delete(c, "iat") },
		"no sub":                  func(c map[string]any) { delete(c, "sub") },
		"no aud":                  func(c map[string]any) { delete(c, "aud") },
		"two audiences":           func(c map[string]any) { c["aud"] = []string{"editor", "viewer"} },
		"no jti":                  func(c map[string]any) { delete(c, "jti") },
		"no hardware_id":          func(c map[string]any) { delete(c, "hardware_id") },
	} {
		header, claims, _ := parts(t, good)
		change(claims)
		text := signText(t, w.key, base64.RawURLEncoding.EncodeToString(encodeJSON(t, header)), encodeJSON(t, claims))
		if _, err := w.offline().Receipt(text); !errors.Is(err, receipt.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAReceiptKeyPromisesAWeekAtMost(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := someReceipt()
	r.OfflineUntil = noon.Add(receipt.Longest + 999*time.Millisecond)
	longest := w.receipt(t, r)
	r.OfflineUntil = noon.Add(receipt.Longest + time.Second)
	longer := w.receipt(t, r)
	for way, v := range w.verifiers(t) {
		v.Now = at(noon.Add(receipt.Longest - time.Second))
		if _, err := v.Receipt(longest); err != nil {
			t.Errorf("%s: a week: %v", way, err)
		}
		if _, err := v.Receipt(longer); !errors.Is(err, receipt.ErrScope) {
			t.Errorf("%s: a second more: %v", way, err)
		}
	}
}

func TestWhatIsNotAskedIsNotCompared(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	v := &receipt.Verifier{Roots: w.roots, Now: at(noon)}
	if _, err := v.Receipt(w.receipt(t, someReceipt())); err != nil {
		t.Error(err)
	}
	v = &receipt.Verifier{Now: at(noon)}
	if _, err := v.Receipt(w.receipt(t, someReceipt())); !errors.Is(err, receipt.ErrUnknownKey) {
		t.Errorf("nothing is trusted, and yet: %v", err)
	}
	v = &receipt.Verifier{Roots: w.roots}
	if _, err := v.Receipt(w.receipt(t, someReceipt())); !errors.Is(err, receipt.ErrExpired) {
		t.Errorf("without a clock it is now: %v", err)
	}
}

func BenchmarkVerify(b *testing.B) {
	w := newWorld(b)
	text := w.receipt(b, someReceipt())
	verify := func(b *testing.B, v *receipt.Verifier) {
		b.Helper()
		if _, err := v.Receipt(text); err != nil {
			b.Fatal(err)
		}
	}
	for way, v := range w.verifiers(b) {
		b.Run(strings.ReplaceAll(way, " ", "-"), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				verify(b, v)
			}
		})
	}
	b.Run("by-pinned-roots-the-first-of-a-day", func(b *testing.B) {
		b.ReportAllocs()
		v := w.offline()
		for b.Loop() {
			roots, err := receipt.NewRoots(&w.root.PublicKey)
			if err != nil {
				b.Fatal(err)
			}
			v.Roots = roots
			verify(b, v)
		}
	})
}
