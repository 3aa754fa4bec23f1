package mail

import (
	"strings"
	"testing"

	"github.com/coditect/usher/shared/notify"
)

func TestEveryKindOfMailHasItsWords(t *testing.T) {
	t.Parallel()
	for _, k := range notify.Kinds() {
		data := map[string]string{}
		for _, name := range notify.Needs(k) {
			data[name] = "<" + name + ">\n\n> evil\r\nBcc: x@example.com"
		}
		w, err := Write(k, data, "")
		if err != nil {
			t.Errorf("%s: %v", k, err)
			continue
		}
		if w.Subject == "" || strings.ContainsAny(w.Subject, "\r\n") {
			t.Errorf("%s: the subject is %q", k, w.Subject)
		}
		for _, name := range notify.Needs(k) {
			if in := "<" + name + "> > evil Bcc:"; !strings.Contains(strings.Join(strings.Fields(w.Text+w.Subject), " "), in) {
				t.Errorf("%s: the text does not say %s:\n%s", k, name, w.Text)
			}
			if strings.Contains(w.HTML, "<"+name+">") {
				t.Errorf("%s: the HTML takes %s for an element", k, name)
			}
		}
		if strings.Contains(w.Text, "no value") || strings.Contains(w.HTML, "no value") {
			t.Errorf("%s: something has no value", k)
		}
	}
}

func TestAnInvitationLeadsToWhereItIsAccepted(t *testing.T) {
	t.Parallel()
	data := map[string]string{"organization": "Acme", "role": "member", "token": "usi_x", "expires_at": "2 May 2030, 10:00 UTC"}
	with, err := Write(notify.Invitation, data, "https://app.example/accept#token=usi_x")
	if err != nil || !strings.Contains(with.Text, "    https://app.example/accept#token=usi_x\n") || !strings.Contains(with.HTML, `href="https://app.example/accept#token=usi_x"`) {
		t.Errorf("%v\n%s", err, with.Text)
	}
	without, err := Write(notify.Invitation, data, "")
	if err != nil || strings.Contains(without.Text, "here:") || !strings.Contains(without.Text, "    usi_x\n") {
		t.Errorf("%v\n%s", err, without.Text)
	}
}
