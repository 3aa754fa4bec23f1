package localenv

import (
	"bytes"
	"cmp"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"cloud.google.com/go/kms/apiv1/kmspb"
	"cloud.google.com/go/secretmanager/apiv1/secretmanagerpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/coditect/usher/shared/platform/cloud"
)

// Cloud stands in for Cloud KMS and Secret Manager: it speaks their gRPC on loopback, keeps real keys, and refuses what
// they refuse, with their codes. It asks nobody who they are.
type Cloud struct {
	server *grpc.Server
	addr   string

	mu        sync.Mutex
	file      string
	mounts    map[string]string
	state     cloudState
	calls     map[string]int
	interfere func(method string, answered bool) error
	corrupt   map[string]bool
}

// CloudOptions say what a Cloud keeps where.
type CloudOptions struct {
	// File keeps the keys and secrets; without it they end with the process.
	File string
	// Mounts are files that hold the newest version of a secret, by its name, as a volume on Cloud Run does.
	Mounts map[string]string
}

// cloudState is what the file holds.
type cloudState struct {
	Keys    map[string]*cloudKey    `json:"keys"`
	Secrets map[string]*cloudSecret `json:"secrets"`
}

type cloudKey struct {
	// Signs tells EC_SIGN_P256_SHA256 from GOOGLE_SYMMETRIC_ENCRYPTION.
	Signs    bool            `json:"signs"`
	Versions []*cloudVersion `json:"versions"`
}

type cloudVersion struct {
	State    kmspb.CryptoKeyVersion_CryptoKeyVersionState `json:"state"`
	Created  time.Time                                    `json:"created"`
	Material []byte                                       `json:"material"` // PKCS #8, or 32 bytes
	Imported bool                                         `json:"imported,omitempty"`
}

type cloudSecret struct {
	Versions [][]byte `json:"versions"`
}

// StartCloud serves on a free loopback port. The caller stops it with Close.
func StartCloud(ctx context.Context, o CloudOptions) (*Cloud, error) {
	c := &Cloud{
		file: o.File, mounts: o.Mounts, calls: map[string]int{}, corrupt: map[string]bool{},
		state: cloudState{Keys: map[string]*cloudKey{}, Secrets: map[string]*cloudSecret{}},
	}
	if o.File != "" {
		text, err := os.ReadFile(o.File)
		if err == nil {
			err = json.Unmarshal(text, &c.state)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("read the keys of the stand-in for the cloud: %w", err)
		}
	}
	for secret := range c.mounts {
		if err := c.mount(secret); err != nil {
			return nil, err
		}
	}
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for the stand-in for the cloud: %w", err)
	}
	c.addr = l.Addr().String()
	c.server = grpc.NewServer(grpc.UnaryInterceptor(c.intercept))
	kmspb.RegisterKeyManagementServiceServer(c.server, cloudKMS{cloud: c})
	secretmanagerpb.RegisterSecretManagerServiceServer(c.server, cloudSecrets{cloud: c})
	go func() { _ = c.server.Serve(l) }() // ends with Close
	return c, nil
}

// Addr is host:port.
func (c *Cloud) Addr() string { return c.addr }

// Close stops serving. What was kept in a file stays.
func (c *Cloud) Close() error { c.server.Stop(); return nil }

// MakeSigningKey makes a CryptoKey that signs with P-256, without a version, unless it is there.
func (c *Cloud) MakeSigningKey(name string) error { return c.makeKey(name, true) }

// MakeEncryptionKey makes a CryptoKey that encrypts, with a first version, unless it is there.
func (c *Cloud) MakeEncryptionKey(name string) error { return c.makeKey(name, false) }

func (c *Cloud) makeKey(name string, signs bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state.Keys[name] != nil {
		return nil
	}
	key := &cloudKey{Signs: signs}
	c.state.Keys[name] = key
	if !signs {
		if err := key.add(); err != nil {
			return err
		}
	}
	return c.keep()
}

// ImportVersion adds a version to a signing key whose private half came from outside.
func (c *Cloud) ImportVersion(key string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.state.Keys[key].add(); err != nil {
		return err
	}
	versions := c.state.Keys[key].Versions
	versions[len(versions)-1].Imported = true
	return c.keep()
}

// MakeSecret makes a secret without a version, unless it is there.
func (c *Cloud) MakeSecret(name string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state.Secrets[name] != nil {
		return nil
	}
	c.state.Secrets[name] = &cloudSecret{}
	return c.keep()
}

