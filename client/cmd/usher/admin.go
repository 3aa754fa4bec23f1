package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// operation is one request of the HTTP contract as a command. Its command line is made from it, and a test holds it to
// the OpenAPI document.
type operation struct {
	name   string // such as "suspend"
	short  string
	long   string
	method string
	path   string // each {…} is an argument, in this order
	fields []field
	fixed  map[string]any // members of the body that the command means
	// columns of a list, named as in JSON. The answer is a page of things; nil for one thing.
	columns []string
	// ofTenant: the operator says for which tenant.
	ofTenant bool
}

// field is a member of a request's body, or of a list's query, as a flag.
type field struct {
	name     string // as in JSON; the flag has dashes, and a duration no _seconds
	kind     kind
	help     string
	required bool
	// open says that the field may be null: no limit, or no date.
	open bool
}

type kind int

const (
	ofText kind = iota
	ofNumber
	ofList
	ofDuration // whole seconds in JSON
	ofMoment   // RFC 3339
	ofMetrics  // objects in JSON
)

// word is a flag's value as it was typed; it is read when all flags are known.
type word struct {
	said string
	kind kind
}

// String is what was typed.
func (w *word) String() string { return w.said }

// Set takes what was typed.
func (w *word) Set(said string) error { w.said = said; return nil }

// Type is what help calls the value.
func (w *word) Type() string {
	return [...]string{ofText: "text", ofNumber: "number", ofList: "list", ofDuration: "duration", ofMoment: "time", ofMetrics: "list"}[w.kind]
}

// flag is the name of the field's flag.
func (f field) flag() string {
	name := f.name
	if f.kind == ofDuration {
		name = strings.TrimSuffix(name, "_seconds")
	}
	return strings.ReplaceAll(name, "_", "-")
}

// none is what a flag says for null.
const none = "none"

// value reads what the flag says.
func (f field) value(said string) (any, error) {
	if f.open && said == none {
		return nil, nil //nolint:nilnil // null is what is meant
	}
	switch f.kind {
	case ofNumber:
		n, err := strconv.ParseInt(said, 10, 64)
		if err != nil {
			return nil, wrong("--%s wants a whole number", f.flag())
		}
		return n, nil
	case ofList:
		if said == "" {
			return []string{}, nil
		}
		all := strings.Split(said, ",")
		for i := range all {
			all[i] = strings.TrimSpace(all[i])
		}
		return all, nil
	case ofMetrics:
		return readMetrics(said)
	case ofDuration:
		d, err := readDuration(said)
		if err != nil || d%time.Second != 0 {
			return nil, wrong("--%s wants a duration of whole seconds, such as 90s, 6m, 24h or 7d", f.flag())
		}
		return int64(d / time.Second), nil
	case ofMoment:
		at, err := readMoment(said)
		if err != nil {
			return nil, wrong("--%s wants a day such as 2027-01-31, or a time such as 2027-01-31T12:00:00Z", f.flag())
		}
		return at.UTC().Format("2006-01-02T15:04:05.000Z"), nil
	default:
		return said, nil
	}
}

// readMetrics reads what a plan counts, as in calls:1000:2000:hard,pages.
func readMetrics(said string) (any, error) {
	all := []map[string]any{}
	if said == "" {
		return all, nil
	}
	for one := range strings.SplitSeq(said, ",") {
		parts := strings.Split(strings.TrimSpace(one), ":")
		metric := map[string]any{"metric": parts[0]}
		if len(parts) != 1 && len(parts) != 2 && len(parts) != 4 {
			return nil, wrong("--metrics wants metrics such as calls, calls:QUOTA or calls:QUOTA:CAP:hard, separated by commas")
		}
		for i, name := range []string{"quota", "cap"} {
			if len(parts) < i+2 || parts[i+1] == "" {
				continue
			}
			n, err := strconv.ParseInt(parts[i+1], 10, 64)
			if err != nil {
				return nil, wrong("--metrics wants whole numbers for the quota and the cap")
			}
			metric[name] = n
		}
		if len(parts) == 4 {
			metric["cap_type"] = parts[3]
		}
		all = append(all, metric)
	}
	return all, nil
}

// readDuration reads a duration, which may be of days.
func readDuration(said string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(said, "d"); ok {
		n, err := strconv.ParseInt(days, 10, 16)
		return time.Duration(n) * 24 * time.Hour, err
	}
	return time.ParseDuration(said)
}

