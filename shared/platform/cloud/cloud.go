// Package cloud says how Google's services are reached: as the service account that the function runs as, or, on one
// machine, at a stand-in.
//
// The package must not know what any service is for.
package cloud

import (
	"hash/crc32"
	"net/netip"

	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/coditect/usher/shared/platform/config"
)

// Config says where the services are.
type Config struct {
	// Emulator is host:port of a stand-in for every service, which is asked without credentials. It is for `make run` and
	// for tests: an address that is not loopback, and any on Cloud Run, is refused.
	Emulator string `env:"CLOUD_EMULATOR"`
	// Revision is set by Cloud Run.
	Revision string `env:"K_REVISION"`
}

// Open reads Config from the environment and answers the options with which a client of Google's is made.
func Open(getenv func(string) string) ([]option.ClientOption, error) {
	var c Config
	if err := config.Load(&c, getenv); err != nil {
		return nil, err
	}
	return c.options()
}

func (c Config) options() ([]option.ClientOption, error) {
	if c.Emulator == "" {
		return nil, nil
	}
	address, err := netip.ParseAddrPort(c.Emulator)
	switch {
	case err != nil || !address.Addr().IsLoopback():
		return nil, &config.Fault{Variable: "CLOUD_EMULATOR", Problem: "is not host:port of a loopback address"}
	case c.Revision != "":
		return nil, &config.Fault{Variable: "CLOUD_EMULATOR", Problem: "must not be set on Cloud Run"}
	}
	return []option.ClientOption{
		option.WithEndpoint(c.Emulator), option.WithoutAuthentication(),
		option.WithGRPCDialOption(grpc.WithTransportCredentials(insecure.NewCredentials())),
	}, nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Checksum is the CRC32C by which both sides see that a message arrived as it was sent.
func Checksum(message []byte) int64 { return int64(crc32.Checksum(message, castagnoli)) }
