package stripesim

import (
	"math"
	"time"
)

const (
	hour = 3600
	day  = 24 * hour
)

// retries are when an invoice is tried again after its first failure; after the last one the subscription is cancelled.
var retries = []int64{3 * day, 5 * day, 7 * day}

// Card says how the money of a customer's is had from now on: at once, or not.
func (s *Sim) Card(customer string, works bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.st.Things[customer]["sim_declines"] = !works
	s.save()
}

// Advance moves the clock, and does what falls due on the way.
func (s *Sim) Advance(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	frozen, until := s.st.Frozen, s.now()+int64(d/time.Second)
	changed := d != 0
	for {
		at, do := s.next()
		if do == nil || at > until {
			break
		}
		s.st.Frozen = max(at, s.now())
		do()
		s.st.Frozen, changed = frozen, true
	}
	if frozen != 0 {
		s.st.Frozen = until
	} else {
		s.st.Offset += int64(d / time.Second)
	}
	if changed {
		s.save()
	}
}

// Rewind sets a clock that goes back to the real time. What was done stays done.
func (s *Sim) Rewind() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.st.Offset = 0
	s.save()
}

// Tick does what fell due since.
func (s *Sim) Tick() { s.Advance(0) }

// next is what falls due first.
func (s *Sim) next() (at int64, do func()) {
	at = math.MaxInt64
	due := func(when int64, what func()) {
		if when > 0 && when < at {
			at, do = when, what
		}
	}
	for _, id := range s.st.Order {
		o := s.st.Things[id]
		switch o["object"] {
		case "subscription":
			if o["status"] == "active" || o["status"] == "past_due" {
				due(num(o["current_period_end"]), func() { s.turn(o) })
			}
			if pending := obj(o["pending_update"]); pending != nil {
				due(num(pending["expires_at"]), func() { s.expireUpdate(o) })
			}
		case "invoice":
			if o["status"] == "draft" {
				due(num(o["sim_finalizes"]), func() { s.finalize(o) })
			}
			if o["status"] == "open" {
				due(num(o["next_payment_attempt"]), func() { s.attempt(o) })
			}
		case "checkout.session":
			if o["status"] == "open" {
				due(num(o["expires_at"]), func() { s.expireSession(o) })
			}
		}
	}
	return at, do
}

// turn begins a subscription's next period, or ends it.
func (s *Sim) turn(sub object) {
	if sub["cancel_at_period_end"] == true {
		s.end(sub, num(sub["current_period_end"]))
		return
	}
	start := num(sub["current_period_end"])
	sub["current_period_start"], sub["current_period_end"] = start, s.after(sub, start)
	inv := s.bill(sub, "subscription_cycle")
	inv["status"], inv["sim_finalizes"] = "draft", start+hour
	sub["latest_invoice"] = inv["id"]
	s.emit("invoice.created", inv)
	s.emit("customer.subscription.updated", sub)
}

// after is the end of the period that begins then.
func (s *Sim) after(sub object, start int64) int64 {
	months := 1
	if obj(obj(obj(list(obj(sub["items"])["data"])[0])["price"])["recurring"])["interval"] == "year" {
		months = 12
	}
	return time.Unix(start, 0).UTC().AddDate(0, months, 0).Unix()
}

// before is the beginning of the period that ends then.
func (s *Sim) before(sub object, end int64) int64 {
	for _, inv := range s.all("invoice", func(o object) bool { return o["subscription"] == sub["id"] }) {
		for _, line := range list(obj(inv["lines"])["data"]) {
			if period := obj(obj(line)["period"]); num(period["end"]) == end && !isMetered(obj(obj(line)["price"])) && obj(line)["proration"] == false {
				return num(period["start"])
			}
		}
	}
	return num(sub["start_date"])
}