// readMoment reads a time, or the beginning of a day in UTC.
func readMoment(said string) (time.Time, error) {
	if at, err := time.Parse(time.DateOnly, said); err == nil {
		return at, nil
	}
	return time.Parse(time.RFC3339, said)
}

var reason = field{name: "reason", help: "why; those whom it concerns are told", required: true}

// ofPlan are the terms that a plan has and a licence may have of its own.
var ofPlan = []field{
	{name: "overdraft_seats", kind: ofNumber, help: "seats beyond the maximum, for a while"},
	{name: "borrow_reserve_seats", kind: ofNumber, help: "seats that are never borrowed"},
	{name: "ttl_seconds", kind: ofDuration, help: "the life of a lease"},
	{name: "seat_per", help: "who takes a seat: device, user or instance"},
	{name: "features", kind: ofList, help: "features, separated by commas"},
	{name: "versions", help: "a range such as '>=2.0 <4.0'; empty is every version"},
	{name: "max_devices", kind: ofNumber, open: true, help: "how many devices may use it"},
}

// ofLicense are the terms that a licence has beyond its plan's.
var ofLicense = slices.Concat(ofPlan, []field{
	{name: "allowed_hardware", kind: ofList, help: "hardware ids, separated by commas; empty is every device"},
	{name: "starts_at", kind: ofMoment, open: true, help: "when it begins to grant seats"},
	{name: "expires_at", kind: ofMoment, open: true, help: "when it expires"},
	{name: "grace_until", kind: ofMoment, open: true, help: "until when it grants seats after it has expired"},
})

