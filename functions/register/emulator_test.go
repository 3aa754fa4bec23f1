//go:build firebase

package register_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coditect/usher/shared/fault"
	"github.com/coditect/usher/shared/identity"
	"github.com/coditect/usher/shared/platform/testenv"
	"github.com/coditect/usher/shared/tenancy"
)

const firebaseProject = "demo-usher"

// firebase is the Firebase Auth emulator, which plays Identity Platform but for signing its tokens.
type firebase struct {
	t   *testing.T
	url string
}

func startFirebase(t *testing.T) *firebase {
	t.Helper()
	path, err := exec.LookPath("firebase")
	if err == nil {
		path, err = filepath.EvalSymlinks(path) // firebase-tools/lib/bin/firebase.js
	}
	if err != nil {
		t.Fatal("firebase-tools is not installed: npm install -g firebase-tools")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	// The emulator itself: the command around it asks the internet for news before it starts.
	cmd := exec.Command("node", "-e", fmt.Sprintf(`require(%q).createApp(%q).then(app => app.listen(%d, "127.0.0.1"))`,
		filepath.Join(filepath.Dir(filepath.Dir(path)), "emulator", "auth", "server"), firebaseProject, port))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("the emulator said:\n%s", out.String())
		}
	})
	f := &firebase{t: t, url: fmt.Sprintf("http://127.0.0.1:%d", port)}
	testenv.Eventually(t, 2*time.Minute, func() error {
		response, err := http.Get(f.url)
		if err == nil {
			err = response.Body.Close()
		}
		return err
	})
	return f
}

// call asks the emulator for something; a project's administrator does it, if it is asked of a project.
func (f *firebase) call(method, path string, body any) map[string]any {
	f.t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		f.t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(f.t.Context(), method, f.url+path, bytes.NewReader(text))
	if err != nil {
		f.t.Fatal(err)
	}
	if method != http.MethodGet { // the emulator refuses an empty body that is JSON
		r.Header.Set("Content-Type", "application/json")
	}
	if strings.Contains(path, "/projects/") {
		r.Header.Set("Authorization", "Bearer owner")
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		f.t.Fatal(err)
	}
	defer response.Body.Close()
	text, err = io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		f.t.Fatalf("%s %s answered %d %s, %v", method, path, response.StatusCode, text, err)
	}
	var answer map[string]any
	if err := json.Unmarshal(text, &answer); err != nil {
		f.t.Fatal(err)
	}
	return answer
}

const accounts = "/identitytoolkit.googleapis.com/v1/accounts"

// signIn answers an ID token.
func (f *firebase) signIn() string {
	f.t.Helper()
	answer := f.call("POST", accounts+":signInWithPassword?key=any", map[string]any{"email": "ada@example.com", "password": "correct horse", "returnSecureToken": true})
	return answer["idToken"].(string)
}

// claim sets custom claims.
func (f *firebase) claim(id string, claims map[string]any) {
	f.t.Helper()
	text, err := json.Marshal(claims)
	if err != nil {
		f.t.Fatal(err)
	}
	f.call("POST", "/identitytoolkit.googleapis.com/v1/projects/"+firebaseProject+"/accounts:update", map[string]any{"localId": id, "customAttributes": string(text)})
}

func TestTheFirebaseEmulatorsFlowsLeadToATenantAndItsUnsignedTokensNowhere(t *testing.T) {
	t.Parallel()
	f := startFirebase(t)
	w := newWorld(t)
	// What the emulator says, signed as Identity Platform would sign it.
	signed := func(unsigned string) string {
		parts := strings.Split(unsigned, ".")
		text, err := base64.RawURLEncoding.DecodeString(parts[1])
		w.must(err)
		claims := map[string]any{}
		w.must(json.Unmarshal(text, &claims))
		if claims["iss"] != "https://securetoken.google.com/"+firebaseProject || claims["aud"] != firebaseProject {
			t.Errorf("the emulator's token says %v", claims)
		}
		maps.Copy(claims, map[string]any{"iss": w.issuer.URL(), "aud": audience})
		token, err := w.issuer.Token(claims, time.Hour)
		w.must(err)
		return token
	}

	id := f.call("POST", accounts+":signUp?key=any", map[string]any{"email": "ada@example.com", "password": "correct horse", "returnSecureToken": true})["localId"].(string)
	first := f.signIn()
	w.register(signed(first), acme, "").refused(t, http.StatusForbidden, "email_not_verified")

	f.call("POST", accounts+":sendOobCode?key=any", map[string]any{"requestType": "VERIFY_EMAIL", "idToken": first})
	codes := f.call("GET", "/emulator/v1/projects/"+firebaseProject+"/oobCodes", nil)["oobCodes"].([]any)
	f.call("POST", accounts+":update?key=any", map[string]any{"oobCode": codes[len(codes)-1].(map[string]any)["oobCode"]})
	verified := f.signIn()

	production := identity.NewIDTokens(identity.IDTokenConfig{Issuer: "https://securetoken.google.com/" + firebaseProject, Audience: firebaseProject}, time.Now)
	_, err := production.Verify(t.Context(), verified)
	if refusal := fault.As(err); refusal == nil || refusal.Code != "id_token_algorithm_refused" {
		t.Errorf("an unsigned token of the emulator: %v", err)
	}

	made := w.register(signed(verified), acme, "")
	if made.status != http.StatusCreated || made.User.Email != "ada@example.com" {
		t.Fatalf("answered %d %s", made.status, made.raw)
	}
	admin, err := tenancy.OpenURL(t.Context(), w.db.URL("usher_admin"), tenancy.Config{}, w.log.Logger)
	w.must(err)
	t.Cleanup(admin.Close)
	people := w.people(admin)
	for _, c := range []struct {
		claims map[string]any
		code   string
	}{
		{map[string]any{"tenant_id": made.Tenant.ID, "role": "owner"}, ""},
		{map[string]any{"tenant_id": made.Tenant.ID, "role": "viewer"}, "id_token_claims_disagree"},
	} {
		f.claim(id, c.claims)
		who, err := people.Identify(t.Context(), signed(f.signIn()))
		w.must(err)
		person, err := people.Person(t.Context(), who)
		refusal := fault.As(err)
		switch {
		case c.code == "" && (err != nil || person.Tenant.UUID() != made.Tenant.ID || person.Role != identity.Owner):
			t.Errorf("with the claims %v: %+v, %v", c.claims, person, err)
		case c.code != "" && (refusal == nil || refusal.Code != c.code):
			t.Errorf("with the claims %v: %v, want %s", c.claims, err, c.code)
		}
	}
}