// Calls is how often each method was called, such as "AsymmetricSign".
func (c *Cloud) Calls() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.calls)
}

// Interfere lets fn decide about each call twice: before it is carried out, and afterwards, when an error is an answer
// that got lost. Nil ends it.
func (c *Cloud) Interfere(fn func(method string, answered bool) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.interfere = fn
}

// Corrupt makes the checksums wrong in the answers of a method.
func (c *Cloud) Corrupt(method string, wrong bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.corrupt[method] = wrong
}

func (c *Cloud) intercept(ctx context.Context, request any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	method := path.Base(info.FullMethod)
	c.mu.Lock()
	c.calls[method]++
	interfere := c.interfere
	c.mu.Unlock()
	if interfere != nil {
		if err := interfere(method, false); err != nil {
			return nil, err
		}
	}
	answer, err := handle(ctx, request)
	if err == nil && interfere != nil {
		err = interfere(method, true)
	}
	return answer, err
}

// keep writes the file. It is called with the lock held.
func (c *Cloud) keep() error {
	if c.file == "" {
		return nil
	}
	text, err := json.Marshal(c.state)
	if err != nil {
		return fmt.Errorf("keep the keys of the stand-in for the cloud: %w", err)
	}
	return replaceFile(c.file, text)
}

// mount writes the newest version of a secret where it is mounted.
func (c *Cloud) mount(name string) error {
	file, secret := c.mounts[name], c.state.Secrets[name]
	if file == "" || secret == nil || len(secret.Versions) == 0 {
		return nil
	}
	return replaceFile(file, secret.Versions[len(secret.Versions)-1])
}

// replaceFile writes a file that only its owner reads, in one piece.
func replaceFile(file string, content []byte) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	if err := os.WriteFile(file+".new", content, 0o600); err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	return nil
}

// add makes the next version of a key.
func (k *cloudKey) add() error {
	v := &cloudVersion{State: kmspb.CryptoKeyVersion_ENABLED, Created: time.Now()}
	if k.Signs {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return err
		}
		if v.Material, err = x509.MarshalPKCS8PrivateKey(key); err != nil {
			return err
		}
	} else {
		v.Material = make([]byte, 32)
		_, _ = rand.Read(v.Material) // never fails
	}
	k.Versions = append(k.Versions, v)
	return nil
}

// cloudKMS is the key management service.
type cloudKMS struct {
	kmspb.UnimplementedKeyManagementServiceServer
	cloud *Cloud
}

const versionsPart = "/cryptoKeyVersions/"

// key finds a CryptoKey. It is called with the lock held, as are the others.
func (s cloudKMS) key(name string) (*cloudKey, error) {
	key := s.cloud.state.Keys[name]
	if key == nil {
		return nil, status.Errorf(codes.NotFound, "CryptoKey %s not found.", name)
	}
	return key, nil
}

func (s cloudKMS) version(name string) (*cloudKey, *cloudVersion, error) {
	parent, number, _ := strings.Cut(name, versionsPart)
	key := s.cloud.state.Keys[parent]
	n, err := strconv.Atoi(number)
	if key == nil || err != nil || n < 1 || n > len(key.Versions) {
		return nil, nil, status.Errorf(codes.NotFound, "CryptoKeyVersion %s not found.", name)
	}
	return key, key.Versions[n-1], nil
}

// enabled finds a version that may be used.
func (s cloudKMS) enabled(name string) (*cloudVersion, error) {
	_, v, err := s.version(name)
	if err == nil && v.State != kmspb.CryptoKeyVersion_ENABLED {
		err = status.Errorf(codes.FailedPrecondition, "%s is not enabled, current state is: %s.", name, v.State)
	}
	return v, err
}

func (s cloudKMS) describe(name string, key *cloudKey, v *cloudVersion) *kmspb.CryptoKeyVersion {
	out := &kmspb.CryptoKeyVersion{
		Name: name, State: v.State, CreateTime: timestamppb.New(v.Created), ProtectionLevel: kmspb.ProtectionLevel_SOFTWARE,
		Algorithm: kmspb.CryptoKeyVersion_GOOGLE_SYMMETRIC_ENCRYPTION,
	}
	if key.Signs {
		out.Algorithm = kmspb.CryptoKeyVersion_EC_SIGN_P256_SHA256
	}
	if v.Imported {
		out.ImportJob, out.ImportTime = "importJobs/1", timestamppb.New(v.Created)
	}
	return out
}