// nouns are what can be administered, and how.
var nouns = []struct {
	name, short string
	operations  []operation
}{
	{"tenants", "Customers", []operation{
		{
			name: "list", short: "List the tenants", method: "GET", path: "/v1/tenants",
			columns: []string{"id", "name", "slug", "status", "created_at"},
		},
		{name: "show", short: "Show a tenant", method: "GET", path: "/v1/tenants/{id}"},
		{
			name: "create", short: "Make a tenant", method: "POST", path: "/v1/tenants",
			fields: []field{
				{name: "name", help: "what the customer is called", required: true},
				{name: "slug", help: "a short name of letters, digits and dashes; made from the name when left out"},
			},
		},
		{
			name: "update", short: "Rename a tenant", method: "PATCH", path: "/v1/tenants/{id}",
			fields: []field{{name: "name", help: "what the customer is called", required: true}},
		},
		{
			name: "suspend", short: "Suspend a tenant: its sessions end, and none begins", method: "PATCH", path: "/v1/tenants/{id}",
			fixed: map[string]any{"status": "suspended"}, fields: []field{reason},
		},
		{
			name: "reinstate", short: "Reinstate a suspended tenant", method: "PATCH", path: "/v1/tenants/{id}",
			fixed: map[string]any{"status": "active"},
		},
	}},
	{"licenses", "What tenants were sold", []operation{
		{
			name: "list", short: "List a tenant's licences", method: "GET", path: "/v1/licenses", ofTenant: true,
			columns: []string{"id", "product", "plan", "effective_status", "active_seats", "max_seats", "expires_at", "key_hint"},
		},
		{name: "show", short: "Show a licence", method: "GET", path: "/v1/licenses/{id}", ofTenant: true},
		{
			name: "create", short: "Sell a licence", method: "POST", path: "/v1/licenses", ofTenant: true,
			long: "Sells a licence of a plan to a tenant, and answers its key, which is shown this once. What is left out is as the plan says.",
			fields: slices.Concat([]field{
				{name: "plan", help: "the plan's code", required: true},
				{name: "max_seats", kind: ofNumber, help: "how many seats", required: true},
			}, ofLicense),
		},
		{
			name: "update", short: "Change a licence", method: "PATCH", path: "/v1/licenses/{id}", ofTenant: true,
			long: "Changes what is said and nothing else. Sessions above a reduced number of seats drain.",
			fields: slices.Concat([]field{
				{name: "plan", help: "the plan's code"},
				{name: "max_seats", kind: ofNumber, help: "how many seats"},
			}, ofLicense),
		},
		{
			name: "suspend", short: "Suspend a licence: its sessions end, and none begins", method: "POST", path: "/v1/licenses/{id}/suspend", ofTenant: true,
			fields: []field{reason},
		},
		{name: "reinstate", short: "Reinstate a suspended licence", method: "POST", path: "/v1/licenses/{id}/reinstate", ofTenant: true},
		{
			name: "revoke", short: "Revoke a licence, for good", method: "POST", path: "/v1/licenses/{id}/revoke", ofTenant: true,
			fields: []field{reason},
		},
		{
			name: "rotate-key", short: "Give a licence another key, which is shown this once", method: "POST", path: "/v1/licenses/{id}/rotate-key", ofTenant: true,
			fields: []field{{name: "overlap_seconds", kind: ofDuration, help: "how long the old key lives on: a day when left out, 0s ends a leaked key at once"}},
		},
		{
			name: "file", short: "Make a licence file for a machine that never asks", method: "POST", path: "/v1/licenses/{id}/file", ofTenant: true,
			long: "Takes a seat for the device, lends it until the file ends, and answers the file, which is license_file with --json. Evicting its session withdraws it.",
			fields: []field{
				{name: "hardware_id", help: "the device that it is for", required: true},
				{name: "version", help: "the application's version, when it is to be checked"},
				{name: "user", help: "who uses it, where the licence counts users"},
				{name: "instance_id", help: "the instance, where the licence counts instances"},
				{name: "expires_at", kind: ofMoment, help: "when it ends: with the licence when left out"},
			},
		},
	}},
	{"sessions", "Who sits, and who sat", []operation{
		{
			name: "list", short: "List sessions, the newest first", method: "GET", path: "/v1/sessions", ofTenant: true,
			fields: []field{
				{name: "license_id", help: "of this licence alone"},
				{name: "status", help: "of this status alone: active, released, lapsed or evicted"},
			},
			columns: []string{"id", "license_id", "status", "seat_no", "holder", "hostname", "version", "acquired_at", "end_reason"},
		},
		{
			name: "evict", short: "End a session against its holder's will", method: "POST", path: "/v1/sessions/{id}/evict", ofTenant: true,
			fields: []field{reason},
		},
	}},
	{"devices", "Hardware that has used a licence", []operation{
		{
			name: "list", short: "List the devices of a licence", method: "GET", path: "/v1/licenses/{id}/devices", ofTenant: true,
			columns: []string{"id", "hardware_id", "hostname", "first_seen_at", "last_seen_at"},
		},
		{
			name: "remove", short: "Remove a device from a licence, and evict its sessions", method: "DELETE",
			path: "/v1/licenses/{id}/devices/{device_id}", ofTenant: true,
		},
	}},
	{"api-keys", "Keys of automation: a tenant's, or the operator's own", []operation{
		{
			name: "list", short: "List API keys, revoked ones too", method: "GET", path: "/v1/api-keys", ofTenant: true,
			columns: []string{"id", "name", "hint", "scopes", "created_at", "expires_at", "revoked_at", "last_used_at"},
		},
		{
			name: "create", short: "Make an API key, which is shown this once", method: "POST", path: "/v1/api-keys", ofTenant: true,
			fields: []field{
				{name: "name", help: "what it is for", required: true},
				{name: "scopes", kind: ofList, help: "what it may do, separated by commas, such as licenses:read,sessions:write", required: true},
				{name: "expires_at", kind: ofMoment, open: true, help: "when it ends; never when left out"},
			},
		},
		{name: "revoke", short: "Revoke an API key, at once and for good", method: "DELETE", path: "/v1/api-keys/{id}", ofTenant: true},
	}},
	{"signing-keys", "Keys that sign receipts, licence files and seat tokens", []operation{
		{
			name: "revoke", short: "Revoke a signing key, at once and for good", method: "POST", path: "/v1/signing-keys/{kid}/revoke",
			long: "Revokes a key in wrong hands: nothing that it signed is believed any more. With a root go the receipt keys that it certified. " +
				"The next key signs at once.",
			fields: []field{reason},
		},
		{
			name: "rotate", short: "Replace the signing key of a kind now", method: "POST", path: "/v1/signing-keys/rotate",
			long:   "Retires the key that signs, and lets the next sign at once. What was signed before stays good.",
			fields: []field{{name: "kind", help: "which: root, receipt or mac (of seat tokens)", required: true}},
		},
	}},
	{"products", "The catalogue: what can be licensed", []operation{
		{name: "show", short: "Show a product", method: "GET", path: "/v1/catalog/products/{code}"},
		{
			name: "put", short: "Make a product, or change it", method: "PUT", path: "/v1/catalog/products/{code}",
			fields: []field{{name: "name", help: "what it is called"}},
		},
	}},
	{"plans", "The catalogue: on what terms", []operation{
		{name: "show", short: "Show a plan", method: "GET", path: "/v1/catalog/plans/{code}"},
		{
			name: "put", short: "Make a plan, or replace it", method: "PUT", path: "/v1/catalog/plans/{code}",
			long: "Makes a plan, or replaces it: what is left out is as in a new one. Licences that were sold keep their terms, but for metrics: those " +
				"of the plan hold for all its licences at once, and one that is left out cannot be reported any more.",
			fields: slices.Concat([]field{
				{name: "product", help: "the product's code", required: true},
				{name: "name", help: "what it is called"},
				{name: "max_seats", kind: ofNumber, help: "how many seats"},
			}, ofPlan, []field{
				{name: "offline_grace_seconds", kind: ofDuration, help: "how long a receipt is good offline: 24h, 72h or 7d"},
				{name: "drain_seconds", kind: ofDuration, help: "how long the sessions above a reduced number of seats may stay"},
				{name: "trial_falls_to", help: "makes it the trial tier of its product: the plan that follows a trial"},
				{name: "metrics", kind: ofMetrics, help: "what is counted: calls, calls:QUOTA or calls:QUOTA:CAP:soft (or hard), separated by commas"},
			}),
		},
	}},
}