// bill makes an open invoice for the period of the subscription.
func (s *Sim) bill(sub object, reason string) object {
	var lines []any
	var total int64
	for _, item := range list(obj(sub["items"])["data"]) {
		price, quantity := obj(obj(item)["price"]), num(obj(item)["quantity"])
		from, to := num(sub["current_period_start"]), num(sub["current_period_end"])
		if isMetered(price) { // what was used in the period before
			if reason == "subscription_create" {
				continue
			}
			from, to = s.before(sub, from), from
			quantity = s.usedWithin(str(sub["customer"]), str(obj(price["recurring"])["sim_event_name"]), from, to)
		}
		amount := num(price["unit_amount"]) * quantity
		total += amount
		lines = append(lines, s.line(sub, amount, quantity, price, false, from, to))
	}
	return s.invoice(sub, reason, total, lines)
}

// settleUse bills what was used in a period that ends now; prorate gives back what was paid for its rest.
func (s *Sim) settleUse(sub object, prorate bool) {
	var lines []any
	var total int64
	from, to, now := num(sub["current_period_start"]), num(sub["current_period_end"]), s.now()
	for _, item := range list(obj(sub["items"])["data"]) {
		price := obj(obj(item)["price"])
		quantity, amount := num(obj(item)["quantity"]), int64(0)
		switch {
		case isMetered(price):
			quantity = s.usedWithin(str(sub["customer"]), str(obj(price["recurring"])["sim_event_name"]), from, now)
			amount = num(price["unit_amount"]) * quantity
			lines = append(lines, s.line(sub, amount, quantity, price, false, from, now))
		case prorate:
			amount = -num(price["unit_amount"]) * quantity * (to - now) / (to - from)
			lines = append(lines, s.line(sub, amount, quantity, price, true, now, to))
		}
		total += amount
	}
	if total != 0 {
		inv := s.invoice(sub, "subscription_update", total, lines)
		s.emit("invoice.created", inv)
		s.attempt(inv)
	}
}

func (s *Sim) line(sub object, amount, quantity int64, price object, proration bool, from, to int64) object {
	return object{
		"id": s.id("il"), "object": "line_item", "type": "subscription", "amount": amount, "quantity": quantity, "price": price,
		"proration": proration, "period": object{"start": from, "end": to}, "subscription": sub["id"], "currency": price["currency"],
	}
}

func (s *Sim) invoice(sub object, reason string, total int64, lines []any) object {
	intent := s.id("pi")
	return s.add(object{
		"id": s.id("in"), "object": "invoice", "customer": sub["customer"], "subscription": sub["id"], "billing_reason": reason, "status": "open",
		"paid": false, "attempted": false, "attempt_count": 0, "amount_due": total, "amount_paid": 0, "amount_remaining": total, "total": total,
		"currency": "usd", "payment_intent": intent, "charge": nil, "collection_method": "charge_automatically", "next_payment_attempt": nil,
		"lines":              object{"object": "list", "data": lines, "has_more": false, "url": "/v1/invoices/lines"},
		"status_transitions": object{"finalized_at": s.now(), "paid_at": nil, "voided_at": nil, "marked_uncollectible_at": nil},
	})
}

func (s *Sim) finalize(inv object) {
	inv["status"] = "open"
	obj(inv["status_transitions"])["finalized_at"] = s.now()
	s.attempt(inv)
}

