package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/google/uuid"

	"github.com/coditect/usher/functions/admin"
	"github.com/coditect/usher/functions/all"
	"github.com/coditect/usher/shared/identity"
)

// Demo is what a running service tells tools, in .local/demo.json.
type Demo struct {
	BaseURL        string    `json:"base_url"`
	OperatorAPIKey string    `json:"operator_api_key"`
	TenantID       uuid.UUID `json:"tenant_id"`
	TenantAPIKey   string    `json:"tenant_api_key"`
	LicenseKey     string    `json:"license_key"`
	LicenseID      uuid.UUID `json:"license_id"`
	Product        string    `json:"product"`
	Plan           string    `json:"plan"`
	SchedulerToken string    `json:"scheduler_token"`
	Issuer         string    `json:"issuer"`
}

// ReadDemo reads what a running service told last; the zero Demo when there is none.
func ReadDemo(path string) (Demo, error) {
	var d Demo
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return d, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &d)
	}
	if err != nil {
		return Demo{}, fmt.Errorf("read %s: %w", path, err)
	}
	return d, nil
}

// The catalogue of the demo. One plan limits nothing, so that licences of it can be made for every purpose.
const (
	demoProduct = "agent-studio"
	demoPlan    = "pro"
)

type object map[string]any

var demoPlans = []struct {
	code string
	plan object
}{
	{"free", object{
		"product": demoProduct, "name": "Free", "max_seats": 1, "max_devices": 2, "features": []string{"agents"},
		"offline_grace_seconds": 24 * 3600,
	}},
	{demoPlan, object{
		"product": demoProduct, "name": "Pro", "max_seats": 5, "features": []string{"agents", "workflows"},
		"offline_grace_seconds": 72 * 3600,
	}},
	{"team", object{
		"product": demoProduct, "name": "Team", "max_seats": 25, "overdraft_seats": 2, "seat_per": "user",
		"features": []string{"agents", "workflows", "sso"}, "offline_grace_seconds": 168 * 3600,
	}},
}

// The demo licence: one seat, so that the second client is refused, and a lease that a person can wait for.
var demoLicense = object{"plan": demoPlan, "max_seats": 1, "ttl_seconds": 30}

// seed makes what is missing of the demo: the operator's key through the packages, for somebody must be the first, and
// everything else as an operator would, through the API. What an earlier run made, and what is still good, stays.
func seed(ctx context.Context, d Demo, operatorKey func(context.Context) (string, error), progress func(string, ...any)) (Demo, error) {
	api := API{URL: d.BaseURL}

	if _, err := api.As(d.OperatorAPIKey).Call(ctx, http.MethodGet, "/v1/tenants?limit=1", nil, nil); unknown(err) {
		progress("making the operator's API key")
		if d.OperatorAPIKey, err = operatorKey(ctx); err != nil {
			return d, err
		}
	} else if err != nil {
		return d, err
	}
	operator := api.As(d.OperatorAPIKey)

	if _, err := operator.Call(ctx, http.MethodPut, "/v1/catalog/products/"+demoProduct, object{"name": "Agent Studio"}, nil); err != nil {
		return d, err
	}
	for _, p := range demoPlans {
		if _, err := operator.Call(ctx, http.MethodPut, "/v1/catalog/plans/"+p.code, p.plan, nil); err != nil {
			return d, err
		}
	}
	d.Product, d.Plan = demoProduct, demoPlan

	if _, err := operator.Call(ctx, http.MethodGet, "/v1/tenants/"+d.TenantID.String(), nil, nil); unknown(err) {
		progress("making a tenant")
		var made struct{ ID uuid.UUID }
		if _, err := operator.Call(ctx, http.MethodPost, "/v1/tenants", object{"name": "Acme Robotics"}, &made); err != nil {
			return d, err
		}
		d.TenantID, d.TenantAPIKey, d.LicenseKey = made.ID, "", ""
	} else if err != nil {
		return d, err
	}
	tenant := "?tenant_id=" + d.TenantID.String()

	if _, err := api.As(d.TenantAPIKey).Call(ctx, http.MethodGet, "/v1/licenses?limit=1", nil, nil); unknown(err) {
		var made struct {
			APIKey string `json:"api_key"`
		}
		if _, err := operator.Call(ctx, http.MethodPost, "/v1/api-keys"+tenant, object{"name": "demo", "scopes": identity.TenantScopes()}, &made); err != nil {
			return d, err
		}
		d.TenantAPIKey = made.APIKey
	} else if err != nil {
		return d, err
	}

	var found struct{ Code string }
	if d.LicenseKey != "" {
		question := object{"license_key": d.LicenseKey, "hardware_id": "make-run", "version": "1.0.0"}
		if _, err := api.Call(ctx, http.MethodPost, "/v1/validate", question, &found); err != nil {
			return d, err
		}
	}
	if d.LicenseKey == "" || found.Code == "not_found" || found.Code == "license_revoked" {
		progress("making a licence")
		var made struct {
			License    struct{ ID uuid.UUID }
			LicenseKey string `json:"license_key"`
		}
		if _, err := operator.Call(ctx, http.MethodPost, "/v1/licenses"+tenant, demoLicense, &made); err != nil {
			return d, err
		}
		d.LicenseID, d.LicenseKey = made.License.ID, made.LicenseKey
	}
	return d, nil
}

// unknown says that a credential is not good, or a thing not there: the data are not those that demo.json was written for.
func unknown(err error) bool {
	var refusal *Refusal
	return errors.As(err, &refusal) && (refusal.Status == http.StatusUnauthorized || refusal.Status == http.StatusNotFound)
}

// newOperatorKey makes the operator, if there is none yet, and an API key of it: one more, since the earlier ones are not
// good any more or not known.
func newOperatorKey(ctx context.Context, getenv func(string) string) (string, error) {
	operator, err := admin.OpenOperator(ctx, getenv, slog.New(slog.DiscardHandler))
	if err != nil {
		return "", err
	}
	defer operator.Close()
	verifier, err := identity.Open(getenv, operator)
	if err != nil {
		return "", err
	}
	made, err := admin.Bootstrap(ctx, operator, verifier, true)
	return made.Reveal(), err
}

// tokenLife is how long the tokens in demo.json live.
const tokenLife = 30 * 24 * time.Hour

// Running is what the service that runs now with the data in dir told, if there is one.
func Running(ctx context.Context, dir string) (Demo, bool) {
	d, err := ReadDemo(filepath.Join(dir, "demo.json"))
	if err != nil || d.BaseURL == "" {
		return Demo{}, false
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	var health struct{ Service, Status string }
	_, err = API{URL: d.BaseURL}.Call(ctx, http.MethodGet, "/health/ready", nil, &health)
	return d, err == nil && health.Service == all.Name
}