func (a *app) admin() *cobra.Command {
	admin := group(&cobra.Command{
		Use:   "admin",
		Short: "Administer tenants, licences, sessions, devices, API keys and the catalogue",
		Long: `What operators do daily, and tenants with an API key of their own. It needs USHER_API_KEY.

An operator says for which tenant with --tenant or USHER_TENANT_ID. A flag that says "none" takes a limit or a date away.`,
	})
	me := a.operation(&operation{name: "whoami", short: "Say whose API key this is, and what it may do", method: "GET", path: "/v1/me"})
	admin.AddCommand(me)
	for _, n := range nouns {
		noun := group(&cobra.Command{Use: n.name, Short: n.short})
		for i := range n.operations {
			noun.AddCommand(a.operation(&n.operations[i]))
		}
		admin.AddCommand(noun)
	}
	return admin
}

var placeholder = regexp.MustCompile(`\{([a-z_]+)\}`)

// arguments are the names of an operation's arguments, as help shows them.
func (o *operation) arguments() []string {
	var names []string
	for _, match := range placeholder.FindAllStringSubmatch(o.path, -1) {
		names = append(names, strings.ToUpper(match[1]))
	}
	return names
}

// operation makes the command of an operation.
func (a *app) operation(o *operation) *cobra.Command {
	arguments := o.arguments()
	cmd := &cobra.Command{
		Use:   strings.Join(append([]string{o.name}, arguments...), " "),
		Short: o.short,
		Long:  o.long,
		Args:  takes(arguments...),
	}
	flags := cmd.Flags()
	for _, f := range o.fields {
		help := f.help
		if f.open {
			help += `; "none" takes it away`
		}
		if f.required {
			help += " (required)"
		}
		flags.Var(&word{kind: f.kind}, f.flag(), help)
	}
	tenant, limit := "", 100
	if o.ofTenant {
		flags.StringVar(&tenant, "tenant", "", "the tenant's id, when an operator asks (USHER_TENANT_ID)")
	}
	if o.columns != nil {
		flags.IntVar(&limit, "limit", limit, "how many to show at most; 0 is all")
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		said, err := o.read(func(f field) (string, bool) {
			flag := flags.Lookup(f.flag())
			return flag.Value.String(), flag.Changed
		})
		if err != nil {
			return err
		}
		if limit < 0 {
			return wrong("--limit wants a number from 0 on")
		}
		service, err := a.administration()
		if err != nil {
			return err
		}
		query := url.Values{}
		if t := a.setting(tenant, "USHER_TENANT_ID"); o.ofTenant && t != "" {
			query.Set("tenant_id", t)
		}
		path := o.path
		for i, each := range placeholder.FindAllString(o.path, -1) {
			path = strings.Replace(path, each, url.PathEscape(args[i]), 1)
		}
		if o.columns != nil {
			for name, value := range said {
				query.Set(name, fmt.Sprint(value))
			}
			return a.list(cmd.Context(), service, path, query, o.columns, limit)
		}
		var body any
		if o.method != http.MethodGet && o.method != http.MethodDelete && (said != nil || o.fields != nil) {
			body = said
		}
		answer, err := service.call(cmd.Context(), o.method, path, query, body)
		if err != nil {
			return err
		}
		return a.show(answer)
	}
	return cmd
}

