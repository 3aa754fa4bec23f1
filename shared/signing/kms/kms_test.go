package kms_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/coditect/usher/shared/platform/localenv"
	"github.com/coditect/usher/shared/platform/testenv"
	"github.com/coditect/usher/shared/signing/kms"
)

const (
	rootKey     = "projects/p/locations/l/keyRings/r/cryptoKeys/roots"
	wrappingKey = "projects/p/locations/l/keyRings/r/cryptoKeys/receipts"
)

func open(t *testing.T) (*kms.Vault, *localenv.Cloud) {
	t.Helper()
	c := testenv.Cloud(t)
	must(t, c.MakeSigningKey(rootKey))
	must(t, c.MakeEncryptionKey(wrappingKey))
	v, err := kms.Open(func(name string) string {
		return map[string]string{
			"CLOUD_EMULATOR": c.Addr(), "KMS_ROOT_KEY": rootKey, "KMS_WRAPPING_KEY": wrappingKey, "KMS_TIMEOUT": "10s",
		}[name]
	}, kms.Wrap|kms.Rotate)
	must(t, err)
	t.Cleanup(func() { must(t, v.Close()) })
	return v, c
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// root makes a version, and answers it with its public half.
func root(t *testing.T, v *kms.Vault) (string, *ecdsa.PublicKey) {
	t.Helper()
	made, err := v.Create(t.Context())
	must(t, err)
	public, err := v.PublicKey(t.Context(), made.Name)
	must(t, err)
	return made.Name, public
}

func TestAVersionSignsUntilItIsDisabled(t *testing.T) {
	t.Parallel()
	v, _ := open(t)
	name, public := root(t, v)
	digest := sha256.Sum256([]byte("what is signed"))
	signer := v.Signer(t.Context(), name, public)
	signature, err := signer.Sign(rand.Reader, digest[:], crypto.SHA256)
	must(t, err)
	if !ecdsa.VerifyASN1(public, digest[:], signature) {
		t.Error("the signature does not verify")
	}
	_, other := root(t, v)
	if _, err := v.Signer(t.Context(), name, other).Sign(rand.Reader, digest[:], crypto.SHA256); err == nil {
		t.Error("a signature by another key than the one we know was taken")
	}
	if _, err := signer.Sign(rand.Reader, digest[:], crypto.SHA512); err == nil {
		t.Error("another digest was signed")
	}
	must(t, v.Disable(t.Context(), name))
	must(t, v.Disable(t.Context(), name)) // again
	if _, err := signer.Sign(rand.Reader, digest[:], crypto.SHA256); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("a disabled version answers %v", err)
	}
	if _, err := v.PublicKey(t.Context(), name); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("the public key of a disabled version: %v", err)
	}
	must(t, v.Destroy(t.Context(), name))
	must(t, v.Destroy(t.Context(), name))
	must(t, v.Disable(t.Context(), name)) // it signs no more, which is what was asked for
	if _, err := v.Signer(t.Context(), rootKey+"/cryptoKeyVersions/77", public).Sign(rand.Reader, digest[:], crypto.SHA256); status.Code(err) != codes.NotFound {
		t.Errorf("a version that is not there answers %v", err)
	}
}

func TestAllVersionsAreListedWithWhatTheyAre(t *testing.T) {
	t.Parallel()
	v, c := open(t)
	for range 7 { // more than a page
		_, err := v.Create(t.Context())
		must(t, err)
	}
	must(t, c.ImportVersion(rootKey))
	all, err := v.Versions(t.Context())
	must(t, err)
	must(t, v.Disable(t.Context(), all[1].Name))
	must(t, v.Destroy(t.Context(), all[2].Name))
	all, err = v.Versions(t.Context())
	must(t, err)
	if len(all) != 8 || all[0].State != kms.Enabled || all[1].State != kms.Disabled || all[2].State != kms.Destroyed || all[0].Foreign || !all[7].Foreign {
		t.Errorf("the versions are %+v", all)
	}
}

func TestAWrappedKeyIsOfUseWithItsNameOnly(t *testing.T) {
	t.Parallel()
	v, _ := open(t)
	wrapped, err := v.Wrap(t.Context(), "kid-1", []byte("a private key"))
	must(t, err)
	if bytes.Contains(wrapped, []byte("private")) {
		t.Error("it is not encrypted")
	}
	key, err := v.Unwrap(t.Context(), "kid-1", wrapped)
	must(t, err)
	if string(key) != "a private key" {
		t.Errorf("unwrapped is %q", key)
	}
	if _, err := v.Unwrap(t.Context(), "kid-2", wrapped); status.Code(err) != codes.InvalidArgument {
		t.Errorf("under another name it answers %v", err)
	}
	wrapped[len(wrapped)-1] ^= 1
	if _, err := v.Unwrap(t.Context(), "kid-1", wrapped); status.Code(err) != codes.InvalidArgument {
		t.Errorf("altered it answers %v", err)
	}
}