// sum is the checksum of an answer, wrong where the test wants it.
func (c *Cloud) sum(method string, b []byte) *wrapperspb.Int64Value {
	value := cloud.Checksum(b)
	if c.corrupt[method] {
		value ^= 1
	}
	return wrapperspb.Int64(value)
}

// arrived checks what the caller says about what it sent.
func arrived(what string, b []byte, sum *wrapperspb.Int64Value) error {
	if sum != nil && sum.GetValue() != cloud.Checksum(b) {
		return status.Errorf(codes.InvalidArgument, "The checksum in field %s_crc32c did not match the data in field %s.", what, what)
	}
	return nil
}

func (s cloudKMS) CreateCryptoKeyVersion(_ context.Context, r *kmspb.CreateCryptoKeyVersionRequest) (*kmspb.CryptoKeyVersion, error) {
	s.cloud.mu.Lock()
	defer s.cloud.mu.Unlock()
	key, err := s.key(r.GetParent())
	if err != nil {
		return nil, err
	}
	if err := errors.Join(key.add(), s.cloud.keep()); err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	n := len(key.Versions)
	return s.describe(r.GetParent()+versionsPart+strconv.Itoa(n), key, key.Versions[n-1]), nil
}

func (s cloudKMS) ListCryptoKeyVersions(_ context.Context, r *kmspb.ListCryptoKeyVersionsRequest) (*kmspb.ListCryptoKeyVersionsResponse, error) {
	s.cloud.mu.Lock()
	defer s.cloud.mu.Unlock()
	key, err := s.key(r.GetParent())
	if err != nil {
		return nil, err
	}
	// Pages are small, so that whoever reads only the first is found out.
	const page = 3
	from, _ := strconv.Atoi(r.GetPageToken())
	out := &kmspb.ListCryptoKeyVersionsResponse{TotalSize: int32(len(key.Versions))}
	for i := from; i < min(from+page, len(key.Versions)); i++ {
		out.CryptoKeyVersions = append(out.CryptoKeyVersions, s.describe(r.GetParent()+versionsPart+strconv.Itoa(i+1), key, key.Versions[i]))
	}
	if from+page < len(key.Versions) {
		out.NextPageToken = strconv.Itoa(from + page)
	}
	return out, nil
}

func (s cloudKMS) GetPublicKey(_ context.Context, r *kmspb.GetPublicKeyRequest) (*kmspb.PublicKey, error) {
	s.cloud.mu.Lock()
	defer s.cloud.mu.Unlock()
	v, err := s.enabled(r.GetName())
	if err != nil {
		return nil, err
	}
	signer, err := v.signer()
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(signer.Public())
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	return &kmspb.PublicKey{
		Pem: string(text), PemCrc32C: s.cloud.sum("GetPublicKey", text), Name: r.GetName(), Algorithm: kmspb.CryptoKeyVersion_EC_SIGN_P256_SHA256,
	}, nil
}

func (v *cloudVersion) signer() (*ecdsa.PrivateKey, error) {
	key, err := x509.ParsePKCS8PrivateKey(v.Material)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, "The key's purpose is not ASYMMETRIC_SIGN.")
	}
	return key.(*ecdsa.PrivateKey), nil
}

func (s cloudKMS) AsymmetricSign(_ context.Context, r *kmspb.AsymmetricSignRequest) (*kmspb.AsymmetricSignResponse, error) {
	s.cloud.mu.Lock()
	defer s.cloud.mu.Unlock()
	v, err := s.enabled(r.GetName())
	if err != nil {
		return nil, err
	}
	digest := r.GetDigest().GetSha256()
	if len(digest) != sha256.Size {
		return nil, status.Error(codes.InvalidArgument, "The digest must be a SHA-256 one, of 32 bytes.")
	}
	if err := arrived("digest", digest, r.GetDigestCrc32C()); err != nil {
		return nil, err
	}
	signer, err := v.signer()
	if err != nil {
		return nil, err
	}
	signature, err := ecdsa.SignASN1(rand.Reader, signer, digest)
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return &kmspb.AsymmetricSignResponse{
		Signature: signature, SignatureCrc32C: s.cloud.sum("AsymmetricSign", signature), VerifiedDigestCrc32C: r.GetDigestCrc32C() != nil,
		Name: r.GetName(), ProtectionLevel: kmspb.ProtectionLevel_SOFTWARE,
	}, nil
}

