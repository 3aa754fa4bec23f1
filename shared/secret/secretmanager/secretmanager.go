// Package secretmanager is the door to Secret Manager, for the one function that writes secrets. Every other is given its
// secrets by the platform, as files or variables.
//
// The package must not know what a secret is for.
package secretmanager

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	secretmanager "cloud.google.com/go/secretmanager/apiv1"
	"cloud.google.com/go/secretmanager/apiv1/secretmanagerpb"
	"google.golang.org/api/option"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/coditect/usher/shared/platform/cloud"
	"github.com/coditect/usher/shared/platform/config"
)

// Config says which secret it is.
type Config struct {
	// Name is projects/…/secrets/….
	Name string `env:"SEAT_TOKEN_SECRET,required"`
	// Timeout bounds one call with its repetitions.
	Timeout time.Duration `env:"SECRET_MANAGER_TIMEOUT" envDefault:"2s"`
}

// ErrNoVersion says that a secret has no version yet, or is not there: Secret Manager does not tell which.
var ErrNoVersion = errors.New("there is no version of the secret")

// Secret is a secret, version after version. It is safe for concurrent use.
type Secret struct {
	cfg     Config
	options []option.ClientOption

	mu     sync.Mutex
	client *secretmanager.Client // nil until first needed
}

// Open reads Config from the environment. It does not connect. The caller closes it.
func Open(getenv func(string) string) (*Secret, error) {
	var cfg Config
	err := config.Load(&cfg, getenv)
	options, err2 := cloud.Open(getenv)
	faults := []error{err, err2}
	if parts := strings.Split(cfg.Name, "/"); err == nil &&
		(len(parts) != 4 || parts[0] != "projects" || parts[1] == "" || parts[2] != "secrets" || parts[3] == "") {
		faults = append(faults, &config.Fault{Variable: "SEAT_TOKEN_SECRET", Problem: "is not projects/…/secrets/…"})
	}
	if err == nil && cfg.Timeout <= 0 {
		faults = append(faults, &config.Fault{Variable: "SECRET_MANAGER_TIMEOUT", Problem: "must be above zero"})
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	return &Secret{cfg: cfg, options: options}, nil
}

// Close ends the connection.
func (s *Secret) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client == nil {
		return nil
	}
	client := s.client
	s.client = nil
	return client.Close()
}

func (s *Secret) call(ctx context.Context, deed string, fn func(ctx context.Context, c *secretmanager.Client) error) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	client, err := s.dial(context.WithoutCancel(ctx)) // the client outlives this call
	if err == nil {
		err = fn(ctx, client)
	}
	if err != nil {
		return fmt.Errorf("%s %s in Secret Manager: %w", deed, s.cfg.Name, err)
	}
	return nil
}

func (s *Secret) dial(ctx context.Context) (*secretmanager.Client, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client == nil {
		client, err := secretmanager.NewClient(ctx, s.options...)
		if err != nil {
			return nil, fmt.Errorf("reach Secret Manager: %w", err)
		}
		s.client = client
	}
	return s.client, nil
}

// errMangled says that a message did not arrive as it was sent.
var errMangled = errors.New("the checksum does not match: the message was mangled on its way")

// Latest is the newest version, or ErrNoVersion.
func (s *Secret) Latest(ctx context.Context) (data []byte, err error) {
	err = s.call(ctx, "read", func(ctx context.Context, c *secretmanager.Client) error {
		r, err := c.AccessSecretVersion(ctx, &secretmanagerpb.AccessSecretVersionRequest{Name: s.cfg.Name + "/versions/latest"})
		if status.Code(err) == codes.NotFound {
			return ErrNoVersion
		}
		if err != nil {
			return err
		}
		data = r.GetPayload().GetData()
		if sum := r.GetPayload().DataCrc32C; sum == nil || *sum != cloud.Checksum(data) {
			return errMangled
		}
		return nil
	})
	return data, err
}

// Add makes a newer version. It is not repeated: what was added although its answer got lost is the newest.
func (s *Secret) Add(ctx context.Context, data []byte) error {
	return s.call(ctx, "add a version to", func(ctx context.Context, c *secretmanager.Client) error {
		sum := cloud.Checksum(data)
		r, err := c.AddSecretVersion(ctx, &secretmanagerpb.AddSecretVersionRequest{
			Parent: s.cfg.Name, Payload: &secretmanagerpb.SecretPayload{Data: data, DataCrc32C: &sum},
		})
		if err == nil && !r.GetClientSpecifiedPayloadChecksum() {
			err = errMangled
		}
		return err
	})
}
