package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/coditect/usher/client/hardware"
	"github.com/coditect/usher/client/receipt"
)

// refusals are the exit codes of what a receipt or a licence file is refused for.
var refusals = []struct {
	refusal *receipt.Refusal
	exit    int
}{
	{receipt.ErrMalformed, exitMalformed},
	{receipt.ErrSignature, exitSignature},
	{receipt.ErrUnknownKey, exitUnknownKey},
	{receipt.ErrScope, exitScope},
	{receipt.ErrExpired, exitExpired},
	{receipt.ErrNotYetValid, exitNotYetValid},
	{receipt.ErrWrongProduct, exitWrongProduct},
	{receipt.ErrWrongHardware, exitWrongHardware},
	{receipt.ErrRevoked, exitRevoked},
	{receipt.ErrRetiredKey, exitRetiredKey},
	{receipt.ErrClockSetBack, exitClockSetBack},
	{receipt.ErrCopied, exitCopied},
	{receipt.ErrMissingShard, exitMissingShard},
}

func (a *app) receipt() *cobra.Command {
	cmd := group(&cobra.Command{Use: "receipt", Short: "Look into what Usher has signed"})
	cmd.AddCommand(a.verify(), a.roots())
	return cmd
}

func (a *app) roots() *cobra.Command {
	v := verify{app: a}
	cmd := &cobra.Command{
		Use:   "roots",
		Short: "Show the root keys that an application is built with, in PEM",
		Long: `Shows the root keys that a vendor's applications trust without asking: the one that signs now, and the one that will follow
it. They come from the key set of USHER_URL, or of --jwks, and are believed as the connection is: fetch them over a connection that
you trust, compare them with what another person fetched, and keep them.`,
		Example: `  usher receipt roots > roots.pem`,
		Args:    takes(),
		RunE:    func(cmd *cobra.Command, _ []string) error { return v.showRoots(cmd.Context()) },
	}
	cmd.Flags().StringVar(&v.jwks, "jwks", "", "the key set: a file, or a URL")
	return cmd
}

// pinned is how many roots an application is built with.
const pinned = 2

func (v *verify) showRoots(ctx context.Context) error {
	if v.jwks == "" {
		if err := v.askService(); err != nil {
			return err
		}
	}
	text, err := v.fetch(ctx, v.jwks)
	if err != nil {
		return err
	}
	set, err := receipt.ParseKeySet(text)
	if err != nil {
		return wrong("--jwks: %v", err)
	}
	roots := set.Roots()
	if len(roots) == 0 {
		return wrong("--jwks: there is no root key in it")
	}
	shown := []rootKey{}
	for _, key := range roots[:min(len(roots), pinned)] {
		der, err := x509.MarshalPKIXPublicKey(key.Public)
		if err != nil {
			return err
		}
		shown = append(shown, rootKey{key.ID, string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))})
	}
	if v.json {
		writeJSON(v.out, shown)
		return nil
	}
	for _, key := range shown {
		if _, err := io.WriteString(v.out, key.PEM); err != nil {
			return err
		}
	}
	return nil
}

// rootKey is what --json shows of a root.
type rootKey struct {
	KeyID string `json:"kid"`
	PEM   string `json:"pem"`
}

