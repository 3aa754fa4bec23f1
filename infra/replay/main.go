// Command replay is a Terraform provider that serves recorded schemas and plans by echo: enough for `terraform validate`,
// `plan` and `test` without the provider itself, a cloud or a network. It never applies.
package main

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"

	"github.com/hashicorp/terraform-plugin-go/tfprotov5"
	"github.com/hashicorp/terraform-plugin-go/tfprotov5/tf5server"
	"github.com/hashicorp/terraform-plugin-go/tftypes"
)

type attr struct {
	Type      json.RawMessage `json:"type"`
	Required  bool            `json:"required"`
	Optional  bool            `json:"optional"`
	Computed  bool            `json:"computed"`
	Sensitive bool            `json:"sensitive"`
	WriteOnly bool            `json:"write_only"`
}
type blockType struct {
	Nesting string `json:"nesting_mode"`
	Block   block  `json:"block"`
	Min     int64  `json:"min_items"`
	Max     int64  `json:"max_items"`
}
type block struct {
	Attributes map[string]attr      `json:"attributes"`
	Blocks     map[string]blockType `json:"block_types"`
}
type schema struct {
	Version int64 `json:"version"`
	Block   block `json:"block"`
}
type provider struct {
	Provider  schema            `json:"provider"`
	Resources map[string]schema `json:"resource_schemas"`
	Data      map[string]schema `json:"data_source_schemas"`
}

func (b block) proto(v int64) *tfprotov5.SchemaBlock {
	out := &tfprotov5.SchemaBlock{Version: v}
	for n, a := range b.Attributes {
		t, err := tftypes.ParseJSONType(a.Type) //nolint
		if err != nil {
			log.Fatalf("%s: %v", n, err)
		}
		out.Attributes = append(out.Attributes, &tfprotov5.SchemaAttribute{Name: n, Type: t, Required: a.Required, Optional: a.Optional, Computed: a.Computed, Sensitive: a.Sensitive, WriteOnly: a.WriteOnly})
	}
	for n, bt := range b.Blocks {
		m := map[string]tfprotov5.SchemaNestedBlockNestingMode{"single": tfprotov5.SchemaNestedBlockNestingModeSingle, "list": tfprotov5.SchemaNestedBlockNestingModeList, "set": tfprotov5.SchemaNestedBlockNestingModeSet, "map": tfprotov5.SchemaNestedBlockNestingModeMap}[bt.Nesting]
		out.BlockTypes = append(out.BlockTypes, &tfprotov5.SchemaNestedBlock{TypeName: n, Nesting: m, MinItems: bt.Min, MaxItems: bt.Max, Block: bt.Block.proto(0)})
	}
	return out
}

// unknownComputed replaces null computed attributes by unknown ones.
func (b block) unknownComputed(v tftypes.Value) tftypes.Value {
	if v.IsNull() || !v.IsKnown() {
		return v
	}
	m := map[string]tftypes.Value{}
	if err := v.As(&m); err != nil {
		return v
	}
	for n, a := range b.Attributes {
		if x, ok := m[n]; ok && a.Computed && x.IsNull() {
			m[n] = tftypes.NewValue(x.Type(), tftypes.UnknownValue)
		}
	}
	for n, bt := range b.Blocks {
		x, ok := m[n]
		if !ok || x.IsNull() || !x.IsKnown() {
			continue
		}
		if bt.Nesting == "single" {
			m[n] = bt.Block.unknownComputed(x)
			continue
		}
		var l []tftypes.Value
		if err := x.As(&l); err != nil {
			continue
		}
		for i := range l {
			l[i] = bt.Block.unknownComputed(l[i])
		}
		m[n] = tftypes.NewValue(x.Type(), l)
	}
	return tftypes.NewValue(v.Type(), m)
}

type server struct{ p provider }

