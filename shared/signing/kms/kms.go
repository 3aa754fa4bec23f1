// Package kms is the door to Cloud KMS. Root keys live there and never leave it: it signs with them, and it wraps and
// unwraps the keys of a day.
//
// Every call has a deadline. What may be repeated is repeated by Google's own client within it, and nothing else is.
// Every message is checked by CRC32C both ways, and a signature against the key that is to have made it.
//
// The package must not know what is signed, or when a key is replaced.
package kms

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	kms "cloud.google.com/go/kms/apiv1"
	"cloud.google.com/go/kms/apiv1/kmspb"
	"google.golang.org/api/iterator"
	"google.golang.org/api/option"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/coditect/usher/shared/platform/cloud"
	"github.com/coditect/usher/shared/platform/config"
	"github.com/coditect/usher/shared/platform/telemetry"
)

var calls = telemetry.NewHistogram("usher.kms.duration", "Calls of Cloud KMS with their repetitions, and how long each took.", "usher.deed", "usher.outcome")

// Config says which keys of Cloud KMS are ours.
type Config struct {
	// WrappingKey encrypts receipt keys: projects/…/locations/…/keyRings/…/cryptoKeys/…, of purpose ENCRYPT_DECRYPT.
	WrappingKey string `env:"KMS_WRAPPING_KEY"`
	// RootKey is the CryptoKey whose versions are the roots, EC_SIGN_P256_SHA256.
	RootKey string `env:"KMS_ROOT_KEY"`
	// Timeout bounds one call with its repetitions.
	Timeout time.Duration `env:"KMS_TIMEOUT" envDefault:"2s"`
}

// Vault is our part of Cloud KMS. It is safe for concurrent use.
type Vault struct {
	cfg     Config
	options []option.ClientOption

	mu     sync.Mutex
	client *kms.KeyManagementClient // nil until first needed
}

// Use is what a function does with Cloud KMS, and so which keys it must be told of.
type Use uint8

const (
	// Sign needs no key by name: what is signed with says where its version is.
	Sign Use = 0
	// Wrap needs KMS_WRAPPING_KEY.
	Wrap Use = 1
	// Rotate needs KMS_ROOT_KEY.
	Rotate Use = 2
)

// Open reads Config from the environment. It does not connect: a process starts without waiting for Cloud KMS. The caller
// closes it.
func Open(getenv func(string) string, use Use) (*Vault, error) {
	var cfg Config
	err := config.Load(&cfg, getenv)
	options, err2 := cloud.Open(getenv)
	faults := []error{err, err2}
	for _, at := range []struct {
		variable, value string
		use             Use
	}{{"KMS_WRAPPING_KEY", cfg.WrappingKey, Wrap}, {"KMS_ROOT_KEY", cfg.RootKey, Rotate}} {
		switch {
		case err != nil || use&at.use == 0:
		case at.value == "":
			faults = append(faults, &config.Fault{Variable: at.variable, Problem: "is required and not set"})
		case !isKeyName(at.value):
			faults = append(faults, &config.Fault{Variable: at.variable, Problem: "is not projects/…/locations/…/keyRings/…/cryptoKeys/…"})
		}
	}
	if err == nil && cfg.Timeout <= 0 {
		faults = append(faults, &config.Fault{Variable: "KMS_TIMEOUT", Problem: "must be above zero"})
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	return &Vault{cfg: cfg, options: options}, nil
}

func isKeyName(name string) bool {
	parts := strings.Split(name, "/")
	if len(parts) != 8 {
		return false
	}
	for i, collection := range []string{"projects", "locations", "keyRings", "cryptoKeys"} {
		if parts[2*i] != collection || parts[2*i+1] == "" {
			return false
		}
	}
	return true
}

// Close ends the connection.
func (v *Vault) Close() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.client == nil {
		return nil
	}
	client := v.client
	v.client = nil
	return client.Close()
}

// dial is the client, made when first needed.
func (v *Vault) dial(ctx context.Context) (*kms.KeyManagementClient, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.client == nil {
		client, err := kms.NewKeyManagementClient(ctx, v.options...)
		if err != nil {
			return nil, fmt.Errorf("reach Cloud KMS: %w", err)
		}
		v.client = client
	}
	return v.client, nil
}