// attempt tries to have an invoice's money.
func (s *Sim) attempt(inv object) bool {
	sub, customer := s.st.Things[str(inv["subscription"])], s.st.Things[str(inv["customer"])]
	count := num(inv["attempt_count"]) + 1
	inv["attempt_count"], inv["attempted"], inv["next_payment_attempt"] = count, true, nil
	ok := customer["sim_declines"] != true && customer["deleted"] != true
	status := "succeeded"
	if !ok {
		status = "failed"
	}
	charge := s.add(object{
		"id": s.id("ch"), "object": "charge", "customer": inv["customer"], "invoice": inv["id"], "payment_intent": inv["payment_intent"],
		"amount": inv["amount_due"], "currency": inv["currency"], "status": status, "paid": ok, "refunded": false, "amount_refunded": 0, "disputed": false,
	})
	inv["charge"] = charge["id"]
	if ok {
		s.paid(inv, sub)
		return true
	}
	if inv["billing_reason"] == "subscription_cycle" {
		if int(count) <= len(retries) {
			inv["next_payment_attempt"] = num(obj(inv["status_transitions"])["finalized_at"]) + retries[count-1]
		}
		if sub["status"] == "active" {
			sub["status"] = "past_due"
		}
	}
	s.emit("invoice.payment_failed", inv)
	if inv["billing_reason"] == "subscription_cycle" {
		if int(count) > len(retries) && sub["status"] != "canceled" {
			s.end(sub, s.now())
		} else {
			s.emit("customer.subscription.updated", sub)
		}
	}
	return false
}

func (s *Sim) paid(inv, sub object) {
	inv["status"], inv["paid"], inv["amount_paid"], inv["amount_remaining"], inv["next_payment_attempt"] = "paid", true, inv["amount_due"], 0, nil
	obj(inv["status_transitions"])["paid_at"] = s.now()
	if sub["status"] == "past_due" || sub["status"] == "incomplete" {
		sub["status"] = "active"
		s.emit("customer.subscription.updated", sub)
	}
	if pending := obj(sub["pending_update"]); pending != nil && sub["latest_invoice"] == inv["id"] {
		obj(sub["items"])["data"] = pending["subscription_items"]
		sub["pending_update"] = nil
		s.emit("customer.subscription.pending_update_applied", sub)
	}
	s.emit("invoice.paid", inv)
}

// Pay has the money of the customer's newest open invoice asked for again, now.
func (s *Sim) Pay(customer string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.save()
	for _, inv := range s.all("invoice", func(o object) bool { return o["customer"] == customer && o["status"] == "open" }) {
		return s.attempt(inv)
	}
	return false
}

func (s *Sim) end(sub object, at int64) {
	if sub["canceled_at"] == nil {
		sub["canceled_at"] = at
	}
	sub["status"], sub["ended_at"], sub["pending_update"] = "canceled", at, nil
	for _, inv := range s.all("invoice", func(o object) bool {
		return o["subscription"] == sub["id"] && o["status"] != "paid" && o["status"] != "void"
	}) {
		inv["next_payment_attempt"] = nil
		if inv["status"] == "draft" {
			inv["status"] = "void"
		}
	}
	s.emit("customer.subscription.deleted", sub)
}

func (s *Sim) expireUpdate(sub object) {
	sub["pending_update"] = nil
	if inv := s.st.Things[str(sub["latest_invoice"])]; inv != nil && inv["status"] == "open" {
		inv["status"] = "void"
	}
	s.emit("customer.subscription.pending_update_expired", sub)
}

func (s *Sim) expireSession(session object) {
	session["status"], session["url"] = "expired", nil
	s.emit("checkout.session.expired", session)
}

// complete makes the subscription that a Checkout Session is about. Late says that the money comes later, as from a bank.
func (s *Sim) complete(session object, late bool) {
	now := s.now()
	var items []any
	for _, line := range list(session["sim_lines"]) {
		items = append(items, object{
			"id": s.id("si"), "object": "subscription_item", "price": s.st.Things[str(obj(line)["price"])], "quantity": num(obj(line)["quantity"]),
		})
	}
	sub := s.add(object{
		"id": s.id("sub"), "object": "subscription", "customer": session["customer"], "status": "active", "metadata": session["sim_metadata"],
		"items": object{"object": "list", "data": items, "has_more": false, "url": "/v1/subscription_items"}, "current_period_start": now,
		"cancel_at_period_end": false, "cancel_at": nil, "canceled_at": nil, "ended_at": nil, "collection_method": "charge_automatically",
		"billing_cycle_anchor": now, "start_date": now, "pending_update": nil, "currency": "usd", "latest_invoice": nil,
	})
	sub["current_period_end"] = s.after(sub, now)
	inv := s.bill(sub, "subscription_create")
	sub["latest_invoice"] = inv["id"]
	session["status"], session["url"], session["subscription"], session["invoice"] = "complete", nil, sub["id"], inv["id"]
	session["payment_status"] = "unpaid"
	s.emit("customer.subscription.created", sub)
	s.emit("invoice.created", inv)
	if !late {
		session["payment_status"] = "paid"
		s.attempt(inv)
	}
	s.emit("checkout.session.completed", session)
}

