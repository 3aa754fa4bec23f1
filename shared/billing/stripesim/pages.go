package stripesim

import (
	"encoding/json"
	"fmt"
	"html/template"
	"net/http"
	"strconv"
	"strings"
	"time"
)

var page = template.Must(template.New("page").Parse(`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{{.Title}}</title>
<style>body{font:16px/1.5 system-ui,sans-serif;color:#1a1f36;background:#f6f8fa;margin:0;padding:2.5em 1em}
main{max-width:28em;margin:auto;padding:1.5em 2em;background:#fff;border:1px solid #d8dee4;border-radius:10px}h1{font-size:1.4em;margin:.2em 0 .8em}
table{width:100%;border-collapse:collapse;margin-bottom:1.5em}td{padding:.6em 0;border-bottom:1px solid #e6e9ed;vertical-align:top}td:first-child{padding-right:1em}
td:last-child{text-align:right;font-variant-numeric:tabular-nums}tr.total td{font-weight:600;border-bottom:0}
button{font:inherit;width:100%;padding:.6em 1em;margin:.3em 0;background:#fff;color:inherit;border:1px solid #b6bfc9;border-radius:6px;cursor:pointer}
form:first-of-type button{background:#0b5cad;border-color:#0b5cad;color:#fff}[role=status]{padding:.6em 1em;background:#fff6dd;border-radius:6px}small{color:#57606a}</style></head>
<body><main><h1>{{.Title}}</h1>{{if .Says}}<p role="status"><strong>{{.Says}}</strong></p>{{end}}
{{if .Rows}}<table>{{range .Rows}}<tr{{if eq (index . 0) "Total now"}} class="total"{{end}}><td>{{index . 0}}</td><td>{{index . 1}}</td></tr>{{end}}</table>{{end}}
{{range .Buttons}}<form method="post"><input type="hidden" name="do" value="{{.Do}}"><button id="{{.Do}}">{{.Text}}</button></form>{{end}}
{{if .Back}}<p><a href="{{.Back}}">Back to the shop</a></p>{{end}}
<p><small>This page stands in for Stripe's on one machine. No money moves.</small></p></main></body></html>`))

type button struct{ Do, Text string }

type view struct {
	Title, Says string
	Rows        [][2]string
	Buttons     []button
	Back        string
}

func show(w http.ResponseWriter, v view) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_ = page.Execute(w, v)
}

func money(minor int64) string { return fmt.Sprintf("%d.%02d USD", minor/100, minor%100) }

func (s *Sim) pages(m *http.ServeMux) {
	m.HandleFunc("/pay/{id}", s.pay)
	m.HandleFunc("/portal/{id}", s.portal)
	m.HandleFunc("GET /shop/paid", func(w http.ResponseWriter, _ *http.Request) {
		show(w, view{Title: "Thank you", Says: "You have paid. The licence is made in a moment, and its key is mailed to you."})
	})
	m.HandleFunc("GET /shop/cancelled", func(w http.ResponseWriter, _ *http.Request) {
		show(w, view{Title: "You are back in the shop", Says: "Nothing was bought, and nothing was paid."})
	})
	m.HandleFunc("POST /sim/advance", s.advance)
	m.HandleFunc("POST /sim/faults", s.setFaults)
	m.HandleFunc("GET /sim/events", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(s.Events())
	})
	for name, do := range map[string]func(customer string){
		"decline": func(c string) { s.Card(c, false) }, "accept": func(c string) { s.Card(c, true) }, "pay": func(c string) { s.Pay(c) },
		"refund": func(c string) { s.Refund(c, 0) }, "dispute": s.Dispute, "win": func(c string) { s.Resolve(c, true) },
		"lose": func(c string) { s.Resolve(c, false) }, "delete": s.Delete,
	} {
		m.HandleFunc("POST /sim/customers/{id}/"+name, func(w http.ResponseWriter, r *http.Request) {
			customer := s.Get(r.PathValue("id"))
			if customer == nil || customer["object"] != "customer" || name != "decline" && name != "accept" && len(s.Find("charge", r.PathValue("id"))) == 0 {
				http.Error(w, "no such customer, or nothing was paid", http.StatusNotFound)
				return
			}
			do(r.PathValue("id"))
			w.WriteHeader(http.StatusNoContent)
		})
	}
}