// call makes one call, by its deadline.
func (v *Vault) call(ctx context.Context, deed, object string, fn func(ctx context.Context, c *kms.KeyManagementClient) error) error {
	ctx, cancel := context.WithTimeout(ctx, v.cfg.Timeout)
	defer cancel()
	ctx, end := telemetry.Span(ctx, "KMS "+deed)
	begun := time.Now()
	client, err := v.dial(context.WithoutCancel(ctx)) // the client outlives this call
	if err == nil {
		err = fn(ctx, client)
	}
	end(err)
	calls.Record(ctx, time.Since(begun).Seconds(), deed, telemetry.Outcome(err))
	if err != nil {
		return fmt.Errorf("%s %s in Cloud KMS: %w", deed, object, err)
	}
	return nil
}

// errMangled says that a message did not arrive as it was sent.
var errMangled = errors.New("the checksum does not match: the message was mangled on its way")

func sum(b []byte) *wrapperspb.Int64Value { return wrapperspb.Int64(cloud.Checksum(b)) }

// intact is whether an answer arrived as it was sent, and so had the request.
func intact(requestVerified bool, answer []byte, checksum *wrapperspb.Int64Value) error {
	if !requestVerified || checksum == nil || checksum.GetValue() != cloud.Checksum(answer) {
		return errMangled
	}
	return nil
}

// Wrap encrypts a key that belongs to a name, which must be given to unwrap it.
func (v *Vault) Wrap(ctx context.Context, name string, key []byte) (wrapped []byte, err error) {
	err = v.call(ctx, "wrap key", name, func(ctx context.Context, c *kms.KeyManagementClient) error {
		r, err := c.Encrypt(ctx, &kmspb.EncryptRequest{
			Name: v.cfg.WrappingKey, Plaintext: key, PlaintextCrc32C: sum(key),
			AdditionalAuthenticatedData: []byte(name), AdditionalAuthenticatedDataCrc32C: sum([]byte(name)),
		})
		if err != nil {
			return err
		}
		wrapped = r.GetCiphertext()
		return intact(r.GetVerifiedPlaintextCrc32C() && r.GetVerifiedAdditionalAuthenticatedDataCrc32C(), wrapped, r.GetCiphertextCrc32C())
	})
	return wrapped, err
}

// Unwrap decrypts what Wrap made of the key of that name.
func (v *Vault) Unwrap(ctx context.Context, name string, wrapped []byte) (key []byte, err error) {
	err = v.call(ctx, "unwrap key", name, func(ctx context.Context, c *kms.KeyManagementClient) error {
		r, err := c.Decrypt(ctx, &kmspb.DecryptRequest{
			Name: v.cfg.WrappingKey, Ciphertext: wrapped, CiphertextCrc32C: sum(wrapped),
			AdditionalAuthenticatedData: []byte(name), AdditionalAuthenticatedDataCrc32C: sum([]byte(name)),
		})
		if err != nil {
			return err
		}
		key = r.GetPlaintext()
		return intact(true, key, r.GetPlaintextCrc32C()) // Cloud KMS refuses a request that was mangled
	})
	return key, err
}

// State is what a version can be used for.
type State uint8

// The states of a version.
const (
	// Pending is being made.
	Pending State = iota
	// Enabled signs.
	Enabled
	// Disabled signs no more, and may be enabled again.
	Disabled
	// Destroyed is gone, or will be at the end of its time.
	Destroyed
)

// Version is a version of the root key.
type Version struct {
	Name  string
	State State
	// Foreign says that it is no key that Cloud KMS made for P-256 itself: its private half may be known elsewhere.
	Foreign bool
}

func versionOf(p *kmspb.CryptoKeyVersion) Version {
	out := Version{
		Name: p.GetName(), State: Destroyed,
		Foreign: p.GetImportJob() != "" || p.GetImportTime() != nil || p.GetAlgorithm() != kmspb.CryptoKeyVersion_EC_SIGN_P256_SHA256,
	}
	switch p.GetState() {
	case kmspb.CryptoKeyVersion_PENDING_GENERATION, kmspb.CryptoKeyVersion_PENDING_IMPORT:
		out.State = Pending
	case kmspb.CryptoKeyVersion_ENABLED:
		out.State = Enabled
	case kmspb.CryptoKeyVersion_DISABLED:
		out.State = Disabled
	}
	return out
}

// Versions are all versions of the root key, the oldest first.
func (v *Vault) Versions(ctx context.Context) (all []Version, err error) {
	err = v.call(ctx, "list the versions of", v.cfg.RootKey, func(ctx context.Context, c *kms.KeyManagementClient) error {
		for at := c.ListCryptoKeyVersions(ctx, &kmspb.ListCryptoKeyVersionsRequest{Parent: v.cfg.RootKey}); ; {
			p, err := at.Next()
			if errors.Is(err, iterator.Done) {
				return nil
			}
			if err != nil {
				return err
			}
			all = append(all, versionOf(p))
		}
	})
	return all, err
}