func (s cloudKMS) UpdateCryptoKeyVersion(_ context.Context, r *kmspb.UpdateCryptoKeyVersionRequest) (*kmspb.CryptoKeyVersion, error) {
	s.cloud.mu.Lock()
	defer s.cloud.mu.Unlock()
	name, wanted := r.GetCryptoKeyVersion().GetName(), r.GetCryptoKeyVersion().GetState()
	key, v, err := s.version(name)
	if err != nil {
		return nil, err
	}
	usable := func(state kmspb.CryptoKeyVersion_CryptoKeyVersionState) bool {
		return state == kmspb.CryptoKeyVersion_ENABLED || state == kmspb.CryptoKeyVersion_DISABLED
	}
	if !slices.Contains(r.GetUpdateMask().GetPaths(), "state") || !usable(wanted) {
		return nil, status.Error(codes.InvalidArgument, "Only the state can be updated, to ENABLED or DISABLED.")
	}
	if !usable(v.State) {
		return nil, status.Errorf(codes.FailedPrecondition, "%s cannot be updated, current state is: %s.", name, v.State)
	}
	v.State = wanted
	if err := s.cloud.keep(); err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return s.describe(name, key, v), nil
}

func (s cloudKMS) DestroyCryptoKeyVersion(_ context.Context, r *kmspb.DestroyCryptoKeyVersionRequest) (*kmspb.CryptoKeyVersion, error) {
	s.cloud.mu.Lock()
	defer s.cloud.mu.Unlock()
	key, v, err := s.version(r.GetName())
	if err != nil {
		return nil, err
	}
	if v.State != kmspb.CryptoKeyVersion_ENABLED && v.State != kmspb.CryptoKeyVersion_DISABLED {
		return nil, status.Errorf(codes.FailedPrecondition, "%s cannot be destroyed, current state is: %s.", r.GetName(), v.State)
	}
	v.State = kmspb.CryptoKeyVersion_DESTROY_SCHEDULED
	if err := s.cloud.keep(); err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return s.describe(r.GetName(), key, v), nil
}

func (s cloudKMS) Encrypt(_ context.Context, r *kmspb.EncryptRequest) (*kmspb.EncryptResponse, error) {
	s.cloud.mu.Lock()
	defer s.cloud.mu.Unlock()
	key, err := s.key(r.GetName())
	if err != nil {
		return nil, err
	}
	if key.Signs {
		return nil, status.Error(codes.InvalidArgument, "The key's purpose is not ENCRYPT_DECRYPT.")
	}
	err = cmp.Or(arrived("plaintext", r.GetPlaintext(), r.GetPlaintextCrc32C()),
		arrived("additional_authenticated_data", r.GetAdditionalAuthenticatedData(), r.GetAdditionalAuthenticatedDataCrc32C()))
	if err != nil {
		return nil, err
	}
	number := len(key.Versions) // the newest is primary
	name := r.GetName() + versionsPart + strconv.Itoa(number)
	v, err := s.enabled(name)
	if err != nil {
		return nil, err
	}
	seal, err := v.aead()
	if err != nil {
		return nil, err
	}
	out := binary.BigEndian.AppendUint32(nil, uint32(number))
	nonce := make([]byte, seal.NonceSize())
	_, _ = rand.Read(nonce) // never fails
	out = seal.Seal(append(out, nonce...), nonce, r.GetPlaintext(), r.GetAdditionalAuthenticatedData())
	return &kmspb.EncryptResponse{
		Name: name, Ciphertext: out, CiphertextCrc32C: s.cloud.sum("Encrypt", out), ProtectionLevel: kmspb.ProtectionLevel_SOFTWARE,
		VerifiedPlaintextCrc32C:                   r.GetPlaintextCrc32C() != nil,
		VerifiedAdditionalAuthenticatedDataCrc32C: r.GetAdditionalAuthenticatedDataCrc32C() != nil,
	}, nil
}

