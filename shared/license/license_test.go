package license_test

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/coditect/usher/shared/license"
)

var noon = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

func at(d time.Duration) *time.Time {
	t := noon.Add(d)
	return &t
}

// sold is a licence without limits.
func sold(changes ...func(*license.License)) *license.License {
	l := &license.License{Product: "editor", Plan: "team", Status: "active", TenantStatus: "active", MaxSeats: 5, Features: []string{"export", "print"}}
	for _, change := range changes {
		change(l)
	}
	return l
}

func TestTheDatesDecideAnActiveLicencesStatus(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	for name, c := range map[string]struct {
		status                string
		start, expires, grace *time.Time
		want                  string
	}{
		"no dates":                {"active", nil, nil, nil, "active"},
		"starts later":            {"active", at(1), nil, nil, "not_started"},
		"starts now":              {"active", at(0), nil, nil, "active"},
		"expires later":           {"active", nil, at(1), nil, "active"},
		"expires now":             {"active", nil, at(0), nil, "expired"},
		"grace later":             {"active", nil, at(-day), at(1), "in_grace"},
		"grace ends now":          {"active", nil, at(-day), at(0), "expired"},
		"grace before its expiry": {"active", nil, at(-day), at(-2 * day), "expired"},
		"grace without expiry":    {"active", nil, nil, at(-day), "active"},
		"suspended and expired":   {"suspended", nil, at(-day), nil, "suspended"},
		"revoked and not started": {"revoked", at(day), nil, nil, "revoked"},
	} {
		l := sold(func(l *license.License) {
			l.Status, l.StartsAt, l.ExpiresAt, l.GraceUntil = c.status, c.start, c.expires, c.grace
		})
		if got := l.EffectiveStatus(noon); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
		grants := c.want == "active" || c.want == "in_grace"
		if l.Grants(noon) != grants {
			t.Errorf("%s: Grants is %v", name, !grants)
		}
		l.TenantStatus = "suspended"
		if l.Grants(noon) {
			t.Errorf("%s: a suspended tenant's licence grants seats", name)
		}
	}
}

func TestUntilIsTheLastMomentPromised(t *testing.T) {
	t.Parallel()
	l := sold()
	if l.Until() != nil {
		t.Error("a licence that does not expire has an end")
	}
	l.ExpiresAt = at(time.Hour)
	if !l.Until().Equal(*at(time.Hour)) {
		t.Errorf("Until() = %v", l.Until())
	}
	l.GraceUntil = at(2 * time.Hour)
	if !l.Until().Equal(*at(2 * time.Hour)) {
		t.Errorf("with grace, Until() = %v", l.Until())
	}
}

// checkNames are the checks in the order of the contract's codes.
var checkNames = []string{"license_key", "tenant", "revocation", "suspension", "start", "expiry", "product", "version", "features", "hardware", "devices"}

