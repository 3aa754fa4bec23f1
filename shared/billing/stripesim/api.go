package stripesim

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// problem is an error of Stripe's.
type problem struct {
	status              int
	kind, code, message string
}

func (p *problem) Error() string { return p.message }

func missing(id string) error {
	return &problem{404, "invalid_request_error", "resource_missing", "No such object: '" + id + "'"}
}

func invalid(message string) error {
	return &problem{400, "invalid_request_error", "parameter_invalid", message}
}

// ServeHTTP is the API under /v1/, the pages for people under /pay/ and /portal/, and the levers under /sim/.
func (s *Sim) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

func (s *Sim) routes() *http.ServeMux {
	m := http.NewServeMux()
	m.HandleFunc("/v1/", s.v1)
	s.pages(m)
	return m
}

func (s *Sim) v1(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
	if err != nil {
		http.Error(w, "too large", http.StatusRequestEntityTooLarge)
		return
	}
	if r.Header.Get("Authorization") != "Bearer "+s.options.Key {
		answer(w, 401, &problem{401, "invalid_request_error", "", "Invalid API Key provided"})
		return
	}
	s.mu.Lock()
	hang, down := s.faults.Hang, s.faults.Down
	s.mu.Unlock()
	if hang {
		<-r.Context().Done()
		return
	}
	if down {
		answer(w, 500, &problem{500, "api_error", "", "Stripe is down"})
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	key := r.Header.Get("Idempotency-Key")
	request := r.Method + " " + r.URL.Path + " " + string(body)
	replied, known := s.st.Replies[key]
	switch {
	case r.Method == http.MethodGet || key == "" || !known:
		replied = s.reply(r, string(body))
		replied.Request = request
		if r.Method != http.MethodGet && key != "" && replied.Status < 500 {
			s.st.Replies[key] = replied
		}
	case replied.Request != request:
		answer(w, 400, &problem{400, "idempotency_error", "idempotency_key_in_use", "Keys for idempotent requests can only be used with the same parameters"})
		return
	default:
		w.Header().Set("Idempotent-Replayed", "true")
	}
	if r.Method != http.MethodGet {
		s.save()
		if s.faults.Lose > 0 {
			s.faults.Lose--
			answer(w, 500, &problem{500, "api_error", "", "Stripe did it, and has forgotten to say so"})
			return
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Stripe-Version", Version)
	w.WriteHeader(replied.Status)
	_, _ = w.Write(replied.Body)
}

func answer(w http.ResponseWriter, status int, p *problem) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if text, err := json.Marshal(map[string]map[string]string{"error": {"type": p.kind, "code": p.code, "message": p.message}}); err == nil {
		_, _ = w.Write(text)
	}
}

func (s *Sim) reply(r *http.Request, body string) reply {
	form := body
	if r.Method == http.MethodGet || form == "" {
		form = r.URL.RawQuery
	}
	values, err := url.ParseQuery(form)
	var made any
	if err == nil {
		made, err = s.do(r.Method, strings.Split(strings.TrimPrefix(r.URL.Path, "/v1/"), "/"), params(nest(values)))
	}
	status := 200
	if err != nil {
		p, ok := err.(*problem) //nolint:errorlint // it is made here
		if !ok {
			p = &problem{400, "invalid_request_error", "", err.Error()}
		}
		status, made = p.status, object{"error": object{"type": p.kind, "code": p.code, "message": p.message}}
	}
	text, err := json.Marshal(made)
	if err != nil {
		panic(err)
	}
	return reply{Status: status, Body: text}
}

// params are what was sent: items[0][price]=x is params{"items": {"0": {"price": "x"}}}.
type params map[string]any

func nest(values url.Values) map[string]any {
	root := map[string]any{}
	for key, value := range values {
		parts := strings.Split(strings.ReplaceAll(key, "]", ""), "[")
		at := root
		for _, part := range parts[:len(parts)-1] {
			next, ok := at[part].(map[string]any)
			if !ok {
				next = map[string]any{}
				at[part] = next
			}
			at = next
		}
		at[parts[len(parts)-1]] = value[0]
	}
	return root
}

func (p params) text(name string) string { text, _ := p[name].(string); return text }

func (p params) sub(name string) params { m, _ := p[name].(map[string]any); return m }

// each are the members of a list, in their order.
func (p params) each(name string) []params {
	m := p.sub(name)
	var all []params
	for i := range len(m) {
		all = append(all, m.sub(strconv.Itoa(i)))
	}
	return all
}

func (p params) expands(path string) bool {
	for _, v := range p.sub("expand") {
		if v == path {
			return true
		}
	}
	return false
}

// do is the API. The caller holds the lock.
func (s *Sim) do(method string, path []string, p params) (any, error) {
	route := method + " " + path[0]
	if (path[0] == "checkout" || path[0] == "billing_portal" || path[0] == "billing") && len(path) > 1 {
		route += "/" + path[1]
		path = path[1:]
	}
	id := ""
	if len(path) > 1 {
		id = path[1]
		route += "/{id}"
	}
	if len(path) > 2 {
		route += "/" + path[2]
	}
	var thing object
	switch route {
	case "POST subscription_items/{id}/usage_records":
		return s.record(id, p)
	case "GET subscription_items/{id}/usage_record_summaries":
		return s.summariseRecords(id)
	}
	if id != "" {
		if thing = s.st.Things[id]; thing == nil || !strings.HasPrefix(path[0], strings.TrimPrefix(str(thing["object"]), "billing.")) && thing["object"] != "checkout.session" {
			return nil, missing(id)
		}
	}
	switch route {
	case "POST customers":
		return s.add(object{"id": s.id("cus"), "object": "customer", "name": p["name"], "email": p["email"], "metadata": map[string]any(p.sub("metadata"))}), nil
	case "GET customers/{id}", "GET prices/{id}", "GET billing/meters/{id}", "GET coupons/{id}", "GET subscriptions/{id}", "GET events/{id}", "GET checkout/sessions/{id}":
		return thing, nil
	case "GET invoices/{id}", "GET charges/{id}":
		return s.expand(thing, p, ""), nil
	case "POST checkout/sessions":
		return s.newSession(p)
	case "POST checkout/sessions/{id}/expire":
		if thing["status"] != "open" {
			return nil, invalid("Only Checkout Sessions with a status in [\"open\"] can be expired.")
		}
		s.expireSession(thing)
		return thing, nil
	case "POST subscriptions/{id}":
		return s.update(thing, p)
	case "DELETE subscriptions/{id}":
		if thing["status"] == "canceled" {
			return nil, missing(id)
		}
		if p.text("invoice_now") == "true" {
			s.settleUse(thing, p.text("prorate") == "true")
		}
		s.end(thing, s.now())
		return thing, nil
	case "GET subscriptions":
		return s.list(p, "subscription", "/v1/subscriptions", func(o object) bool { return match(o, p, "customer") }), nil
	case "POST invoices/{id}/void":
		if thing["status"] != "open" {
			return nil, invalid("Only open invoices can be voided.")
		}
		thing["status"] = "void"
		if sub := s.st.Things[str(thing["subscription"])]; sub != nil && sub["pending_update"] != nil && sub["latest_invoice"] == id {
			s.expireUpdate(sub)
		}
		return thing, nil
	case "GET invoices":
		return s.list(p, "invoice", "/v1/invoices", func(o object) bool { return match(o, p, "subscription") && match(o, p, "customer") }), nil
	case "GET charges":
		return s.list(p, "charge", "/v1/charges", func(o object) bool { return match(o, p, "payment_intent") && match(o, p, "customer") }), nil
	case "GET disputes":
		return s.list(p, "dispute", "/v1/disputes", func(o object) bool { return match(o, p, "charge") }), nil
	case "GET events":
		return s.list(p, "event", "/v1/events", func(o object) bool {
			since, _ := strconv.ParseInt(p.sub("created").text("gte"), 10, 64)
			return num(o["created"]) >= since
		}), nil
	case "GET billing/meters":
		return s.list(p, "billing.meter", "/v1/billing/meters", func(object) bool { return true }), nil
	case "GET billing/meters/{id}/event_summaries":
		return s.summarise(thing, p)
	case "POST billing/meter_events":
		return s.use(p)
	case "POST refunds":
		charge := s.st.Things[p.text("charge")]
		if charge == nil {
			return nil, missing(p.text("charge"))
		}
		amount, _ := strconv.ParseInt(p.text("amount"), 10, 64)
		return s.refund(charge, amount), nil
	case "POST billing_portal/sessions":
		customer := p.text("customer")
		if s.st.Things[customer] == nil {
			return nil, missing(customer)
		}
		return object{
			"id": s.id("bps"), "object": "billing_portal.session", "customer": customer, "return_url": p["return_url"], "livemode": false,
			"created": s.now(), "url": s.options.URL + "/portal/" + customer + "?back=" + url.QueryEscape(p.text("return_url")),
		}, nil
	}
	return nil, &problem{404, "invalid_request_error", "", "Unrecognized request URL (" + route + ")"}
}

func match(o object, p params, name string) bool {
	return p.text(name) == "" || o[name] == p.text(name)
}

func (s *Sim) list(p params, kind, path string, where func(object) bool) object {
	limit, err := strconv.Atoi(p.text("limit"))
	if err != nil {
		limit = 10
	}
	found := s.all(kind, where)
	if after := p.text("starting_after"); after != "" {
		i := slices.IndexFunc(found, func(o object) bool { return o["id"] == after })
		found = found[i+1:]
	}
	more := len(found) > limit
	data := []any{}
	for _, o := range found[:min(len(found), limit)] {
		data = append(data, s.expand(o, p, "data."))
	}
	return object{"object": "list", "url": path, "has_more": more, "data": data}
}

// expand puts things in the place of their ids.
func (s *Sim) expand(o object, p params, prefix string) object {
	o = clone(o)
	for _, field := range []string{"charge", "invoice", "subscription"} {
		if id := str(o[field]); id != "" && p.expands(prefix+field) {
			o[field] = s.st.Things[id]
		}
	}
	return o
}

func (s *Sim) newSession(p params) (any, error) {
	customer := s.st.Things[p.text("customer")]
	if customer == nil || customer["deleted"] == true {
		return nil, missing(p.text("customer"))
	}
	if p.text("mode") != "subscription" || p.text("success_url") == "" {
		return nil, invalid("mode and success_url are needed")
	}
	var lines []any
	var total int64
	for _, line := range p.each("line_items") {
		price := s.st.Things[line.text("price")]
		quantity, err := strconv.ParseInt(line.text("quantity"), 10, 64)
		if price == nil || price["object"] != "price" || (err != nil) != isMetered(price) || isMetered(price) && line.text("quantity") != "" {
			return nil, missing(line.text("price"))
		}
		total += num(price["unit_amount"]) * quantity
		lines = append(lines, object{"price": price["id"], "quantity": quantity})
	}
	if lines == nil {
		return nil, invalid("line_items are needed")
	}
	id := s.id("cs_test")
	return s.add(object{
		"id": id, "object": "checkout.session", "mode": "subscription", "status": "open", "payment_status": "unpaid", "customer": customer["id"],
		"success_url": p["success_url"], "cancel_url": p["cancel_url"], "client_reference_id": p["client_reference_id"],
		"metadata": map[string]any(p.sub("metadata")), "sim_metadata": map[string]any(p.sub("subscription_data").sub("metadata")), "sim_lines": lines,
		"amount_total": total, "currency": "usd", "expires_at": s.now() + day, "url": s.options.URL + "/pay/" + id, "subscription": nil, "invoice": nil,
	}), nil
}

// update changes a subscription.
func (s *Sim) update(sub object, p params) (any, error) {
	if sub["status"] == "canceled" {
		return nil, invalid("A canceled subscription can only update its cancellation_details and metadata.")
	}
	if p.text("payment_behavior") == "pending_if_incomplete" && (p["metadata"] != nil || p["cancel_at_period_end"] != nil) {
		return nil, invalid("With pending_if_incomplete only items and proration can be updated.")
	}
	for key, value := range p.sub("metadata") {
		meta := obj(sub["metadata"])
		if meta == nil {
			meta = object{}
			sub["metadata"] = meta
		}
		meta[key] = value
	}
	switch p.text("cancel_at_period_end") {
	case "true":
		sub["cancel_at_period_end"], sub["cancel_at"], sub["canceled_at"] = true, sub["current_period_end"], s.now()
	case "false":
		sub["cancel_at_period_end"], sub["cancel_at"], sub["canceled_at"] = false, nil, nil
	}
	if id := p.text("coupon"); id != "" {
		coupon := s.st.Things[id]
		if coupon == nil || coupon["object"] != "coupon" {
			return nil, missing(id)
		}
		sub["discount"] = object{"object": "discount", "coupon": coupon, "subscription": sub["id"]}
	}
	if items := p.each("items"); len(items) > 0 {
		next, err := s.items(sub, items)
		if err != nil {
			return nil, err
		}
		if p.text("proration_behavior") == "always_invoice" {
			if inv := s.prorate(sub, next); inv != nil {
				sub["latest_invoice"] = inv["id"]
				s.emit("invoice.created", inv)
				if !s.attempt(inv) {
					if p.text("payment_behavior") == "pending_if_incomplete" {
						sub["pending_update"] = object{"expires_at": s.now() + 23*hour, "subscription_items": next}
					}
					s.emit("customer.subscription.updated", sub)
					return sub, nil
				}
			}
		}
		obj(sub["items"])["data"] = next
	}
	s.emit("customer.subscription.updated", sub)
	return sub, nil
}

// items are a subscription's items after a change.
func (s *Sim) items(sub object, changes []params) ([]any, error) {
	next := list(clone(obj(sub["items"]))["data"])
	for _, change := range changes {
		i := slices.IndexFunc(next, func(item any) bool { return obj(item)["id"] == change.text("id") })
		quantity, err := strconv.ParseInt(change.text("quantity"), 10, 64)
		switch {
		case change.text("id") != "" && i < 0:
			return nil, missing(change.text("id"))
		case change.text("deleted") == "true":
			next = slices.Delete(next, i, i+1)
		case change.text("quantity") == "" && i < 0 && isMetered(s.st.Things[change.text("price")]):
			next = append(next, object{"id": s.id("si"), "object": "subscription_item", "price": s.st.Things[change.text("price")]})
		case err != nil:
			return nil, invalid("quantity is needed")
		case i >= 0:
			obj(next[i])["quantity"] = quantity
		default:
			price := s.st.Things[change.text("price")]
			if price == nil {
				return nil, missing(change.text("price"))
			}
			next = append(next, object{"id": s.id("si"), "object": "subscription_item", "price": price, "quantity": quantity})
		}
	}
	return next, nil
}

// prorate bills what more costs for the rest of the period; nil when it is no more.
func (s *Sim) prorate(sub object, next []any) object {
	sum := func(items []any) (total int64) {
		for _, item := range items {
			total += num(obj(obj(item)["price"])["unit_amount"]) * num(obj(item)["quantity"])
		}
		return total
	}
	start, end, now := num(sub["current_period_start"]), num(sub["current_period_end"]), s.now()
	more := (sum(next) - sum(list(obj(sub["items"])["data"]))) * (end - now) / (end - start)
	if more <= 0 {
		return nil
	}
	price := obj(obj(next[0])["price"])
	return s.invoice(sub, "subscription_update", more, []any{s.line(sub, more, 1, price, true, now, end)})
}

// Sign is the Stripe-Signature of a payload at a time, by each of the secrets.
func Sign(payload []byte, at time.Time, secrets ...string) string {
	var header strings.Builder
	header.WriteString("t=" + strconv.FormatInt(at.Unix(), 10))
	for _, secret := range secrets {
		mac := hmac.New(sha256.New, []byte(secret))
		_, _ = fmt.Fprintf(mac, "%d.", at.Unix())
		_, _ = mac.Write(payload)
		header.WriteString(",v1=" + hex.EncodeToString(mac.Sum(nil)))
	}
	return header.String()
}
