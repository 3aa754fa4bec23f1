package functiontest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coditect/usher/shared/platform/testenv"
)

// partyProgram is the program that runs holders, partyVariable says which.
const (
	partyProgram  = "party"
	partyVariable = "USHER_TEST_PARTY"
)

// Party is honest clients that a process of its own runs.
type Party struct {
	// Name tells its holders from another party's.
	Name string
	// Guests are the holders: how many live at each licence.
	Guests []Guests
	// Acquires are the addresses of function acquire, between which the holders are shared out; the others have one each.
	Acquires           []string
	Heartbeat, Release string

	Journal string // the file of their lives
}

// Guests are holders of one licence that live alike.
type Guests struct {
	License License
	Number  int
	Manner  Manner
}

// Hosted is a party that is under way.
type Hosted struct {
	proc    *testenv.Proc
	journal string
}

// Host starts the party's process.
func (p Party) Host(t testing.TB) *Hosted {
	t.Helper()
	p.Journal = filepath.Join(t.TempDir(), "lives.json")
	text, err := json.Marshal(p)
	must(t, err)
	return &Hosted{testenv.Process(t, partyProgram, map[string]string{partyVariable: string(text)}), p.Journal}
}

// Count is what a party counted.
type Count struct {
	Acquired, Beats, Later int64
	// Strange is what no holder should be answered, and how often it was.
	Strange map[string]int
}

// End ends the party, and answers what its holders wrote down.
func (h *Hosted) End(t testing.TB) ([]Life, Count) {
	t.Helper()
	h.proc.Signal(t, syscall.SIGTERM)
	if code := h.proc.Wait(t, time.Minute); code != 0 {
		t.Fatalf("a party of holders ended with %d:\n%s", code, h.proc.Output())
	}
	return h.Lives(t), readCount(t, h.proc.Output())
}

func readCount(t testing.TB, output string) Count {
	t.Helper()
	var c Count
	must(t, json.Unmarshal([]byte(output), &c))
	return c
}

// Lives are those that are over so far.
func (h *Hosted) Lives(t testing.TB) []Life {
	t.Helper()
	f, err := os.Open(h.journal)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	must(t, err)
	defer func() { _ = f.Close() }()
	var lives []Life
	for d := json.NewDecoder(bufio.NewReader(f)); ; {
		var l Life
		err := d.Decode(&l)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return lives
		}
		must(t, err)
		lives = append(lives, l)
	}
}

// AwaitLives waits until so many holders of the parties have given their seat back.
func AwaitLives(t testing.TB, parties []*Hosted, least int) {
	t.Helper()
	testenv.Eventually(t, 90*time.Second, func() error {
		n := 0
		for _, h := range parties {
			for _, l := range h.Lives(t) {
				if l.Released {
					n++
				}
			}
		}
		if n < least {
			return fmt.Errorf("%d holders have given their seat back, want %d", n, least)
		}
		return nil
	})
}

// party is the process. It writes each life to its journal when it is over, and its count to its output at the end.
func party() {
	if err := hold(os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func hold(out io.Writer) error {
	var p Party
	if err := json.Unmarshal([]byte(os.Getenv(partyVariable)), &p); err != nil {
		return fmt.Errorf("read the party: %w", err)
	}
	journal, err := os.Create(p.Journal)
	if err != nil {
		return fmt.Errorf("write the lives: %w", err)
	}
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM)
	stop := make(chan struct{})
	go func() { <-end; close(stop) }()

	var mu sync.Mutex
	count := Count{Strange: map[string]int{}}
	var writing error
	web := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{MaxIdleConns: 500, MaxIdleConnsPerHost: 200}}
	var holders []*Holder
	var running sync.WaitGroup
	for _, g := range p.Guests {
		for range g.Number {
			n := len(holders)
			h := &Holder{
				License: g.License, Name: fmt.Sprintf("%s-%d", p.Name, n), Manner: g.Manner, Send: p.sender(web, p.Acquires[n%len(p.Acquires)]),
				Each: func(l Life) {
					line, err := json.Marshal(l)
					mu.Lock()
					defer mu.Unlock()
					count.Acquired++
					_, err2 := journal.Write(append(line, '\n'))
					writing = errors.Join(writing, err, err2)
				},
				Strange: func(what string) {
					mu.Lock()
					defer mu.Unlock()
					if len(count.Strange) < 20 {
						count.Strange[what]++
					}
				},
			}
			holders = append(holders, h)
			running.Go(func() { h.Live(stop) })
		}
	}
	running.Wait()
	for _, h := range holders {
		count.Beats += h.Beats.Load()
		count.Later += h.Later.Load()
	}
	return errors.Join(writing, journal.Close(), json.NewEncoder(out).Encode(count))
}

// sender sends over HTTP.
func (p *Party) sender(web *http.Client, acquire string) Send {
	address := map[string]string{"acquire": acquire, "heartbeat": p.Heartbeat, "release": p.Release}
	return func(function string, m Message) (int, []byte, error) {
		return Post(web, address[function]+"/v1/"+function, m)
	}
}

// Post sends a message over HTTP.
func Post(web *http.Client, url string, m Message) (status int, body []byte, err error) {
	text, ok := m.Body.(string)
	if !ok {
		b, err := json.Marshal(m.Body)
		if err != nil {
			return 0, nil, err
		}
		text = string(b)
	}
	r, err := http.NewRequest(http.MethodPost, url, strings.NewReader(text)) //nolint:noctx // the client has a deadline
	if err != nil {
		return 0, nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	if m.Token != "" {
		r.Header.Set("Authorization", "Bearer "+m.Token)
	}
	answer, err := web.Do(r)
	if err != nil {
		return 0, nil, err
	}
	body, err = io.ReadAll(answer.Body)
	return answer.StatusCode, bytes.TrimSpace(body), errors.Join(err, answer.Body.Close())
}

// Add adds another party's count.
func (c *Count) Add(o Count) {
	c.Acquired += o.Acquired
	c.Beats += o.Beats
	c.Later += o.Later
	if c.Strange == nil {
		c.Strange = map[string]int{}
	}
	for _, what := range slices.Sorted(maps.Keys(o.Strange)) {
		c.Strange[what] += o.Strange[what]
	}
}