// pay is the page at which a Checkout Session is paid.
func (s *Sim) pay(w http.ResponseWriter, r *http.Request) {
	session := s.Get(r.PathValue("id"))
	if session == nil || session["object"] != "checkout.session" {
		http.NotFound(w, r)
		return
	}
	v := view{Title: "Pay for your subscription"}
	for _, line := range list(session["sim_lines"]) {
		price := s.Get(str(obj(line)["price"]))
		if isMetered(price) {
			v.Rows = append(v.Rows, [2]string{strings.ReplaceAll(strings.TrimPrefix(str(price["id"]), "price_"), "_", " "), money(num(price["unit_amount"])) + " each, as used"})
			continue
		}
		v.Rows = append(v.Rows, [2]string{
			strings.ReplaceAll(strings.TrimPrefix(str(price["id"]), "price_"), "_", " "),
			fmt.Sprintf("%d × %s a %s", num(obj(line)["quantity"]), money(num(price["unit_amount"])), str(obj(price["recurring"])["interval"])),
		})
	}
	v.Rows = append(v.Rows, [2]string{"Total now", money(num(session["amount_total"]))})
	v.Buttons = []button{{"pay", "Pay with a card that works"}, {"decline", "Pay with a card that is declined"}, {"bank", "Pay by bank: the money comes later"}, {"cancel", "Cancel"}}
	if session["status"] != "open" {
		v.Buttons, v.Says, v.Back = nil, "This session is "+str(session["status"])+".", str(session["cancel_url"])
		if session["status"] == "complete" {
			v.Back = str(session["success_url"])
		}
		show(w, v)
		return
	}
	if r.Method != http.MethodPost {
		show(w, v)
		return
	}
	id := str(session["id"])
	switch r.FormValue("do") {
	case "decline":
		v.Says = "Your card was declined. Try another one."
		show(w, v)
	case "pay", "bank":
		s.Card(str(session["customer"]), true)
		s.Complete(id, r.FormValue("do") == "bank")
		http.Redirect(w, r, strings.ReplaceAll(str(session["success_url"]), "{CHECKOUT_SESSION_ID}", id), http.StatusSeeOther)
	default:
		http.Redirect(w, r, str(session["cancel_url"]), http.StatusSeeOther)
	}
}

// portal is the page at which a customer changes how it pays.
func (s *Sim) portal(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	customer := s.Get(id)
	if customer == nil || customer["object"] != "customer" {
		http.NotFound(w, r)
		return
	}
	v := view{Title: "Your invoices and your card", Back: r.FormValue("back")}
	if r.Method == http.MethodPost {
		switch r.FormValue("do") {
		case "accept":
			s.Card(id, true)
			v.Says = "Your card works."
			if s.Pay(id) {
				v.Says = "Your card works, and what was owed is paid."
			}
		case "decline":
			s.Card(id, false)
			v.Says = "Your card will be declined."
		}
	}
	for _, one := range s.Find("invoice", id) {
		invoice := s.Get(one)
		v.Rows = append(v.Rows, [2]string{time.Unix(num(invoice["created"]), 0).UTC().Format("2 January 2006"), money(num(invoice["total"])) + ", " + str(invoice["status"])})
	}
	v.Buttons = []button{{"accept", "Use a card that works"}, {"decline", "Use a card that will be declined"}}
	show(w, v)
}

// advance moves the clock: POST /sim/advance?seconds=86400.
func (s *Sim) advance(w http.ResponseWriter, r *http.Request) {
	seconds, err := strconv.ParseInt(r.FormValue("seconds"), 10, 64)
	if err != nil || seconds < 0 {
		http.Error(w, "seconds must be a number that is not negative", http.StatusBadRequest)
		return
	}
	s.Advance(time.Duration(seconds) * time.Second)
	_, _ = fmt.Fprintln(w, s.Now().Format(time.RFC3339))
}

// setFaults makes things go wrong: POST /sim/faults with the JSON of Faults.
func (s *Sim) setFaults(w http.ResponseWriter, r *http.Request) {
	var f Faults
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<16)).Decode(&f); err != nil {
		http.Error(w, "the body is the JSON of what is to go wrong", http.StatusBadRequest)
		return
	}
	s.Fault(f)
	w.WriteHeader(http.StatusNoContent)
}
