package local_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/coditect/usher/shared/platform/localenv"
)

// browser is a Chromium with one page, without a screen.
type browser struct{ ctx context.Context }

// open starts a browser, which ends with the test. It looks names up nowhere: what is on this machine is all it reaches.
func open(t *testing.T) browser {
	t.Helper()
	path, err := localenv.FindBrowser()
	if err != nil {
		t.Fatalf("%v: make install installs Chromium, or says how", err)
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.WindowSize(640, 640),
		chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"))
	if os.Geteuid() == 0 {
		options = append(options, chromedp.NoSandbox) // Chromium's own refuses root
	}
	within, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	allocator, stop := chromedp.NewExecAllocator(within, options...)
	ctx, closePage := chromedp.NewContext(allocator)
	t.Cleanup(func() { closePage(); stop(); cancel() })
	b := browser{ctx}
	b.do(t)
	return b
}

func (b browser) do(t *testing.T, steps ...chromedp.Action[chromedp.Void]) {
	t.Helper()
	if err := chromedp.Do(b.ctx, steps...); err != nil {
		t.Fatal(err)
	}
}

// text is what a person reads.
func (b browser) text(t *testing.T) string {
	t.Helper()
	text, err := chromedp.Run(b.ctx, chromedp.Text(chromedp.CSS("main")))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// click clicks, and waits for the page that follows, which is at the address, if one is given.
func (b browser) click(t *testing.T, button, address string) {
	t.Helper()
	if _, err := chromedp.RunResponse(b.ctx, chromedp.Click(chromedp.CSS(button))); err != nil {
		t.Fatal(err)
	}
	at, err := chromedp.Run(b.ctx, chromedp.Location())
	if err != nil {
		t.Fatal(err)
	}
	if address != "" && at != address {
		t.Fatalf("after a click on %s the browser is at %s, want %s", button, at, address)
	}
}

// keep keeps the page as a picture, if that was asked for.
func (b browser) keep(t *testing.T, name string) {
	t.Helper()
	if *pictures == "" {
		return
	}
	picture, err := chromedp.Run(b.ctx, chromedp.Screenshot(chromedp.CSS("main")))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join("..", "..", "..", *pictures, name), picture, 0o644); err != nil {
		t.Fatal(err)
	}
}