// Create makes a version of the root key. It is not repeated: one whose answer got lost is among the Versions.
func (v *Vault) Create(ctx context.Context) (made Version, err error) {
	err = v.call(ctx, "make a version of", v.cfg.RootKey, func(ctx context.Context, c *kms.KeyManagementClient) error {
		p, err := c.CreateCryptoKeyVersion(ctx, &kmspb.CreateCryptoKeyVersionRequest{Parent: v.cfg.RootKey, CryptoKeyVersion: &kmspb.CryptoKeyVersion{}})
		made = versionOf(p)
		return err
	})
	return made, err
}

// PublicKey is the public half of a version, which must be enabled.
func (v *Vault) PublicKey(ctx context.Context, version string) (key *ecdsa.PublicKey, err error) {
	err = v.call(ctx, "read the public key of", version, func(ctx context.Context, c *kms.KeyManagementClient) error {
		p, err := c.GetPublicKey(ctx, &kmspb.GetPublicKeyRequest{Name: version})
		if err != nil {
			return err
		}
		if err := intact(p.GetName() == version, []byte(p.GetPem()), p.GetPemCrc32C()); err != nil {
			return err
		}
		block, _ := pem.Decode([]byte(p.GetPem()))
		if block == nil {
			return errors.New("the public key is not PEM")
		}
		parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return err
		}
		var ok bool
		if key, ok = parsed.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P256() {
			return errors.New("the public key is not P-256")
		}
		return nil
	})
	return key, err
}

// Disable makes a version sign no more; one that is destroyed already stays so.
func (v *Vault) Disable(ctx context.Context, version string) error {
	return done(v.call(ctx, "disable", version, func(ctx context.Context, c *kms.KeyManagementClient) error {
		_, err := c.UpdateCryptoKeyVersion(ctx, &kmspb.UpdateCryptoKeyVersionRequest{
			CryptoKeyVersion: &kmspb.CryptoKeyVersion{Name: version, State: kmspb.CryptoKeyVersion_DISABLED},
			UpdateMask:       &fieldmaskpb.FieldMask{Paths: []string{"state"}},
		})
		return err
	}))
}

// Destroy asks for the destruction of a version, which Cloud KMS carries out at the end of the key's own time for it.
func (v *Vault) Destroy(ctx context.Context, version string) error {
	return done(v.call(ctx, "destroy", version, func(ctx context.Context, c *kms.KeyManagementClient) error {
		_, err := c.DestroyCryptoKeyVersion(ctx, &kmspb.DestroyCryptoKeyVersionRequest{Name: version})
		return err
	}))
}

// done takes "it is so already" for done.
func done(err error) error {
	if status.Code(errors.Unwrap(err)) == codes.FailedPrecondition {
		return nil
	}
	return err
}

// Signer signs SHA-256 digests with a version, of which it is told the public half. The context is that of its calls.
func (v *Vault) Signer(ctx context.Context, version string, public *ecdsa.PublicKey) crypto.Signer {
	return &signer{ctx, v, version, public}
}

type signer struct {
	ctx     context.Context //nolint:containedctx // crypto.Signer has no place for it
	vault   *Vault
	version string
	public  *ecdsa.PublicKey
}

// Public is the version's public half.
func (s *signer) Public() crypto.PublicKey { return s.public }

// Sign answers the signature as an ASN.1 sequence of r and s.
func (s *signer) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) (signature []byte, err error) {
	if opts.HashFunc() != crypto.SHA256 || len(digest) != crypto.SHA256.Size() {
		return nil, errors.New("a root signs SHA-256 digests only")
	}
	err = s.vault.call(s.ctx, "sign with", s.version, func(ctx context.Context, c *kms.KeyManagementClient) error {
		r, err := c.AsymmetricSign(ctx, &kmspb.AsymmetricSignRequest{
			Name: s.version, Digest: &kmspb.Digest{Digest: &kmspb.Digest_Sha256{Sha256: digest}}, DigestCrc32C: sum(digest),
		})
		if err != nil {
			return err
		}
		signature = r.GetSignature()
		if err := intact(r.GetVerifiedDigestCrc32C() && r.GetName() == s.version, signature, r.GetSignatureCrc32C()); err != nil {
			return err
		}
		if !ecdsa.VerifyASN1(s.public, digest, signature) {
			return errors.New("the signature is not by the key that we know of this version")
		}
		return nil
	})
	return signature, err
}