func TestWhatWasMangledOnItsWayIsRefused(t *testing.T) {
	t.Parallel()
	v, c := open(t)
	name, public := root(t, v)
	wrapped, err := v.Wrap(t.Context(), "kid", []byte("key"))
	must(t, err)
	digest := sha256.Sum256(nil)
	for method, call := range map[string]func() error{
		"AsymmetricSign": func() error {
			_, err := v.Signer(t.Context(), name, public).Sign(rand.Reader, digest[:], crypto.SHA256)
			return err
		},
		"GetPublicKey": func() error { _, err := v.PublicKey(t.Context(), name); return err },
		"Encrypt":      func() error { _, err := v.Wrap(t.Context(), "kid", []byte("key")); return err },
		"Decrypt":      func() error { _, err := v.Unwrap(t.Context(), "kid", wrapped); return err },
	} {
		must(t, call())
		c.Corrupt(method, true)
		if err := call(); err == nil || !strings.Contains(err.Error(), "mangled") {
			t.Errorf("%s with a wrong checksum: %v", method, err)
		}
	}
}

// TestWhatMayBeRepeatedIs takes the errors that the services document.
func TestWhatMayBeRepeatedIs(t *testing.T) {
	t.Parallel()
	v, c := open(t)
	name, _ := root(t, v)
	wrapped, err := v.Wrap(t.Context(), "kid", []byte("key"))
	must(t, err)
	failing := map[string]codes.Code{}
	c.Interfere(func(method string, answered bool) error {
		code := failing[method]
		if answered || code == codes.OK {
			return nil
		}
		delete(failing, method)
		return status.Error(code, "as the test wants")
	})
	for _, at := range []struct {
		method string
		code   codes.Code
		again  bool
		call   func() error
	}{
		{"Decrypt", codes.Unavailable, true, func() error { _, err := v.Unwrap(t.Context(), "kid", wrapped); return err }},
		{"GetPublicKey", codes.Unavailable, true, func() error { _, err := v.PublicKey(t.Context(), name); return err }},
		{"CreateCryptoKeyVersion", codes.Unavailable, false, func() error { _, err := v.Create(t.Context()); return err }},
		{"Decrypt", codes.ResourceExhausted, false, func() error { _, err := v.Unwrap(t.Context(), "kid", wrapped); return err }},
		{"Decrypt", codes.PermissionDenied, false, func() error { _, err := v.Unwrap(t.Context(), "kid", wrapped); return err }},
	} {
		before := c.Calls()[at.method]
		failing[at.method] = at.code
		err := at.call()
		calls := c.Calls()[at.method] - before
		if (err == nil) != at.again || (calls > 1) != at.again {
			t.Errorf("%s that fails once with %s: %d calls, %v", at.method, at.code, calls, err)
		}
		if err != nil && status.Code(err) != at.code {
			t.Errorf("%s: the code is lost: %v", at.method, err)
		}
	}
}

func TestACallEndsAtItsDeadline(t *testing.T) {
	t.Parallel()
	c := testenv.Cloud(t)
	must(t, c.MakeEncryptionKey(wrappingKey))
	hang := make(chan struct{})
	c.Interfere(func(string, bool) error { <-hang; return nil })
	defer close(hang)
	v, err := kms.Open(func(name string) string {
		return map[string]string{"CLOUD_EMULATOR": c.Addr(), "KMS_WRAPPING_KEY": wrappingKey, "KMS_TIMEOUT": "100ms"}[name]
	}, kms.Wrap)
	must(t, err)
	defer v.Close()
	began := time.Now()
	if _, err := v.Wrap(t.Context(), "kid", nil); err == nil {
		t.Error("it answered")
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
}

func TestFaultsOfTheEnvironmentAreNamedAllAtOnce(t *testing.T) {
	t.Parallel()
	_, err := kms.Open(func(name string) string {
		return map[string]string{"KMS_ROOT_KEY": "hunter2", "CLOUD_EMULATOR": "hunter2:1"}[name]
	}, kms.Wrap|kms.Rotate)
	if err == nil {
		t.Fatal("it opened")
	}
	text := err.Error()
	if strings.Contains(text, "hunter2") {
		t.Errorf("the values show: %s", text)
	}
	for _, variable := range []string{"KMS_ROOT_KEY", "KMS_WRAPPING_KEY", "CLOUD_EMULATOR"} {
		if !strings.Contains(text, variable) {
			t.Errorf("%s is not named: %s", variable, text)
		}
	}
	if _, err := kms.Open(func(string) string { return "" }, kms.Sign); err != nil {
		t.Errorf("who only signs needs a key by name: %v", err)
	}
}