func (s cloudKMS) Decrypt(_ context.Context, r *kmspb.DecryptRequest) (*kmspb.DecryptResponse, error) {
	s.cloud.mu.Lock()
	defer s.cloud.mu.Unlock()
	if _, err := s.key(r.GetName()); err != nil {
		return nil, err
	}
	err := cmp.Or(arrived("ciphertext", r.GetCiphertext(), r.GetCiphertextCrc32C()),
		arrived("additional_authenticated_data", r.GetAdditionalAuthenticatedData(), r.GetAdditionalAuthenticatedDataCrc32C()))
	if err != nil {
		return nil, err
	}
	invalid := status.Error(codes.InvalidArgument, "Decryption failed: the ciphertext is invalid.")
	if len(r.GetCiphertext()) < 4 {
		return nil, invalid
	}
	number := binary.BigEndian.Uint32(r.GetCiphertext())
	v, err := s.enabled(r.GetName() + versionsPart + strconv.Itoa(int(number)))
	if status.Code(err) == codes.NotFound {
		return nil, invalid
	} else if err != nil {
		return nil, err
	}
	seal, err := v.aead()
	if err != nil {
		return nil, err
	}
	sealed := r.GetCiphertext()[4:]
	if len(sealed) < seal.NonceSize() {
		return nil, invalid
	}
	plain, err := seal.Open(nil, sealed[:seal.NonceSize()], sealed[seal.NonceSize():], r.GetAdditionalAuthenticatedData())
	if err != nil {
		return nil, invalid
	}
	return &kmspb.DecryptResponse{
		Plaintext: plain, PlaintextCrc32C: s.cloud.sum("Decrypt", plain), UsedPrimary: true, ProtectionLevel: kmspb.ProtectionLevel_SOFTWARE,
	}, nil
}

func (v *cloudVersion) aead() (cipher.AEAD, error) {
	block, err := aes.NewCipher(v.Material)
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return cipher.NewGCM(block)
}

// cloudSecrets is Secret Manager.
type cloudSecrets struct {
	secretmanagerpb.UnimplementedSecretManagerServiceServer
	cloud *Cloud
}

const secretVersionsPart = "/versions/"

func (s cloudSecrets) AddSecretVersion(_ context.Context, r *secretmanagerpb.AddSecretVersionRequest) (*secretmanagerpb.SecretVersion, error) {
	s.cloud.mu.Lock()
	defer s.cloud.mu.Unlock()
	secret := s.cloud.state.Secrets[r.GetParent()]
	if secret == nil {
		return nil, status.Errorf(codes.NotFound, "Secret [%s] not found.", r.GetParent())
	}
	data := r.GetPayload().GetData()
	if sum := r.GetPayload().DataCrc32C; sum != nil && *sum != cloud.Checksum(data) {
		return nil, status.Error(codes.InvalidArgument, "The checksum did not match the data.")
	}
	secret.Versions = append(secret.Versions, bytes.Clone(data))
	if err := errors.Join(s.cloud.keep(), s.cloud.mount(r.GetParent())); err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return &secretmanagerpb.SecretVersion{
		Name: r.GetParent() + secretVersionsPart + strconv.Itoa(len(secret.Versions)), State: secretmanagerpb.SecretVersion_ENABLED,
		ClientSpecifiedPayloadChecksum: r.GetPayload().DataCrc32C != nil,
	}, nil
}

func (s cloudSecrets) AccessSecretVersion(_ context.Context, r *secretmanagerpb.AccessSecretVersionRequest) (*secretmanagerpb.AccessSecretVersionResponse, error) {
	s.cloud.mu.Lock()
	defer s.cloud.mu.Unlock()
	name, version, _ := strings.Cut(r.GetName(), secretVersionsPart)
	secret := s.cloud.state.Secrets[name]
	if secret == nil || len(secret.Versions) == 0 {
		return nil, status.Errorf(codes.NotFound, "Secret [%s] not found or has no versions.", name)
	}
	n := len(secret.Versions)
	if version != "latest" {
		n, _ = strconv.Atoi(version)
	}
	if n < 1 || n > len(secret.Versions) {
		return nil, status.Errorf(codes.NotFound, "Secret Version [%s] not found.", r.GetName())
	}
	data := secret.Versions[n-1]
	return &secretmanagerpb.AccessSecretVersionResponse{
		Name:    name + secretVersionsPart + strconv.Itoa(n),
		Payload: &secretmanagerpb.SecretPayload{Data: data, DataCrc32C: new(s.cloud.sum("AccessSecretVersion", data).GetValue())},
	}, nil
}
