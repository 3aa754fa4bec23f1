package identity

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"

	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/platform/config"
)

// IDTokenConfig says whose word is taken for who a person is.
type IDTokenConfig struct {
	// Issuer signs the tokens, and publishes its keys by OpenID Connect discovery:
	// https://securetoken.google.com/PROJECT for Identity Platform.
	Issuer string `env:"IDENTITY_ISSUER,required"`
	// Audience is whom its tokens are for: the project's id for Identity Platform.
	Audience string `env:"IDENTITY_AUDIENCE,required"`
}

// Identity is a person as the issuer knows them, by a verified token.
type Identity struct {
	// Issuer and Subject say who it is, for ever.
	Issuer, Subject string
	// Email is an address that the issuer has verified, in lower case.
	Email string
	// Name is what the person is called; "" when the token does not say.
	Name string

	// Operator is the custom claim usher_operator: whoever may set claims says that they are the operator's staff. It counts only
	// while nobody can look up what they are: function incident says when.
	Operator bool

	// tenant and role are what the token's custom claims say of the membership, nil where they say nothing.
	tenant, role *string
}

// By is how somebody is named who is no user yet: by what the issuer knows them as, hashed.
func (i Identity) By() string {
	hash := sha256.Sum256([]byte(i.Issuer + "\x00" + i.Subject))
	return "identity:" + hex.EncodeToString(hash[:16])
}

// IDTokens verifies ID tokens. It is safe for concurrent use.
type IDTokens struct {
	cfg    IDTokenConfig
	issuer *issuer
	now    func() time.Time
}

// OpenIDTokens reads IDTokenConfig from the environment. It does not connect.
func OpenIDTokens(getenv func(string) string) (*IDTokens, error) {
	var cfg IDTokenConfig
	if err := config.Load(&cfg, getenv); err != nil {
		return nil, err
	}
	if err := checkIssuer("IDENTITY_ISSUER", cfg.Issuer); err != nil {
		return nil, err
	}
	return NewIDTokens(cfg, time.Now), nil
}

// NewIDTokens makes IDTokens. Now is the clock that tokens begin and expire by.
func NewIDTokens(cfg IDTokenConfig, now func() time.Time) *IDTokens {
	return &IDTokens{cfg: cfg, issuer: newIssuer(cfg.Issuer, now), now: now}
}

// tokenLeeway is how far the issuer's clock may be ahead of ours.
const tokenLeeway = time.Minute

// The reasons why a token is refused; each a fault.Unauthenticated but for the last.
var (
	errTokenMalformed = fault.Unauthenticated("id_token_invalid", "The ID token is not a JSON Web Token. Sign in again.")
	errTokenAlgorithm = fault.Unauthenticated("id_token_algorithm_refused", "An ID token is signed with RS256, and with nothing else.")
	errTokenIssuer    = fault.Unauthenticated("id_token_wrong_issuer", "The ID token is of another issuer. Sign in where this service says.")
	errTokenAudience  = fault.Unauthenticated("id_token_wrong_audience", "The ID token was made for another application. Sign in to this one.")
	errTokenExpired   = fault.Unauthenticated("id_token_expired", "The ID token has expired. Get a new one, or sign in again.")
	errTokenFuture    = fault.Unauthenticated("id_token_not_yet_valid", "The ID token is not valid yet. Its issuer's clock is ahead: wait, then get a new one.")
	errTokenSignature = fault.Unauthenticated("id_token_signature_invalid", "No key of the issuer signed the ID token. Sign in again.")
	errTokenEmail     = fault.Forbidden("email_not_verified", "The e-mail address is not verified. Verify it, then sign in again.")
)

// Verify answers who a token is of: signed by the issuer (RS256 and nothing
// else), for this audience, in its time, and with a verified e-mail address.
// Each refusal has a code of its own; it is fault.Unavailable when the issuer's
// keys cannot be had. What a token says that refuses it is found out before its
// signature, so that such a token is no reason to ask the issuer.
func (v *IDTokens) Verify(ctx context.Context, token string) (Identity, error) {
	if err := v.ownWords(token); err != nil {
		return Identity{}, err
	}
	verified, err := v.issuer.verify(ctx, v.cfg.Audience, token)
	switch {
	case errors.Is(err, errUnreachable):
		return Identity{}, fault.Unavailable(fmt.Errorf("ask the issuer of ID tokens: %w", err))
	case err != nil:
		return Identity{}, errTokenSignature.Because(err)
	}
	return identityOf(verified)
}

