package mail

import (
	"embed"
	"fmt"
	htmltemplate "html/template"
	"strings"
	"text/template"

	"github.com/coditect/usher/shared/notify"
)

//go:embed templates
var files embed.FS

var (
	texts  = template.Must(template.New("").Option("missingkey=error").ParseFS(files, "templates/*.txt"))
	layout = htmltemplate.Must(htmltemplate.ParseFS(files, "templates/layout.html"))
)

// Words are what a mail says.
type Words struct{ Subject, Text, HTML string }

// part is a paragraph, a text to be copied, or a link.
type part struct{ Text, Code, Link string }

// Write makes the words of a mail: its subject, its text, and the same text as HTML. Each kind has one file, whose first line
// is the subject; paragraphs are divided by empty lines; one that begins with "> " is a text to be copied, with "-> " a link.
// A value stays within its line: what it holds of line breaks is a space. AcceptURL is where invitations are accepted; "" says
// nothing of it.
func Write(k notify.Kind, data map[string]string, acceptURL string) (Words, error) {
	values := map[string]string{"accept_url": acceptURL}
	for name, value := range data {
		values[name] = strings.Join(strings.Fields(value), " ")
	}
	var b strings.Builder
	if err := texts.ExecuteTemplate(&b, string(k)+".txt", values); err != nil {
		return Words{}, fmt.Errorf("write a mail %q: %w", k, err)
	}
	subject, body, _ := strings.Cut(strings.TrimSpace(b.String()), "\n")
	w := Words{Subject: strings.TrimSpace(subject)}
	var parts []part
	for paragraph := range strings.SplitSeq(strings.TrimSpace(body), "\n\n") {
		lines := strings.Join(strings.Fields(paragraph), " ")
		if lines == "" {
			continue
		}
		p := part{Text: lines}
		if code, ok := strings.CutPrefix(lines, "> "); ok {
			p = part{Code: code}
		} else if link, ok := strings.CutPrefix(lines, "-> "); ok {
			p = part{Link: link}
		}
		parts = append(parts, p)
		w.Text += wrap(p) + "\n\n"
	}
	var page strings.Builder
	if err := layout.Execute(&page, struct {
		Subject string
		Parts   []part
	}{w.Subject, parts}); err != nil {
		return Words{}, fmt.Errorf("write a mail %q: %w", k, err)
	}
	w.Text, w.HTML = strings.TrimRight(w.Text, "\n")+"\n", page.String()
	return w, nil
}

// lineLength is where the lines of a text end, at a space.
const lineLength = 72

func wrap(p part) string {
	if p.Text == "" {
		return "    " + p.Code + p.Link
	}
	var b strings.Builder
	at := 0
	for word := range strings.FieldsSeq(p.Text) {
		switch n := len([]rune(word)); {
		case at == 0:
			at = n
		case at+1+n > lineLength:
			b.WriteByte('\n')
			at = n
		default:
			b.WriteByte(' ')
			at += 1 + n
		}
		b.WriteString(word)
	}
	return b.String()
}
