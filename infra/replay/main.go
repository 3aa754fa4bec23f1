// Command replay stands in for the Google provider of Terraform: it serves recorded schemas (REPLAY_SCHEMA, a gzipped file of
// the form that `terraform providers schema -json` prints) and plans what is asked for. That is enough for `terraform
// validate`, `plan` and `test` without the provider, a cloud or a network. It never applies.
package main

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"

	"github.com/hashicorp/terraform-plugin-go/tfprotov5"
	"github.com/hashicorp/terraform-plugin-go/tfprotov5/tf5server"
	"github.com/hashicorp/terraform-plugin-go/tftypes"
)

const address = "registry.terraform.io/hashicorp/google"

type attribute struct {
	Type      json.RawMessage `json:"type"`
	Required  bool            `json:"required"`
	Optional  bool            `json:"optional"`
	Computed  bool            `json:"computed"`
	Sensitive bool            `json:"sensitive"`
	WriteOnly bool            `json:"write_only"`
}

type nested struct {
	Nesting string `json:"nesting_mode"`
	Block   block  `json:"block"`
	Min     int64  `json:"min_items"`
	Max     int64  `json:"max_items"`
}

type block struct {
	Attributes map[string]attribute `json:"attributes"`
	Blocks     map[string]nested    `json:"block_types"`
}

type schema struct {
	Version int64 `json:"version"`
	Block   block `json:"block"`
}

type provider struct {
	Provider  schema            `json:"provider"`
	Resources map[string]schema `json:"resource_schemas"`
}

var nestings = map[string]tfprotov5.SchemaNestedBlockNestingMode{
	"single": tfprotov5.SchemaNestedBlockNestingModeSingle,
	"list":   tfprotov5.SchemaNestedBlockNestingModeList,
	"set":    tfprotov5.SchemaNestedBlockNestingModeSet,
	"map":    tfprotov5.SchemaNestedBlockNestingModeMap,
}

// proto is the block in the words of the plugin protocol.
func (b block) proto(version int64) *tfprotov5.SchemaBlock {
	out := &tfprotov5.SchemaBlock{Version: version}
	for name, a := range b.Attributes {
		kind, err := tftypes.ParseJSONType(a.Type) //nolint:staticcheck // nothing else reads recorded types
		if err != nil {
			log.Fatalf("the type of %s: %v", name, err)
		}
		out.Attributes = append(out.Attributes, &tfprotov5.SchemaAttribute{
			Name: name, Type: kind, Required: a.Required, Optional: a.Optional, Computed: a.Computed, Sensitive: a.Sensitive, WriteOnly: a.WriteOnly,
		})
	}
	for name, n := range b.Blocks {
		out.BlockTypes = append(out.BlockTypes, &tfprotov5.SchemaNestedBlock{
			TypeName: name, Nesting: nestings[n.Nesting], MinItems: n.Min, MaxItems: n.Max, Block: n.Block.proto(0),
		})
	}
	return out
}

// planned is the value with everything that only the cloud knows still unknown.
func (b block) planned(v tftypes.Value) (tftypes.Value, error) {
	if v.IsNull() || !v.IsKnown() {
		return v, nil
	}
	fields := map[string]tftypes.Value{}
	if err := v.As(&fields); err != nil {
		return v, err
	}
	for name, a := range b.Attributes {
		if field := fields[name]; a.Computed && field.IsNull() {
			fields[name] = tftypes.NewValue(field.Type(), tftypes.UnknownValue)
		}
	}
	for name, n := range b.Blocks {
		field := fields[name]
		if field.IsNull() || !field.IsKnown() {
			continue
		}
		var err error
		if n.Nesting == "single" {
			if fields[name], err = n.Block.planned(field); err != nil {
				return v, err
			}
			continue
		}
		var items []tftypes.Value
		if err := field.As(&items); err != nil {
			return v, err
		}
		for i := range items {
			if items[i], err = n.Block.planned(items[i]); err != nil {
				return v, err
			}
		}
		fields[name] = tftypes.NewValue(field.Type(), items)
	}
	return tftypes.NewValue(v.Type(), fields), nil
}

// server answers what validate, plan and test ask. The rest of the protocol is the embedded interface's, which is nil:
// Terraform has no state here that it could read, move or upgrade.
type server struct {
	tfprotov5.ProviderServer
	recorded provider
}

func (s *server) GetMetadata(context.Context, *tfprotov5.GetMetadataRequest) (*tfprotov5.GetMetadataResponse, error) {
	r := &tfprotov5.GetMetadataResponse{ServerCapabilities: &tfprotov5.ServerCapabilities{}}
	for name := range s.recorded.Resources {
		r.Resources = append(r.Resources, tfprotov5.ResourceMetadata{TypeName: name})
	}
	return r, nil
}