func (a *app) verify() *cobra.Command {
	v := verify{app: a}
	cmd := &cobra.Command{
		Use:   "verify FILE",
		Short: "Say whether a receipt or a licence file is good, and for what",
		Long: `Verifies a receipt, or a licence file, and shows what it says. "-" is standard input. It trusts the root keys of --roots, and
then asks nobody; or the key set of --jwks, which is a file, or a URL such as that of a service's /.well-known/jwks.json.
Without either it trusts the key set of USHER_URL. --revocations, a file or a URL, says what has been withdrawn since.

What is kept with a seal beside it (FILE.seal, as usher borrow writes it) must have been made on this machine, and the machine's
clock must not have been set back since it was last looked at.

Each way of being bad has an exit code of its own: 10 malformed, 11 wrong signature, 12 unknown key, 13 expired, 14 not yet
valid, 15 another product, 16 another device, 17 revoked, 18 signed after its key was retired, 19 the clock was set back, 20 copied
from another machine, 21 its key may not sign this, 22 the part of the revocation list that would name it is missing.`,
		Example: `  usher receipt verify borrowed.jwt --roots roots.pem --product agent-studio --hardware-id "$(usher hardware-id)"
  usher receipt verify licence.pem --jwks jwks.json --revocations revocations.json`,
		Args: takes("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error { return v.do(cmd.Context(), args[0]) },
	}
	flags := cmd.Flags()
	flags.StringVar(&v.roots, "roots", "", "a file with the root keys that are trusted, in PEM")
	flags.StringVar(&v.jwks, "jwks", "", "the key set: a file, or a URL")
	flags.StringVar(&v.revocations, "revocations", "", "the revocation list: a file, or a URL")
	flags.StringVar(&v.product, "product", "", "the product that it must be for; any when left out")
	flags.StringVar(&v.hardware, "hardware-id", "", "the device that it must be for; any when left out")
	return cmd
}

// verify is one usher receipt verify.
type verify struct {
	*app
	roots, jwks, revocations string
	product, hardware        string
}

// judged is what was found of a document.
type judged struct {
	Valid   bool   `json:"valid"`
	Kind    string `json:"kind"`
	Code    string `json:"code"`
	Message string `json:"message,omitempty"`
	// Claims are nil when the document is not believed.
	Claims any `json:"claims,omitempty"`

	expires time.Time
}

func (v *verify) do(ctx context.Context, path string) error {
	document, err := v.open(path)
	if err != nil {
		return err
	}
	verifier, err := v.verifier(ctx)
	if err != nil {
		return err
	}
	if err := v.seal(ctx, verifier, path); err != nil {
		return err
	}
	if err := v.kept(verifier, path); err != nil {
		return err
	}
	found, err := v.judge(verifier, document)
	if errors.Is(err, receipt.ErrMissingShard) && isURL(v.revocations) {
		if err = v.fetchShard(ctx, verifier, document); err == nil {
			found, err = v.judge(verifier, document)
		}
	}
	if err == nil {
		found.Valid, found.Code = true, "valid"
		return v.report(found)
	}
	for _, r := range refusals {
		if errors.Is(err, r.refusal) {
			found.Code, found.Message, found.Claims = r.refusal.Code, printable(err.Error()), nil
			_ = v.report(found) // the exit code says it, too
			return &failure{exit: r.exit}
		}
	}
	return failed(err)
}

// failed is an error as a failure, when it is none yet.
func failed(err error) error {
	if _, ok := errors.AsType[*failure](err); ok {
		return err
	}
	return &failure{exitUsage, "usage", printable(err.Error())}
}

// report shows what was found.
func (v *verify) report(found judged) error {
	switch {
	case v.json:
		writeJSON(v.out, found)
		return nil
	case !found.Valid:
		v.say("%s (%s): %s", v.paint(red, "not good"), found.Code, found.Message)
		return nil
	}
	v.say("%s: this %s is good until %s", v.paint(green, "good"), found.Kind, found.expires.UTC().Format("2006-01-02 15:04:05Z"))
	var claims bytes.Buffer
	writeJSON(&claims, found.Claims)
	return v.sheet(claims.Bytes(), "iat", "exp")
}

// Kinds of documents.
const (
	aReceipt     = "receipt"
	aLicenseFile = "license file"
)

// judge verifies a document of either kind.
func (v *verify) judge(verifier *receipt.Verifier, document []byte) (judged, error) {
	if bytes.Contains(document, []byte("-----BEGIN")) {
		l, err := verifier.LicenseFile(document)
		return judged{Kind: aLicenseFile, Claims: l, expires: l.ExpiresAt}, err
	}
	r, err := verifier.Receipt(strings.TrimSpace(string(document)))
	return judged{Kind: aReceipt, Claims: r, expires: r.OfflineUntil}, err
}

// verifier trusts what the flags say.
func (v *verify) verifier(ctx context.Context) (*receipt.Verifier, error) {
	verifier := &receipt.Verifier{Product: v.product, HardwareID: v.hardware}
	if v.roots == "" && v.jwks == "" {
		if v.askService() != nil {
			return nil, wrong("whom to trust? Give --roots or --jwks, or set USHER_URL")
		}
	}
	if v.roots != "" {
		text, err := v.open(v.roots)
		if err != nil {
			return nil, err
		}
		if verifier.Roots, err = receipt.ParseRoots(text); err != nil {
			return nil, wrong("--roots: %v", err)
		}
	}
	if v.jwks != "" {
		text, err := v.fetch(ctx, v.jwks)
		if err != nil {
			return nil, err
		}
		if verifier.Keys, err = receipt.ParseKeySet(text); err != nil {
			return nil, wrong("--jwks: %v", err)
		}
	}
	if v.revocations != "" {
		text, err := v.fetch(ctx, v.revocations)
		if err != nil {
			return nil, err
		}
		if verifier.Revocations, err = verifier.RevocationList(text); err != nil {
			return nil, wrong("--revocations: %v", err)
		}
	}
	return verifier, nil
}

// askService takes the key set of USHER_URL.
func (v *verify) askService() error {
	service, err := v.service()
	v.jwks = service + "/.well-known/jwks.json"
	return err
}

// fetchShard fetches the part of the revocation list that would name the document's licence. Which licence that is the
// document says, which is believed so far: without the list it is good.
func (v *verify) fetchShard(ctx context.Context, verifier *receipt.Verifier, document []byte) error {
	without := *verifier
	without.Revocations = nil
	found, err := v.judge(&without, document)
	if err != nil {
		return err
	}
	license := ""
	switch claims := found.Claims.(type) {
	case receipt.Receipt:
		license = claims.License
	case receipt.LicenseFile:
		license = claims.License
	}
	number, missing := verifier.Revocations.Missing(license)
	if !missing {
		return nil
	}
	u, err := url.Parse(v.revocations)
	if err != nil {
		return wrong("--revocations: %v", err)
	}
	query := u.Query()
	query.Set("shard", strconv.Itoa(number))
	u.RawQuery = query.Encode()
	text, err := v.fetch(ctx, u.String())
	if err != nil {
		return err
	}
	list, err := verifier.RevocationList(text)
	if err != nil {
		return wrong("--revocations: %v", err)
	}
	verifier.Revocations = list
	return nil
}

// kept takes the revocation list that is kept beside the document, where none is named.
func (v *verify) kept(verifier *receipt.Verifier, path string) error {
	if v.revocations != "" {
		return nil
	}
	text, err := os.ReadFile(path + receipt.RevocationsSuffix)
	if err != nil {
		return nil //nolint:nilerr // there is none
	}
	if verifier.Revocations, err = verifier.KeptRevocationList(text); err != nil {
		return wrong("%s: %v", path+receipt.RevocationsSuffix, err)
	}
	return nil
}

// sealOf is where the seal of a document is kept.
func sealOf(path string) string { return path + ".seal" }

// seal has the document's seal looked at, where it has one.
func (v *verify) seal(ctx context.Context, verifier *receipt.Verifier, path string) error {
	if _, err := os.Stat(sealOf(path)); err != nil {
		return nil //nolint:nilerr // it was not kept, but brought
	}
	fingerprint, err := hardware.ID(ctx, "usher")
	switch {
	case errors.Is(err, hardware.ErrNone):
		fingerprint = verifier.HardwareID // as whoever sealed it had to
	case err != nil:
		return &failure{exitUsage, "no_hardware_id", err.Error()}
	}
	verifier.Seal = &receipt.Seal{Path: sealOf(path), Fingerprint: fingerprint}
	return nil
}

func isURL(place string) bool {
	return strings.HasPrefix(place, "https://") || strings.HasPrefix(place, "http://")
}

// largestFile bounds what is read as a document or a key.
const largestFile = 1 << 20

// open reads a file, or standard input.
func (v *verify) open(path string) ([]byte, error) {
	file := os.Stdin
	if path != "-" {
		var err error
		if file, err = os.Open(path); err != nil {
			return nil, &failure{exitUsage, "unreadable", err.Error()}
		}
		defer func() { _ = file.Close() }()
	}
	text, err := io.ReadAll(io.LimitReader(file, largestFile))
	if err != nil {
		return nil, &failure{exitUsage, "unreadable", err.Error()}
	}
	return text, nil
}

// fetch reads a file, or asks a URL.
func (v *verify) fetch(ctx context.Context, place string) ([]byte, error) {
	if !isURL(place) {
		return v.open(place)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, place, nil)
	if err != nil {
		return nil, wrong("%s is no URL", place)
	}
	response, err := (&http.Client{Timeout: attemptTime}).Do(r)
	if err != nil {
		return nil, &failure{exitUnreachable, "unreachable", fmt.Sprintf("%s cannot be reached: %v", place, errors.Unwrap(err))}
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(response.Body, largestFile))
	if err != nil || response.StatusCode != http.StatusOK {
		return nil, &failure{exitUnreachable, "unreachable", fmt.Sprintf("%s answers with status %d", place, response.StatusCode)}
	}
	return text, nil
}