func TestEachFailureHasItsCheckAndCode(t *testing.T) {
	t.Parallel()
	good := license.Question{Hardware: "hw-1", Version: "2.1.0", Product: "editor", Features: []string{"print"}}
	for name, c := range map[string]struct {
		change      func(*license.License)
		question    func(*license.Question)
		check, code string
	}{
		"good":                  {},
		"tenant suspended":      {change: func(l *license.License) { l.TenantStatus = "suspended" }, check: "tenant", code: "tenant_suspended"},
		"revoked":               {change: func(l *license.License) { l.Status = "revoked" }, check: "revocation", code: "license_revoked"},
		"suspended":             {change: func(l *license.License) { l.Status = "suspended" }, check: "suspension", code: "license_suspended"},
		"not started":           {change: func(l *license.License) { l.StartsAt = at(1) }, check: "start", code: "license_not_started"},
		"expired":               {change: func(l *license.License) { l.ExpiresAt = at(-1) }, check: "expiry", code: "license_expired"},
		"expired after grace":   {change: func(l *license.License) { l.ExpiresAt, l.GraceUntil = at(-2), at(-1) }, check: "expiry", code: "license_expired"},
		"another product":       {question: func(q *license.Question) { q.Product = "viewer" }, check: "product", code: "product_mismatch"},
		"no product":            {question: func(q *license.Question) { q.Product = "" }},
		"another version":       {change: func(l *license.License) { l.Versions = ">=3.0" }, check: "version", code: "version_not_entitled"},
		"no semver":             {change: func(l *license.License) { l.Versions = ">=2.0" }, question: func(q *license.Question) { q.Version = "latest" }, check: "version", code: "version_not_entitled"},
		"no semver, no limit":   {question: func(q *license.Question) { q.Version = "latest" }, check: "version", code: "version_not_entitled"},
		"an unreadable range":   {change: func(l *license.License) { l.Versions = "two" }, check: "version", code: "version_not_entitled"},
		"another feature":       {question: func(q *license.Question) { q.Features = []string{"print", "fly"} }, check: "features", code: "feature_not_entitled"},
		"a feature's case":      {question: func(q *license.Question) { q.Features = []string{"Print"} }, check: "features", code: "feature_not_entitled"},
		"no features":           {question: func(q *license.Question) { q.Features = nil }},
		"hardware listed":       {change: func(l *license.License) { l.AllowedHardware = []string{"hw-0", "hw-1"} }},
		"hardware not listed":   {change: func(l *license.License) { l.AllowedHardware = []string{"hw-0"} }, check: "hardware", code: "hardware_not_allowed"},
		"devices full":          {change: func(l *license.License) { l.MaxDevices = 2 }, question: func(q *license.Question) { q.Devices = 2 }, check: "devices", code: "too_many_devices"},
		"devices full, known":   {change: func(l *license.License) { l.MaxDevices = 2 }, question: func(q *license.Question) { q.Devices, q.KnownDevice = 2, true }},
		"room for a device":     {change: func(l *license.License) { l.MaxDevices = 2 }, question: func(q *license.Question) { q.Devices = 1 }},
		"any number of devices": {question: func(q *license.Question) { q.Devices = 1_000_000 }},
	} {
		l, q := sold(), good
		if c.change != nil {
			c.change(l)
		}
		if c.question != nil {
			c.question(&q)
		}
		checks := l.Checks(q, noon)
		for i, check := range checks {
			if check.Name != checkNames[i] {
				t.Errorf("%s: check %d is %s, want %s", name, i, check.Name, checkNames[i])
			}
			if check.OK != (check.Name != c.check) {
				t.Errorf("%s: check %s is ok %v: %s", name, check.Name, check.OK, check.Detail)
			}
			if check.OK && check.Code != "valid" || check.Detail == "" || !strings.HasSuffix(check.Detail, ".") {
				t.Errorf("%s: %+v", name, check)
			}
		}
		if len(checks) != len(checkNames) {
			t.Errorf("%s: %d checks", name, len(checks))
		}
		valid, code := license.Verdict(checks)
		want := c.code
		if want == "" {
			want = "valid"
		}
		if valid != (c.check == "") || code != want {
			t.Errorf("%s: verdict %v, %s, want %s", name, valid, code, want)
		}
		refusal, refused := license.Refusal(checks)
		if refused == valid || refused && refusal.Code != want {
			t.Errorf("%s: refusal %+v, %v", name, refusal, refused)
		}
	}
}

func TestGraceIsValidAndSaysSo(t *testing.T) {
	t.Parallel()
	l := sold(func(l *license.License) { l.ExpiresAt, l.GraceUntil = at(-time.Hour), at(time.Hour) })
	checks := l.Checks(license.Question{Version: "1"}, noon)
	if valid, code := license.Verdict(checks); !valid || code != "in_grace" {
		t.Errorf("verdict %v, %s", valid, code)
	}
	l.AllowedHardware = []string{"other"}
	if valid, code := license.Verdict(l.Checks(license.Question{Version: "1"}, noon)); valid || code != "hardware_not_allowed" {
		t.Errorf("a later failure in grace: verdict %v, %s", valid, code)
	}
}

func TestEveryFailureIsNamedAtOnce(t *testing.T) {
	t.Parallel()
	l := sold(func(l *license.License) {
		l.TenantStatus, l.Status, l.StartsAt, l.ExpiresAt = "suspended", "suspended", at(time.Hour), at(-time.Hour)
		l.Versions, l.AllowedHardware, l.MaxDevices = ">=3", []string{"hw-0"}, 1
	})
	checks := l.Checks(license.Question{Hardware: "hw-1", Version: "2", Product: "viewer", Features: []string{"fly", "swim", "fly"}, Devices: 1}, noon)
	var codes []string
	for _, c := range checks {
		if !c.OK {
			codes = append(codes, c.Code)
		}
		if c.Name == "features" && !strings.Contains(c.Detail, "fly, swim.") {
			t.Errorf("the missing features are not named once each: %s", c.Detail)
		}
	}
	want := "tenant_suspended license_suspended license_not_started license_expired product_mismatch version_not_entitled feature_not_entitled hardware_not_allowed too_many_devices"
	if got := strings.Join(codes, " "); got != want {
		t.Errorf("codes %s\nwant  %s", got, want)
	}
	if _, code := license.Verdict(checks); code != "tenant_suspended" {
		t.Errorf("the verdict is %s, not the first failure", code)
	}
}