func (s *server) GetProviderSchema(context.Context, *tfprotov5.GetProviderSchemaRequest) (*tfprotov5.GetProviderSchemaResponse, error) {
	r := &tfprotov5.GetProviderSchemaResponse{
		Provider:        &tfprotov5.Schema{Version: s.recorded.Provider.Version, Block: s.recorded.Provider.Block.proto(0)},
		ResourceSchemas: map[string]*tfprotov5.Schema{},
	}
	for name, x := range s.recorded.Resources {
		r.ResourceSchemas[name] = &tfprotov5.Schema{Version: x.Version, Block: x.Block.proto(x.Version)}
	}
	return r, nil
}

func (s *server) GetResourceIdentitySchemas(context.Context, *tfprotov5.GetResourceIdentitySchemasRequest) (*tfprotov5.GetResourceIdentitySchemasResponse, error) {
	return &tfprotov5.GetResourceIdentitySchemasResponse{}, nil
}

func (s *server) PrepareProviderConfig(_ context.Context, r *tfprotov5.PrepareProviderConfigRequest) (*tfprotov5.PrepareProviderConfigResponse, error) {
	return &tfprotov5.PrepareProviderConfigResponse{PreparedConfig: r.Config}, nil
}

func (s *server) ConfigureProvider(context.Context, *tfprotov5.ConfigureProviderRequest) (*tfprotov5.ConfigureProviderResponse, error) {
	return &tfprotov5.ConfigureProviderResponse{}, nil
}

func (s *server) StopProvider(context.Context, *tfprotov5.StopProviderRequest) (*tfprotov5.StopProviderResponse, error) {
	return &tfprotov5.StopProviderResponse{}, nil
}

func (s *server) ValidateResourceTypeConfig(context.Context, *tfprotov5.ValidateResourceTypeConfigRequest) (*tfprotov5.ValidateResourceTypeConfigResponse, error) {
	return &tfprotov5.ValidateResourceTypeConfigResponse{}, nil
}

func (s *server) PlanResourceChange(_ context.Context, r *tfprotov5.PlanResourceChangeRequest) (*tfprotov5.PlanResourceChangeResponse, error) {
	wanted := s.recorded.Resources[r.TypeName].Block
	kind := wanted.proto(0).ValueType()
	proposed, err := r.ProposedNewState.Unmarshal(kind)
	if err != nil {
		return nil, fmt.Errorf("read the proposed %s: %w", r.TypeName, err)
	}
	planned, err := wanted.planned(proposed)
	if err != nil {
		return nil, fmt.Errorf("plan a %s: %w", r.TypeName, err)
	}
	state, err := tfprotov5.NewDynamicValue(kind, planned)
	if err != nil {
		return nil, fmt.Errorf("write the planned %s: %w", r.TypeName, err)
	}
	return &tfprotov5.PlanResourceChangeResponse{PlannedState: &state}, nil
}

func (s *server) ApplyResourceChange(context.Context, *tfprotov5.ApplyResourceChangeRequest) (*tfprotov5.ApplyResourceChangeResponse, error) {
	return nil, errors.New("the stand-in for the Google provider never applies")
}

func (s *server) GetFunctions(context.Context, *tfprotov5.GetFunctionsRequest) (*tfprotov5.GetFunctionsResponse, error) {
	return &tfprotov5.GetFunctionsResponse{}, nil
}

// read reads recorded schemas.
func read(path string) (provider, error) {
	file, err := os.Open(path) //nolint:gosec // the file that tools/infra names
	if err != nil {
		return provider{}, err
	}
	defer func() { _ = file.Close() }()
	text, err := gzip.NewReader(file)
	if err != nil {
		return provider{}, err
	}
	var recorded struct {
		Providers map[string]provider `json:"provider_schemas"`
	}
	if err := json.NewDecoder(text).Decode(&recorded); err != nil {
		return provider{}, err
	}
	google, ok := recorded.Providers[address]
	if !ok {
		return provider{}, fmt.Errorf("%s has no schemas of %s", path, address)
	}
	return google, nil
}

func main() {
	recorded, err := read(os.Getenv("REPLAY_SCHEMA"))
	if err != nil {
		log.Fatalf("read the recorded schemas: %v", err)
	}
	if err := tf5server.Serve(address, func() tfprotov5.ProviderServer { return &server{recorded: recorded} }); err != nil {
		log.Fatal(err)
	}
}