// read makes the body of a request from what the flags say; nil when it has none.
func (o *operation) read(flag func(field) (said string, given bool)) (map[string]any, error) {
	if o.fields == nil && o.fixed == nil {
		return nil, nil //nolint:nilnil // there is no body
	}
	body := map[string]any{}
	maps.Copy(body, o.fixed)
	for _, f := range o.fields {
		said, given := flag(f)
		if !given {
			if f.required {
				return nil, wrong("say --%s: %s", f.flag(), f.help)
			}
			continue
		}
		value, err := f.value(said)
		if err != nil {
			return nil, err
		}
		body[f.name] = value
	}
	return body, nil
}

// page is a part of a list.
type page struct {
	Items      []json.RawMessage `json:"items"`
	NextCursor *string           `json:"next_cursor"`
}

// largestPage is how much the service answers at once.
const largestPage = 100

// read reads a list to its end, or to its limit, which 0 is not. The cursor is nil at the end.
func (s *api) read(ctx context.Context, path string, query url.Values, limit int) (page, error) {
	all := page{Items: []json.RawMessage{}}
	for {
		size := largestPage
		if limit > 0 {
			size = min(size, limit-len(all.Items))
		}
		query.Set("limit", strconv.Itoa(size))
		answer, err := s.call(ctx, http.MethodGet, path, query, nil)
		if err != nil {
			return page{}, err
		}
		var next page
		if err := json.Unmarshal(answer, &next); err != nil {
			return page{}, s.stranger(http.StatusOK)
		}
		all.Items, all.NextCursor = append(all.Items, next.Items...), next.NextCursor
		if next.NextCursor == nil || limit > 0 && len(all.Items) >= limit {
			return all, nil
		}
		query.Set("cursor", *next.NextCursor)
	}
}

// list shows a list.
func (a *app) list(ctx context.Context, service *api, path string, query url.Values, columns []string, limit int) error {
	all, err := service.read(ctx, path, query, limit)
	if err != nil {
		return err
	}
	if all.NextCursor != nil {
		a.note("there are more than these %d: --limit 0 shows all", len(all.Items))
	}
	if a.json {
		writeJSON(a.out, all)
		return nil
	}
	rows := make([][]string, len(all.Items))
	for i, item := range all.Items {
		var thing map[string]any
		if err := decode(item, &thing); err != nil {
			return service.stranger(http.StatusOK)
		}
		for _, c := range columns {
			rows[i] = append(rows[i], cell(thing[c]))
		}
	}
	a.table(a.out, columns, rows)
	return nil
}

// show shows one thing. What is shown only this once comes first, and with a word to the person.
func (a *app) show(answer json.RawMessage) error {
	if a.json {
		writeJSON(a.out, answer)
		return nil
	}
	all, err := members(answer)
	if err != nil {
		return err
	}
	thing := answer
	for _, m := range all {
		switch m.name {
		case "license_key", "api_key":
			a.note("keep this key: it is shown this once")
			a.say("%s  %s", m.name, a.paint(bold, cell(m.value)))
		case "license":
			var inner struct {
				License json.RawMessage `json:"license"`
			}
			if err := json.Unmarshal(answer, &inner); err != nil {
				return fmt.Errorf("read an answer: %w", err)
			}
			thing = inner.License
		}
	}
	return a.sheet(thing, "api_key")
}

// decode reads JSON, and keeps numbers as they are written.
func decode(text json.RawMessage, into any) error {
	d := json.NewDecoder(strings.NewReader(string(text)))
	d.UseNumber()
	return d.Decode(into)
}