func TestAnUnknownKeyFailsOneCheck(t *testing.T) {
	t.Parallel()
	checks := license.UnknownKey()
	if valid, code := license.Verdict(checks); valid || code != "not_found" || len(checks) != 1 || checks[0].Name != "license_key" {
		t.Errorf("%+v", checks)
	}
}

func TestVersionRanges(t *testing.T) {
	t.Parallel()
	for entitled, versions := range map[string]map[string]bool{
		">=2.0 <4.0": {
			"2.0.0": true, "3.9.9": true, "1.9.9": false, "4.0.0": false, "2": true, "2.1": true, "v3.1.4": true, "3.1.4+build.7": true,
			// A prerelease counts as the release it leads to.
			"2.0.0-rc.1": true, "3.5.0-beta": true, "4.0.0-alpha": false, "v2.0.0-0": true, "1.9.9-rc.1": false,
		},
		">=2.0, <4.0":                {"2.5.0": true, "4.0.0": false},
		"~2.1":                       {"2.1.9": true, "2.2.0": false, "2.1.5-rc.1": true, "2.2.0-rc.1": false},
		"^2.1":                       {"2.9.0": true, "3.0.0": false, "2.0.9": false, "3.0.0-rc.1": false},
		"2.x":                        {"2.0.0": true, "2.9.9": true, "3.0.0": false, "2.3.0-x": true},
		"*":                          {"0.0.1": true, "99.0.0": true, "1.0.0-rc.1": true},
		"1.0 - 2.5":                  {"1.0.0": true, "2.5.0": true, "2.5.9": true, "2.6.0": false, "2.5.0-rc.1": true, "2.6.0-rc.1": false},
		"<1.5 || >=3.0":              {"1.4.0": true, "2.0.0": false, "3.0.0": true, "3.0.0-rc.1": true},
		"=2.1.0":                     {"2.1.0": true, "2.1.0-rc.1": true, "2.1.1": false},
		"!=2.1.0":                    {"2.1.0": false, "2.1.0-rc.1": false, "2.1.1": true},
		">=2.0.0-rc.2":               {"2.0.0-rc.1": false, "2.0.0-rc.2": true, "2.0.0-rc.10": true, "2.0.0": true},
		">=2.0.0-rc.2 || >=1.0 <1.5": {"2.0.0-rc.1": false, "1.0.0-rc.1": true, "1.5.0-rc.1": false, "2.0.0-rc.3": true},
	} {
		r, err := license.ParseRange(entitled)
		if err != nil {
			t.Errorf("%q: %v", entitled, err)
			continue
		}
		for version, want := range versions {
			if got, err := r.Includes(version); err != nil || got != want {
				t.Errorf("%q includes %q: %v, %v; want %v", entitled, version, got, err, want)
			}
		}
	}
	all, err := license.ParseRange("*")
	if err != nil {
		t.Fatal(err)
	}
	for _, version := range []string{"", "latest", "2.1.0.4", "2..1", "2.1-", " 2.1", "2.1\n", "x", "*", "-1", "2.1.0-", strings.Repeat("1", 60)} {
		if ok, err := all.Includes(version); err == nil {
			t.Errorf("%q was read as a semantic version (%v)", version, ok)
		}
	}
	for _, text := range []string{"", "  ", "two", ">=", ">=2.0 <", "||", ">=2.0 ||", "2.0;3.0", strings.Repeat("1.0 || ", 40) + "2.0"} {
		if _, err := license.ParseRange(text); err == nil {
			t.Errorf("the range %q was accepted", text)
		}
	}
}

