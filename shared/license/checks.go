package license

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// The codes of a validation, the failing ones in the order of their checks.
const (
	CodeValid              = "valid"
	CodeInGrace            = "in_grace"
	CodeNotFound           = "not_found"
	CodeTenantSuspended    = "tenant_suspended"
	CodeRevoked            = "license_revoked"
	CodeSuspended          = "license_suspended"
	CodeNotStarted         = "license_not_started"
	CodeExpired            = "license_expired"
	CodeProductMismatch    = "product_mismatch"
	CodeVersionNotEntitled = "version_not_entitled"
	CodeFeatureNotEntitled = "feature_not_entitled"
	CodeHardwareNotAllowed = "hardware_not_allowed"
	CodeTooManyDevices     = "too_many_devices"
)

// Question is what an application asks about a licence.
type Question struct {
	// Hardware is the id of the asking device.
	Hardware string
	// Version is the application's, and must be a semantic version, also where the licence is for all.
	Version string
	// Product is the application's product code; "" is not checked.
	Product string
	// Features are those that the application wants to use; each is checked.
	Features []string
	// KnownDevice says that the device has taken a seat of this licence before,
	// Devices how many have. They matter only where the licence limits devices.
	KnownDevice bool
	Devices     int
}

// Check is one thing that was looked at.
type Check struct {
	// Name says what: license_key, tenant, revocation, suspension, start, expiry,
	// product, version, features, hardware or devices.
	Name string `json:"name"`
	OK   bool   `json:"ok"`
	// Code is the failure's, or valid, or in_grace for an expiry in its grace.
	Code string `json:"code"`
	// Detail is a sentence that its reader can act on.
	Detail string `json:"detail"`
}

// UnknownKey is the one check of a key that opens nothing; nothing else can be said then.
func UnknownKey() []Check {
	return []Check{failed("license_key", CodeNotFound, "This licence key is not known. Check for a typing mistake, or ask your vendor for the key.")}
}

// Checks looks at everything and answers every check, the good ones too, in the
// order of the contract's codes. Now is the store's time.
func (l *License) Checks(q Question, now time.Time) []Check {
	return []Check{
		passed("license_key", "The licence key is known."),
		l.checkTenant(),
		l.checkRevocation(),
		l.checkSuspension(),
		l.checkStart(now),
		l.checkExpiry(now),
		l.checkProduct(q.Product),
		l.checkVersion(q.Version),
		l.checkFeatures(q.Features),
		l.checkHardware(q.Hardware),
		l.checkDevices(q),
	}
}

// Verdict sums checks up: whether all are good, and the code of the first that
// is not, or else in_grace or valid.
func Verdict(checks []Check) (valid bool, code string) {
	code = CodeValid
	for _, c := range checks {
		if !c.OK {
			return false, c.Code
		}
		if c.Code == CodeInGrace {
			code = CodeInGrace
		}
	}
	return true, code
}

// Refusal is the first check that is not good, and false when all are.
func Refusal(checks []Check) (Check, bool) {
	i := slices.IndexFunc(checks, func(c Check) bool { return !c.OK })
	if i < 0 {
		return Check{}, false
	}
	return checks[i], true
}

func (l *License) checkTenant() Check {
	if l.TenantStatus != StatusActive {
		return failed("tenant", CodeTenantSuspended, "The organisation that holds this licence is suspended. Its administrator can ask the vendor why.")
	}
	return passed("tenant", "The organisation that holds this licence is active.")
}

func (l *License) checkRevocation() Check {
	if l.Status == StatusRevoked {
		return failed("revocation", CodeRevoked, "This licence was revoked. Ask your vendor for another.")
	}
	return passed("revocation", "The licence is not revoked.")
}

func (l *License) checkSuspension() Check {
	if l.Status == StatusSuspended {
		return failed("suspension", CodeSuspended, "This licence is suspended. Your administrator can ask the vendor to reinstate it.")
	}
	return passed("suspension", "The licence is not suspended.")
}

func (l *License) checkStart(now time.Time) Check {
	if l.StartsAt != nil && now.Before(*l.StartsAt) {
		return failed("start", CodeNotStarted, "This licence starts on "+date(*l.StartsAt)+".")
	}
	return passed("start", "The licence has started.")
}