// Clear lets the money of a session that was paid by bank come, or not.
func (s *Sim) Clear(session string, comes bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.save()
	o := s.st.Things[session]
	inv, sub := s.st.Things[str(o["invoice"])], s.st.Things[str(o["subscription"])]
	s.st.Things[str(o["customer"])]["sim_declines"] = !comes
	if s.attempt(inv) {
		o["payment_status"] = "paid"
		s.emit("checkout.session.async_payment_succeeded", o)
		return
	}
	s.emit("checkout.session.async_payment_failed", o)
	s.end(sub, s.now())
}

// Complete pays at a Checkout Session: with a card that works, or late, as by bank.
func (s *Sim) Complete(session string, late bool) (subscription string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.save()
	o := s.st.Things[session]
	if o == nil || o["status"] != "open" {
		return ""
	}
	s.complete(o, late)
	return str(o["subscription"])
}

// charge is the newest charge of a customer's that went through for a period.
func (s *Sim) charge(customer string) object {
	for _, c := range s.all("charge", func(o object) bool {
		return o["customer"] == customer && o["paid"] == true && s.st.Things[str(o["invoice"])]["billing_reason"] != "subscription_update"
	}) {
		return c
	}
	return nil
}

// Refund gives back the customer's newest payment for a period: all of it, or a part.
func (s *Sim) Refund(customer string, amount int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.save()
	s.refund(s.charge(customer), amount)
}

func (s *Sim) refund(c object, amount int64) object {
	if amount == 0 {
		amount = num(c["amount"]) - num(c["amount_refunded"])
	}
	c["amount_refunded"] = num(c["amount_refunded"]) + amount
	c["refunded"] = num(c["amount_refunded"]) == num(c["amount"])
	made := s.add(object{"id": s.id("re"), "object": "refund", "charge": c["id"], "amount": amount, "currency": c["currency"], "status": "succeeded"})
	s.emit("charge.refunded", c)
	return made
}

// Dispute has the customer's newest payment for a period disputed; Resolve ends that dispute.
func (s *Sim) Dispute(customer string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.save()
	c := s.charge(customer)
	c["disputed"] = true
	s.emit("charge.dispute.created", s.add(object{
		"id": s.id("dp"), "object": "dispute", "charge": c["id"], "payment_intent": c["payment_intent"], "amount": c["amount"],
		"currency": c["currency"], "status": "needs_response", "reason": "fraudulent",
	}))
}

// Resolve decides the newest dispute of a customer's.
func (s *Sim) Resolve(customer string, won bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.save()
	c := s.charge(customer)
	for _, d := range s.all("dispute", func(o object) bool { return o["charge"] == c["id"] }) {
		d["status"] = map[bool]string{true: "won", false: "lost"}[won]
		s.emit("charge.dispute.closed", d)
		return
	}
}

// Delete deletes a customer, which ends its subscriptions.
func (s *Sim) Delete(customer string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.save()
	s.st.Things[customer]["deleted"] = true
	for _, sub := range s.all("subscription", func(o object) bool { return o["customer"] == customer && o["status"] != "canceled" }) {
		s.end(sub, s.now())
	}
	s.emit("customer.deleted", s.st.Things[customer])
}
