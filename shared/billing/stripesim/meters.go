package stripesim

import (
	"fmt"
	"strconv"
	"time"
)

// How far from now a meter event may lie, and for how long its identifier is known.
const (
	oldestUse   = 35 * day
	newestUse   = 5 * 60
	identifiers = day
)

// used is a meter event.
type used struct {
	Event, Customer string
	Value           int64
	At, Created     int64
}

func isMetered(price object) bool { return obj(price["recurring"])["usage_type"] == "metered" }

// use takes in a meter event.
func (s *Sim) use(p params) (any, error) {
	event, identifier, payload := p.text("event_name"), p.text("identifier"), p.sub("payload")
	customer := s.st.Things[payload.text("stripe_customer_id")]
	value, err1 := strconv.ParseInt(payload.text("value"), 10, 64)
	at, err2 := strconv.ParseInt(p.text("timestamp"), 10, 64)
	switch {
	case !s.meters[event]:
		return nil, &problem{400, "invalid_request_error", "resource_missing", "No active meter found for event name " + event}
	case identifier == "" || len(identifier) > 100 || err1 != nil || value < 0 || err2 != nil:
		return nil, invalid("identifier, timestamp and a whole value are needed")
	case customer == nil || customer["object"] != "customer" || customer["deleted"] == true:
		return nil, missing(payload.text("stripe_customer_id"))
	case at < s.now()-oldestUse || at > s.now()+newestUse:
		return nil, &problem{400, "invalid_request_error", "timestamp_invalid", "The timestamp must be within the past 35 days and up to 5 minutes in the future."}
	}
	key := identifier
	if before, known := s.st.Used[key]; known {
		if before.Created > s.now()-identifiers {
			// Stripe says so in words, without a code.
			return nil, &problem{400, "invalid_request_error", "", "An event already exists with identifier " + identifier + "."}
		}
		key = fmt.Sprintf("%s again at %d", identifier, s.now()) // it is forgotten, and so counts again
	}
	s.st.Used[key] = used{event, payload.text("stripe_customer_id"), value, at, s.now()}
	return object{
		"object": "billing.meter_event", "event_name": event, "identifier": identifier, "timestamp": at, "created": s.now(), "livemode": false,
		"payload": object{"stripe_customer_id": payload.text("stripe_customer_id"), "value": payload.text("value")},
	}, nil
}

// item finds an item of a subscription that lives; nil when there is none.
func (s *Sim) item(id string) (sub, price object) {
	for _, sub := range s.all("subscription", func(o object) bool { return o["status"] != "canceled" }) {
		for _, one := range list(obj(sub["items"])["data"]) {
			if obj(one)["id"] == id {
				return sub, obj(obj(one)["price"])
			}
		}
	}
	return nil, nil
}

// summariseRecords adds up the usage records of an item's current period.
func (s *Sim) summariseRecords(item string) (any, error) {
	sub, price := s.item(item)
	if sub == nil {
		return nil, missing(item)
	}
	from, to := num(sub["current_period_start"]), num(sub["current_period_end"])
	return object{"object": "list", "url": "/v1/subscription_items/" + item + "/usage_record_summaries", "has_more": false, "data": []any{object{
		"id": "sis_" + item, "object": "usage_record_summary", "invoice": nil, "livemode": false, "subscription_item": item,
		"period": object{"start": nil, "end": nil}, "total_usage": s.usedWithin(str(sub["customer"]), str(price["id"]), from, to),
	}}}, nil
}

// record takes in a usage record of a subscription's item. Its second is set, or added to.
func (s *Sim) record(item string, p params) (any, error) {
	value, err1 := strconv.ParseInt(p.text("quantity"), 10, 64)
	at, err2 := strconv.ParseInt(p.text("timestamp"), 10, 64)
	sub, price := s.item(item)
	switch {
	case sub == nil:
		return nil, missing(item)
	case !isMetered(price) || obj(price["recurring"])["meter"] != nil:
		return nil, invalid("Usage records are for metered prices without a meter.")
	case err1 != nil || value < 0 || err2 != nil || p.text("action") != "set" && p.text("action") != "increment":
		return nil, invalid("quantity, timestamp and action are needed")
	case at < num(sub["current_period_start"]) || at > s.now():
		return nil, invalid("Cannot create the usage record with this timestamp because timestamps must be within the subscription's current period.")
	}
	key := fmt.Sprint(item, " ", at)
	total := value
	if p.text("action") == "increment" {
		total += s.st.Used[key].Value
	}
	s.st.Used[key] = used{str(price["id"]), str(sub["customer"]), total, at, s.now()}
	return object{"id": s.id("mbur"), "object": "usage_record", "livemode": false, "quantity": value, "subscription_item": item, "timestamp": at}, nil
}

// summarise adds up a customer's meter events.
func (s *Sim) summarise(meter object, p params) (any, error) {
	from, err1 := strconv.ParseInt(p.text("start_time"), 10, 64)
	to, err2 := strconv.ParseInt(p.text("end_time"), 10, 64)
	switch {
	case s.st.Things[p.text("customer")] == nil:
		return nil, missing(p.text("customer"))
	case err1 != nil || err2 != nil || from%60 != 0 || to%60 != 0 || from >= to:
		return nil, invalid("start_time and end_time are needed, and must be aligned with minute boundaries")
	}
	sum := s.usedWithin(p.text("customer"), str(meter["event_name"]), from, to)
	if s.faults.Slow > 0 {
		s.faults.Slow--
		for _, u := range s.st.Used {
			if u.Customer == p.text("customer") && u.Event == str(meter["event_name"]) && u.At >= from && u.At < to && u.Created > s.now()-60 {
				sum -= u.Value
			}
		}
	}
	data := []any{object{
		"id": "mtrusg_" + str(meter["event_name"]), "object": "billing.meter_event_summary", "meter": meter["id"], "livemode": false,
		"start_time": from, "end_time": to, "aggregated_value": sum,
	}}
	return object{"object": "list", "url": "/v1/billing/meters/" + str(meter["id"]) + "/event_summaries", "has_more": false, "data": data}, nil
}

// Forget drops the meter events of that name, or the usage records of the price of that id, that lie within [from, to), as Stripe does with those that it finds wrong after it has
// taken them in.
func (s *Sim) Forget(event string, from, to time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, u := range s.st.Used {
		if u.Event == event && u.At >= from.Unix() && u.At < to.Unix() {
			delete(s.st.Used, id)
		}
	}
	s.save()
}

func (s *Sim) usedWithin(customer, event string, from, to int64) (sum int64) {
	for _, u := range s.st.Used {
		if u.Customer == customer && u.Event == event && u.At >= from && u.At < to {
			sum += u.Value
		}
	}
	return sum
}

// Used is the sum of a customer's meter events of that name that lie within [from, to).
func (s *Sim) Used(customer, event string, from, to time.Time) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.usedWithin(customer, event, from.Unix(), to.Unix())
}

// Uses is how many meter events there are.
func (s *Sim) Uses() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.st.Used)
}