func (l *License) checkExpiry(now time.Time) Check {
	switch {
	case l.ExpiresAt == nil:
		return passed("expiry", "The licence does not expire.")
	case now.Before(*l.ExpiresAt):
		return passed("expiry", "The licence expires on "+date(*l.ExpiresAt)+".")
	case l.GraceUntil != nil && now.Before(*l.GraceUntil):
		return Check{
			Name: "expiry", OK: true, Code: CodeInGrace,
			Detail: "The licence expired on " + date(*l.ExpiresAt) + " and keeps working until " + date(*l.GraceUntil) + ". Renew it before then.",
		}
	default:
		return failed("expiry", CodeExpired, "The licence expired on "+date(*l.Until())+". Renew it to go on.")
	}
}

func (l *License) checkProduct(product string) Check {
	switch product {
	case "":
		return passed("product", "No product was named, so none was checked.")
	case l.Product:
		return passed("product", "The licence is for this product.")
	default:
		return failed("product", CodeProductMismatch, fmt.Sprintf("This licence is for the product %q.", l.Product))
	}
}

func (l *License) checkVersion(version string) Check {
	if l.Versions == "" {
		if !isVersion(version) {
			return failed("version", CodeVersionNotEntitled, "The version is not a semantic version such as 2.1.0.")
		}
		return passed("version", "The licence is for every version.")
	}
	entitled, err := ParseRange(l.Versions)
	if err != nil {
		return failed("version", CodeVersionNotEntitled, "The versions this licence is for cannot be read. Ask your vendor to correct them.")
	}
	ok, err := entitled.Includes(version)
	switch {
	case err != nil:
		return failed("version", CodeVersionNotEntitled, fmt.Sprintf("The version is not a semantic version such as 2.1.0, and this licence is for the versions %s.", l.Versions))
	case !ok:
		return failed("version", CodeVersionNotEntitled, fmt.Sprintf("This licence is for the versions %s.", l.Versions))
	}
	return passed("version", "The licence is for this version.")
}

func (l *License) checkFeatures(wanted []string) Check {
	if len(wanted) == 0 {
		return passed("features", "No features were named, so none were checked.")
	}
	var missing []string
	for _, f := range wanted {
		if !slices.Contains(l.Features, f) && !slices.Contains(missing, f) {
			missing = append(missing, f)
		}
	}
	if len(missing) > 0 {
		return failed("features", CodeFeatureNotEntitled, "This licence does not include: "+strings.Join(missing, ", ")+".")
	}
	return passed("features", "The licence includes every feature named.")
}

func (l *License) checkHardware(hardware string) Check {
	if len(l.AllowedHardware) == 0 {
		return passed("hardware", "The licence is for any hardware.")
	}
	if !slices.Contains(l.AllowedHardware, hardware) {
		return failed("hardware", CodeHardwareNotAllowed, "This licence is bound to certain hardware, and this is not among it. Your administrator can add it.")
	}
	return passed("hardware", "The licence is for this hardware.")
}

func (l *License) checkDevices(q Question) Check {
	switch {
	case l.MaxDevices == 0:
		return passed("devices", "The licence is for any number of devices.")
	case q.KnownDevice:
		return passed("devices", "The device is one of the licence's.")
	case q.Devices >= l.MaxDevices:
		return failed("devices", CodeTooManyDevices, fmt.Sprintf("This licence is for %s, and as many are in use. Your administrator can remove one.", count(l.MaxDevices, "device")))
	default:
		return passed("devices", fmt.Sprintf("The licence has room for %s.", count(l.MaxDevices-q.Devices, "more device")))
	}
}

func passed(name, detail string) Check {
	return Check{Name: name, OK: true, Code: CodeValid, Detail: detail}
}

func failed(name, code, detail string) Check {
	return Check{Name: name, Code: code, Detail: detail}
}

// count writes a number of things.
func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// date writes a time for a person to read.
func date(t time.Time) string { return t.UTC().Format("2 January 2006 15:04 UTC") }