func TestWhoeverMayRunAReleaseMayRunItsPrereleases(t *testing.T) {
	t.Parallel()
	r, err := license.ParseRange(">=2.0 <4.0 || ~5.1")
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		release := rapid.StringMatching(`[0-6]\.[0-3]\.[0-3]`).Draw(t, "release")
		pre := rapid.StringMatching(`(alpha|beta|rc)\.[1-9]`).Draw(t, "prerelease")
		want, err := r.Includes(release)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := r.Includes(release + "-" + pre); err != nil || got != want {
			t.Fatalf("%s: %v, its %s: %v, %v", release, want, pre, got, err)
		}
	})
}

func FuzzRange(f *testing.F) {
	f.Add(">=2.0 <4.0", "3.1.4-rc.1+x")
	f.Add("1.0 - 2.0 || ~3", "v1")
	f.Add("*||x", "0")
	f.Fuzz(func(t *testing.T, entitled, version string) {
		l := license.License{Versions: entitled, TenantStatus: "active", Status: "active"}
		checks := l.Checks(license.Question{Version: version}, noon)
		if len(checks) != len(checkNames) {
			t.Fatal("a check is missing")
		}
		r, err := license.ParseRange(entitled)
		if err != nil {
			return
		}
		if ok, err := r.Includes(version); ok && err != nil {
			t.Fatal("included and no version")
		}
	})
}

func TestALicenceKeyIsLongEnoughToBeGuessedNever(t *testing.T) {
	t.Parallel()
	key := license.NewKey()
	text := key.Reveal()
	if !strings.HasPrefix(text, "USH-") || len(text) != 39 {
		t.Errorf("the key %q", text)
	}
	read, err := license.ParseKey(strings.ToLower(text))
	if err != nil || read != key {
		t.Errorf("the key does not read back: %v", err)
	}
	// 29 symbols of 5 bits are random; a hint gives away 4 of them and, with the check symbol, 20 bits more.
	if hidden := 29*5 - 4*5 - 20; hidden < 100 {
		t.Errorf("beside its hint a key hides %d bits", hidden)
	}
}

func TestTermsNameEveryFault(t *testing.T) {
	t.Parallel()
	good := license.Terms{Plan: "team", MaxSeats: 1, TTL: time.Minute, SeatPer: "device"}
	if faults := good.Faults(time.Minute); faults != nil {
		t.Errorf("good terms: %v", faults)
	}
	most := good
	if most.MaxSeats, most.OverdraftSeats = 1, 99_999; most.Faults(time.Minute) != nil {
		t.Errorf("the most seats: %v", most.Faults(time.Minute))
	}
	bad := license.Terms{
		MaxSeats: 0, OverdraftSeats: -1, BorrowReserve: -1, TTL: 59 * time.Second, SeatPer: "floor", Features: []string{"a", "", "a", strings.Repeat("x", 256)},
		Versions: "two", MaxDevices: -1, AllowedHardware: []string{""}, StartsAt: at(0), ExpiresAt: at(0), GraceUntil: at(-1),
	}
	want := "max_seats:out_of_range overdraft_seats:out_of_range borrow_reserve_seats:out_of_range ttl_seconds:out_of_range seat_per:not_allowed features[1]:too_short " +
		"features[2]:not_allowed features[3]:too_long versions:bad_format max_devices:out_of_range allowed_hardware[0]:too_short " +
		"expires_at:out_of_range grace_until:out_of_range"
	var got []string
	for _, f := range bad.Faults(time.Minute) {
		got = append(got, f.Field+":"+f.Code)
	}
	if strings.Join(got, " ") != want {
		t.Errorf("faults %s\nwant   %s", strings.Join(got, " "), want)
	}
	for name, change := range map[string]func(*license.Terms){
		"a fraction of a second":  func(t *license.Terms) { t.TTL = time.Minute + time.Millisecond },
		"a lease of over a day":   func(t *license.Terms) { t.TTL = 24*time.Hour + time.Second },
		"grace without an expiry": func(t *license.Terms) { t.GraceUntil = at(0) },
		"too many seats":          func(t *license.Terms) { t.MaxSeats = 100_001 },
		"too many with overdraft": func(t *license.Terms) { t.MaxSeats, t.OverdraftSeats = 99_999, 2 },
	} {
		terms := good
		change(&terms)
		if len(terms.Faults(time.Minute)) != 1 {
			t.Errorf("%s: %v", name, terms.Faults(time.Minute))
		}
	}
}
