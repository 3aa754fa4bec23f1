package functiontest_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	. "github.com/coditect/usher/functions/all/functiontest"
)

// target is a function with a request that it answers well.
type target struct {
	door  *Door
	token string
	body  Body
}

func targets(t *testing.T, w *World, l License) map[string]target {
	t.Helper()
	s := w.Seating(t)
	token := s.Sit(t, l, "a").SeatToken
	released := s.Sit(t, l, "b").SeatToken
	bearer, err := w.Scheduler.Token(map[string]any{"aud": SchedulerAudience, "email": SchedulerEmail, "email_verified": true}, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	full := Body{
		"license_key": l.Key, "hardware_id": "c", "version": "1.0.0", "product": Product, "user": "u", "instance_id": "i",
		"hostname": "h", "metadata": Body{"k": "v"}, "wait": false,
	}
	return map[string]target{
		"validate": {w.Validate(t), "", Body{
			"license_key": l.Key, "hardware_id": "c", "version": "1.0.0", "product": Product, "features": []string{"f"}, "nonce": "n",
		}},
		"acquire":             {s.Acquire, "", full},
		"heartbeat":           {s.Heartbeat, token, Body{}},
		"release":             {s.Release, released, Body{}},
		"release of a waiter": {s.Release, "", full},
		"sweep":               {w.Sweep(t), bearer, Body{}},
	}
}

// bad are bodies that nobody may send to the target, by what is wrong with them.
func bad(t *testing.T, good Body) map[string]string {
	t.Helper()
	write := func(b Body) string {
		text, err := json.Marshal(b)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	text := write(good)
	start, end := strings.TrimSuffix(text, "}"), "}"
	if len(good) > 0 {
		start += ","
	}
	with := func(members string) string { return start + members + end }
	bodies := map[string]string{
		"cut short":                 text[:len(text)-1],
		"no JSON":                   "license_key=x",
		"two values":                text + text,
		"a comma too many":          start + "," + end,
		"a byte order mark":         "\ufeff" + text,
		"a name twice":              with(`"twice":1,"twice":1`),
		"a name twice, escaped":     with(`"twice":1,"\u0074wice":1`),
		"a name twice, deep inside": with(`"metadata":{"x":{"y":1,"y":1}}`),
		"no UTF-8":                  with("\"hardware_id\":\"\xff\xfe\""),
		"no UTF-8 in a name":        with("\"\xff\":1"),
		"half a surrogate":          with(`"unknown":"\ud800"`),
		"a raw control character":   with("\"unknown\":\"a\nb\""),
		"an escaped one":            with(`"unknown":"\u0000"`),
		"an escaped one in a name":  with(`"\u0007":1`),
		"an unknown field":          with(`"unknown":1`),
		"a field in capitals":       with(`"HARDWARE_ID":"x"`),
		"33 levels":                 with(`"metadata":` + strings.Repeat(`{"a":`, 32) + "1" + strings.Repeat("}", 32)),
		"10,000 levels":             with(`"metadata":` + strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000)),
		"10,000 levels unclosed":    strings.Repeat(`{"a":`, 10_000),
		"a number out of range":     with(`"metadata":{"n":1e999}` + `,"unknown":1`),
		"too large by a byte":       `{"unknown":"` + strings.Repeat("x", 64<<10-13) + `"}`,
		"a megabyte":                `{"unknown":"` + strings.Repeat("x", 1<<20) + `"}`,
		"a megabyte of space":       strings.Repeat(" ", 1<<20),
		"NaN":                       with(`"unknown":NaN`),
		"single quotes":             "{'a':1}",
		"a comment":                 text + "// x",
		"null":                      "null",
		"a string":                  `"x"`,
		"a number":                  "1",
		"a list":                    "[" + text + "]",
	}
	for name := range good {
		values := map[string]any{"null": nil, "a number": 7, "a truth": true, "a list": []any{1}, "an object": Body{"x": Body{}}, "a string": "\u0000"}
		switch good[name].(type) {
		case bool:
			delete(values, "a truth")
		case Body:
			delete(values, "an object")
		}
		for kind, value := range values {
			bodies[name+" is "+kind] = write(With(good, name, value))
		}
		if _, ok := good[name].(string); ok {
			bodies[name+" is too long"] = write(With(good, name, strings.Repeat("é", 256)))
		}
	}
	return bodies
}

func TestBadInputIsAlwaysAnsweredWithAProblemDocument(t *testing.T) {
	t.Parallel()
	w := New(t, Options{Env: map[string]string{"BUDGET_UNKNOWN_BURST": "100000"}})
	l := w.Seats(t, 100, time.Hour)
	all := targets(t, w, l)
	var secrets []string
	for name, to := range all {
		for wrong, text := range bad(t, to.body) {
			r := to.door.Send(t, Message{Token: to.token, Body: text})
			hold(t, fmt.Sprintf("%s with %s", name, wrong), r, l.Key, to.token)
		}
		text, err := json.Marshal(to.body)
		if err != nil {
			t.Fatal(err)
		}
		good := bytes.Replace(text, []byte("{"), []byte("{ "), 1) // not the one that needs no look
		for media, status := range map[string]int{
			"text/plain": 415, "application/x-www-form-urlencoded": 415, "application/json; charset=latin1": 415,
			"application/json; charset=utf-8": 0, "": 415, "nonsense/": 415, "application/json, text/plain": 415,
		} {
			r := to.door.Send(t, Message{Token: to.token, Body: string(good), Header: map[string]string{"Content-Type": media}})
			if status == 0 {
				if r.Status >= 300 {
					t.Errorf("%s as %q: answered %d %s", name, media, r.Status, r.Body)
				}
				continue
			}
			hold(t, name+" as "+media, r, l.Key, to.token)
		}
		hold(t, name+" compressed", to.door.Send(t, Message{Token: to.token, Body: string(good), Header: map[string]string{"Content-Encoding": "gzip"}}), l.Key, to.token)
		for _, header := range []map[string]string{
			{"Authorization": "Bearer"},
			{"Authorization": "Bearer \x01"},
			{"Authorization": strings.Repeat("A", 1<<16)},
			{"Authorization": "Basic Og=="},
			{"X-Request-Id": strings.Repeat("x", 1000)},
			{"Traceparent": "00-zz"},
			{"X-Forwarded-For": "not an address,,"},
			{"Idempotency-Key": "\x7f"},
		} {
			r := to.door.Send(t, Message{Token: to.token, Body: string(text), Header: header})
			if r.Status >= 400 {
				hold(t, fmt.Sprintf("%s with %.40v", name, header), r, l.Key, to.token)
			}
		}
		if to.token != "" {
			secrets = append(secrets, to.token)
		}
	}
	all["keys"] = target{door: w.Keys(t)}
	for name, to := range all {
		for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions, "BREW"} {
			if method != to.door.Method {
				r := to.door.SendBare(t, Message{Method: method, Token: to.token}).Want(t, http.StatusMethodNotAllowed, "method_not_allowed")
				r.IsProblem(t)
				if r.Header.Get("Allow") == "" {
					t.Errorf("%s: %s was refused without saying what is allowed", name, method)
				}
			}
		}
		for _, path := range []string{"/v1", "/v1/", "//", "/../", to.door.Path + "/", to.door.Path + "/x", "/%00", "/v1%2Facquire", "/healthz"} {
			r := to.door.SendBare(t, Message{Path: path, Token: to.token}).Want(t, http.StatusNotFound, "not_found")
			r.IsProblem(t)
		}
	}
	w.Hides(t, append(secrets, l.Key)...)
	if strings.Contains(w.Log.Text(), `"status":500`) {
		t.Error("something was answered 500")
	}
}

// hold wants a problem document without a secret.
func hold(t *testing.T, what string, r Reply, secrets ...string) {
	t.Helper()
	if r.Status == http.StatusServiceUnavailable {
		t.Errorf("%s: answered %d %s", what, r.Status, r.Body)
	}
	r.IsProblem(t)
	for _, secret := range secrets {
		if secret != "" && bytes.Contains(r.Body, []byte(secret)) {
			t.Errorf("%s: the problem shows a secret: %s", what, r.Body)
		}
	}
	if t.Failed() {
		t.Fatalf("%s: answered %d %.300s", what, r.Status, r.Body)
	}
}