// ownWords is why a token is refused by what it says itself.
func (v *IDTokens) ownWords(token string) error {
	header, rest, _ := strings.Cut(token, ".")
	payload, signature, ok := strings.Cut(rest, ".")
	if !ok || strings.Contains(signature, ".") {
		return errTokenMalformed
	}
	var head struct {
		Algorithm string `json:"alg"`
	}
	var says struct {
		Issuer    string    `json:"iss"`
		Audience  audiences `json:"aud"`
		Expires   *float64  `json:"exp"`
		Issued    *float64  `json:"iat"`
		NotBefore *float64  `json:"nbf"`
	}
	if err := errors.Join(decodePart(header, &head), decodePart(payload, &says)); err != nil {
		return errTokenMalformed.Because(err)
	}
	now := v.now()
	soon := float64(now.Add(tokenLeeway).Unix())
	switch {
	case head.Algorithm != oidc.RS256:
		return errTokenAlgorithm
	case says.Issuer != v.cfg.Issuer:
		return errTokenIssuer
	case !slices.Contains(says.Audience, v.cfg.Audience):
		return errTokenAudience
	case says.Expires == nil || says.Issued == nil:
		return errTokenMalformed
	case *says.Expires <= float64(now.Unix()):
		return errTokenExpired
	case *says.Issued > soon || says.NotBefore != nil && *says.NotBefore > soon:
		return errTokenFuture
	}
	return nil
}

// audiences are one, or a list.
type audiences []string

// UnmarshalJSON reads a string or a list of strings.
func (a *audiences) UnmarshalJSON(text []byte) error {
	var one string
	if json.Unmarshal(text, &one) == nil {
		*a = audiences{one}
		return nil
	}
	return json.Unmarshal(text, (*[]string)(a))
}

func decodePart(part string, into any) error {
	text, err := base64.RawURLEncoding.DecodeString(part)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, into)
}

// The longest that is kept of a person.
const (
	longestSubject = 255
	longestEmail   = 254
	longestName    = 200
)

func identityOf(token *oidc.IDToken) (Identity, error) {
	var claims struct {
		Email    string          `json:"email"`
		Verified bool            `json:"email_verified"`
		Name     string          `json:"name"`
		Tenant   json.RawMessage `json:"tenant_id"`
		Role     json.RawMessage `json:"role"`
		Operator json.RawMessage `json:"usher_operator"`
	}
	if err := token.Claims(&claims); err != nil {
		return Identity{}, errTokenMalformed.Because(err)
	}
	who := Identity{
		Issuer: token.Issuer, Subject: token.Subject, Email: normalEmail(claims.Email), Name: shortName(claims.Name),
		tenant: claimed(claims.Tenant), role: claimed(claims.Role),
		Operator: string(claims.Operator) == "true",
	}
	switch {
	case who.Subject == "" || len([]rune(who.Subject)) > longestSubject || strings.ContainsRune(who.Subject, 0):
		return Identity{}, errTokenMalformed.Because(errors.New("the subject is missing, or too long"))
	case !claims.Verified || !emailCanBe(who.Email):
		return Identity{}, errTokenEmail
	}
	return who, nil
}

// claimed is what a custom claim says, nil for nothing. One that is no text agrees with no membership.
func claimed(claim json.RawMessage) *string {
	if len(claim) == 0 || string(claim) == "null" {
		return nil
	}
	text := ""
	if json.Unmarshal(claim, &text) != nil {
		text = string(claim)
	}
	return &text
}

// normalEmail is the one spelling of an address.
func normalEmail(email string) string { return strings.ToLower(strings.TrimSpace(email)) }

// emailCanBe is whether a normal address is worth keeping; only a mail tells whether it is good.
func emailCanBe(email string) bool {
	at := strings.LastIndexByte(email, '@')
	return at > 0 && at < len(email)-1 && len(email) <= longestEmail &&
		!strings.ContainsFunc(email, func(r rune) bool { return r <= ' ' || r == 0x7f || r > 0x7f && r < 0xa0 })
}

// shortName is a name as it is kept: without control characters, and not longer than it may be.
func shortName(name string) string {
	clean := []rune(strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return -1
		}
		return r
	}, name)))
	return strings.TrimSpace(string(clean[:min(len(clean), longestName)]))
}
