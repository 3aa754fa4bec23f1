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
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/coditect/usher/functions/admin"
	"github.com/coditect/usher/functions/all"
	"github.com/coditect/usher/shared/identity"
	"github.com/coditect/usher/shared/platform/localenv"
)

// Demo is what a running service tells tools, in .local/demo.json.
type Demo struct {
	BaseURL             string    `json:"base_url"`
	OperatorAPIKey      string    `json:"operator_api_key"`
	TenantID            uuid.UUID `json:"tenant_id"`
	TenantAPIKey        string    `json:"tenant_api_key"`
	LicenseKey          string    `json:"license_key"`
	LicenseID           uuid.UUID `json:"license_id"`
	Product             string    `json:"product"`
	Plan                string    `json:"plan"`
	SchedulerToken      string    `json:"scheduler_token"`
	StripeWebhookSecret string    `json:"stripe_webhook_secret"`
	Issuer              string    `json:"issuer"`
	IDTokens            IDTokens  `json:"id_tokens"`
}

// IDTokens are the ID tokens of the demo tenant's people, by their roles.
type IDTokens struct {
	Owner  string `json:"owner"`
	Admin  string `json:"admin"`
	Member string `json:"member"`
	Viewer string `json:"viewer"`
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
	demoMetric  = "agent_invocation"
)

type object map[string]any

var demoPlans = []struct {
	code string
	plan object
}{
	{"free", object{
		"product": demoProduct, "name": "Free", "max_seats": 1, "max_devices": 2, "features": []string{"agents"},
		"offline_grace_seconds": 24 * 3600, "metrics": []object{{"metric": demoMetric, "quota": 1000, "cap": 1000, "cap_type": "hard"}},
	}},
	{demoPlan, object{
		"product": demoProduct, "name": "Pro", "max_seats": 5, "features": []string{"agents", "workflows"},
		"offline_grace_seconds": 72 * 3600, "metrics": []object{{"metric": demoMetric, "quota": 1000000}},
		"trial_falls_to": "free",
	}},
	{"team", object{
		"product": demoProduct, "name": "Team", "max_seats": 25, "overdraft_seats": 2, "seat_per": "user",
		"features": []string{"agents", "workflows", "sso"}, "offline_grace_seconds": 168 * 3600,
		"metrics": []object{{"metric": demoMetric, "quota": 10000000, "cap": 20000000, "cap_type": "soft"}},
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

// people makes the demo's people of who they are at the issuer, where that is missing: an owner, an administrator, a
// member and a viewer, who come by invitation like everybody.
func people(ctx context.Context, d Demo, progress func(string, ...any)) error {
	api := API{URL: d.BaseURL}
	for _, p := range []struct{ role, token string }{
		{"owner", d.IDTokens.Owner}, {"admin", d.IDTokens.Admin}, {"member", d.IDTokens.Member}, {"viewer", d.IDTokens.Viewer},
	} {
		_, err := api.As(p.token).Call(ctx, http.MethodGet, "/v1/me", nil, nil)
		var refusal *Refusal
		switch {
		case err == nil:
			continue
		case !errors.As(err, &refusal) || refusal.Status != http.StatusForbidden:
			return err
		case refusal.Code != "membership_missing" && refusal.Code != "membership_revoked":
			continue // somebody suspended the tenant
		}
		progress("inviting the %s", p.role)
		var invitation struct{ Token string }
		invite := object{"email": demoEmail(p.role, d.BaseURL), "role": p.role}
		if _, err := api.As(d.OperatorAPIKey).Call(ctx, http.MethodPost, "/v1/invitations?tenant_id="+d.TenantID.String(), invite, &invitation); err != nil {
			return err
		}
		if _, err := api.As(p.token).Call(ctx, http.MethodPost, "/v1/invitations/accept", object{"token": invitation.Token}, nil); err != nil {
			return err
		}
	}
	return nil
}

// demoEmail is the address of one of the demo's people. On another port the issuer is another, and so are its people.
func demoEmail(role, base string) string {
	return role + "@port-" + base[strings.LastIndexByte(base, ':')+1:] + ".acme.localhost"
}

// idTokens makes the tokens of the demo's people.
func idTokens(issuer *localenv.Issuer, base string) (made IDTokens, err error) {
	for _, p := range []struct {
		role, name string
		token      *string
	}{
		{"owner", "Olivia Owner", &made.Owner},
		{"admin", "Adam Admin", &made.Admin},
		{"member", "Mara Member", &made.Member},
		{"viewer", "Victor Viewer", &made.Viewer},
	} {
		*p.token, err = issuer.Token(map[string]any{
			"aud": idAudience, "sub": "demo-" + p.role, "name": p.name, "email": demoEmail(p.role, base), "email_verified": true,
		}, tokenLife)
		if err != nil {
			return IDTokens{}, err
		}
	}
	return made, nil
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
