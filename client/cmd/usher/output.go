package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"golang.org/x/term"
)

// isTerminal says whether a person looks at the file.
func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// paints says whether colours may be written to a file: to a terminal that knows them, unless NO_COLOR is set.
func (a *app) paints(f *os.File) bool {
	return a.getenv("NO_COLOR") == "" && a.getenv("TERM") != "dumb" && isTerminal(f)
}

// The colours, of ANSI terminals.
const (
	bold  = "1"
	red   = "31"
	green = "32"
)

// paint gives a text for standard output a colour, where there are any.
func (a *app) paint(color, text string) string {
	if !a.paints(a.out) {
		return text
	}
	return "\x1b[" + color + "m" + text + "\x1b[0m"
}

// say writes a line of the result.
func (a *app) say(format string, args ...any) { _, _ = fmt.Fprintf(a.out, format+"\n", args...) }

// note writes a line that is no result.
func (a *app) note(format string, args ...any) {
	_, _ = fmt.Fprintf(a.err, "usher: "+format+"\n", args...)
}

// table writes rows below headings, in columns.
func (a *app) table(w io.Writer, headings []string, rows [][]string) {
	var text bytes.Buffer
	t := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(t, strings.ToUpper(strings.Join(headings, "\t")))
	for _, row := range rows {
		_, _ = fmt.Fprintln(t, strings.Join(row, "\t"))
	}
	_ = t.Flush()
	// The heading gets its colour afterwards: the columns would count it.
	heading, rest, _ := strings.Cut(text.String(), "\n")
	_, _ = fmt.Fprintf(w, "%s\n%s", a.paint(bold, strings.TrimRight(heading, " ")), rest)
}

// member is a member of a JSON object, in the order in which it was written.
type member struct {
	name  string
	value any
}

// members reads the members of a JSON object.
func members(object json.RawMessage) ([]member, error) {
	d := json.NewDecoder(bytes.NewReader(object))
	d.UseNumber()
	if open, err := d.Token(); err != nil || open != json.Delim('{') {
		return nil, fmt.Errorf("an answer is no object: %w", err)
	}
	var all []member
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, fmt.Errorf("read an answer: %w", err)
		}
		m := member{name: fmt.Sprint(name)}
		if err := d.Decode(&m.value); err != nil {
			return nil, fmt.Errorf("read an answer: %w", err)
		}
		all = append(all, m)
	}
	return all, nil
}

// sheet writes an object, a member a line, without some.
func (a *app) sheet(object json.RawMessage, without ...string) error {
	all, err := members(object)
	if err != nil {
		return err
	}
	t := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	for _, m := range all {
		if slices.Contains(without, m.name) {
			continue
		}
		_, _ = fmt.Fprintf(t, "%s\t%s\n", m.name, cell(m.value))
	}
	return t.Flush()
}

// cell is a value of JSON, as a table shows it.
func cell(value any) string {
	switch v := value.(type) {
	case nil:
		return "-"
	case string:
		if v == "" {
			return "-"
		}
		if at, err := time.Parse(time.RFC3339, v); err == nil {
			return at.UTC().Format("2006-01-02 15:04:05Z")
		}
		return printable(v)
	case []any:
		all := make([]string, len(v))
		for i, each := range v {
			all[i] = cell(each)
		}
		if len(all) == 0 {
			return "-"
		}
		return strings.Join(all, ",")
	case map[string]any:
		text, err := json.Marshal(v)
		if err != nil || len(v) == 0 {
			return "-"
		}
		return printable(string(text))
	default:
		return fmt.Sprint(v)
	}
}

// printable takes out of a text what would move a terminal's cursor or change its colours: host names and user names are
// what clients said.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '·'
	}, text)
}