func (s *server) GetMetadata(context.Context, *tfprotov5.GetMetadataRequest) (*tfprotov5.GetMetadataResponse, error) {
	r := &tfprotov5.GetMetadataResponse{ServerCapabilities: &tfprotov5.ServerCapabilities{GetProviderSchemaOptional: false}}
	for n := range s.p.Resources {
		r.Resources = append(r.Resources, tfprotov5.ResourceMetadata{TypeName: n})
	}
	for n := range s.p.Data {
		r.DataSources = append(r.DataSources, tfprotov5.DataSourceMetadata{TypeName: n})
	}
	return r, nil
}
func (s *server) GetProviderSchema(context.Context, *tfprotov5.GetProviderSchemaRequest) (*tfprotov5.GetProviderSchemaResponse, error) {
	r := &tfprotov5.GetProviderSchemaResponse{Provider: &tfprotov5.Schema{Version: s.p.Provider.Version, Block: s.p.Provider.Block.proto(0)}, ResourceSchemas: map[string]*tfprotov5.Schema{}, DataSourceSchemas: map[string]*tfprotov5.Schema{}}
	for n, x := range s.p.Resources {
		r.ResourceSchemas[n] = &tfprotov5.Schema{Version: x.Version, Block: x.Block.proto(x.Version)}
	}
	for n, x := range s.p.Data {
		r.DataSourceSchemas[n] = &tfprotov5.Schema{Version: x.Version, Block: x.Block.proto(x.Version)}
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
func (s *server) UpgradeResourceState(_ context.Context, r *tfprotov5.UpgradeResourceStateRequest) (*tfprotov5.UpgradeResourceStateResponse, error) {
	sc := s.p.Resources[r.TypeName]
	v, err := r.RawState.Unmarshal(sc.Block.proto(0).ValueType())
	if err != nil {
		return nil, err
	}
	dv, err := tfprotov5.NewDynamicValue(v.Type(), v)
	return &tfprotov5.UpgradeResourceStateResponse{UpgradedState: &dv}, err
}
func (s *server) UpgradeResourceIdentity(context.Context, *tfprotov5.UpgradeResourceIdentityRequest) (*tfprotov5.UpgradeResourceIdentityResponse, error) {
	return nil, fmt.Errorf("unsupported")
}
func (s *server) ReadResource(_ context.Context, r *tfprotov5.ReadResourceRequest) (*tfprotov5.ReadResourceResponse, error) {
	return &tfprotov5.ReadResourceResponse{NewState: r.CurrentState}, nil
}
func (s *server) PlanResourceChange(_ context.Context, r *tfprotov5.PlanResourceChangeRequest) (*tfprotov5.PlanResourceChangeResponse, error) {
	b := s.p.Resources[r.TypeName].Block
	t := b.proto(0).ValueType()
	v, err := r.ProposedNewState.Unmarshal(t)
	if err != nil {
		return nil, err
	}
	pv, err := tfprotov5.NewDynamicValue(t, b.unknownComputed(v))
	return &tfprotov5.PlanResourceChangeResponse{PlannedState: &pv}, err
}
func (s *server) ApplyResourceChange(context.Context, *tfprotov5.ApplyResourceChangeRequest) (*tfprotov5.ApplyResourceChangeResponse, error) {
	return nil, fmt.Errorf("the replay provider never applies")
}
func (s *server) ImportResourceState(context.Context, *tfprotov5.ImportResourceStateRequest) (*tfprotov5.ImportResourceStateResponse, error) {
	return nil, fmt.Errorf("unsupported")
}
func (s *server) MoveResourceState(context.Context, *tfprotov5.MoveResourceStateRequest) (*tfprotov5.MoveResourceStateResponse, error) {
	return nil, fmt.Errorf("unsupported")
}
func (s *server) ValidateDataSourceConfig(context.Context, *tfprotov5.ValidateDataSourceConfigRequest) (*tfprotov5.ValidateDataSourceConfigResponse, error) {
	return &tfprotov5.ValidateDataSourceConfigResponse{}, nil
}
func (s *server) ReadDataSource(_ context.Context, r *tfprotov5.ReadDataSourceRequest) (*tfprotov5.ReadDataSourceResponse, error) {
	return &tfprotov5.ReadDataSourceResponse{State: r.Config}, nil
}
func (s *server) CallFunction(context.Context, *tfprotov5.CallFunctionRequest) (*tfprotov5.CallFunctionResponse, error) {
	return nil, fmt.Errorf("unsupported")
}
func (s *server) GetFunctions(context.Context, *tfprotov5.GetFunctionsRequest) (*tfprotov5.GetFunctionsResponse, error) {
	return &tfprotov5.GetFunctionsResponse{}, nil
}
func (s *server) ValidateEphemeralResourceConfig(context.Context, *tfprotov5.ValidateEphemeralResourceConfigRequest) (*tfprotov5.ValidateEphemeralResourceConfigResponse, error) {
	return nil, fmt.Errorf("unsupported")
}
func (s *server) OpenEphemeralResource(context.Context, *tfprotov5.OpenEphemeralResourceRequest) (*tfprotov5.OpenEphemeralResourceResponse, error) {
	return nil, fmt.Errorf("unsupported")
}
func (s *server) RenewEphemeralResource(context.Context, *tfprotov5.RenewEphemeralResourceRequest) (*tfprotov5.RenewEphemeralResourceResponse, error) {
	return nil, fmt.Errorf("unsupported")
}
func (s *server) CloseEphemeralResource(context.Context, *tfprotov5.CloseEphemeralResourceRequest) (*tfprotov5.CloseEphemeralResourceResponse, error) {
	return nil, fmt.Errorf("unsupported")
}

func main() {
	file, err := os.Open(os.Getenv("REPLAY_SCHEMA"))
	if err != nil {
		log.Fatal(err)
	}
	raw, err := gzip.NewReader(file)
	if err != nil {
		log.Fatal(err)
	}
	var doc struct {
		P map[string]provider `json:"provider_schemas"`
	}
	if err := json.NewDecoder(raw).Decode(&doc); err != nil {
		log.Fatal(err)
	}
	s := &server{}
	for _, p := range doc.P {
		s.p = p
	}
	if err := tf5server.Serve("registry.terraform.io/hashicorp/google", func() tfprotov5.ProviderServer { return s }); err != nil {
		log.Fatal(err)
	}
}

func (s *server) GenerateResourceConfig(context.Context, *tfprotov5.GenerateResourceConfigRequest) (*tfprotov5.GenerateResourceConfigResponse, error) {
	return nil, fmt.Errorf("unsupported")
}
