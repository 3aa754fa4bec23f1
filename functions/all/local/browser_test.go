package local_test

import (
	"flag"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/google/uuid"

	"github.com/coditect/usher/functions/all/local"
)

// pictures is where the pages are to be kept as pictures; "" keeps none. See make pictures.
var pictures = flag.String("pictures", "", "folder, from the top of the repository, in which to keep pictures of the pages")

// A person does in a browser what the README says: cancels first, then pays, and sits on what was bought.
func TestAPersonWhoPaysInABrowserGetsSeatsAndOneWhoCancelsPaysNothing(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	d, api := ready(t, run(t, dir, ""), dir)
	owner := api.As(d.IDTokens.Owner)
	browser := open(t)

	shop := d.BaseURL + "/local/stripe/shop/"
	order := map[string]any{"plan": "team", "cycle": "monthly", "seats": 7, "success_url": shop + "paid", "cancel_url": shop + "cancelled"}
	checkout := func() string {
		t.Helper()
		var page struct {
			CheckoutURL string `json:"checkout_url"`
		}
		if _, err := owner.Call(t.Context(), http.MethodPost, "/v1/checkout", order, &page); err != nil {
			t.Fatal(err)
		}
		return page.CheckoutURL
	}

	browser.do(t, chromedp.Navigate(checkout()))
	if text := browser.text(t); !strings.Contains(text, "team monthly") || !strings.Contains(text, "290.00 USD") ||
		!strings.Contains(text, "2 × 50.00 USD") || !strings.Contains(text, "390.00 USD") {
		t.Errorf("the page does not say what is bought for how much:\n%s", text)
	}
	browser.keep(t, "pay-page.png")
	browser.click(t, "#cancel", shop+"cancelled")
	if have, err := owner.Call(t.Context(), http.MethodGet, "/v1/subscription", nil, nil); have != http.StatusNotFound {
		t.Fatalf("who cancelled has a subscription: %d, %v", have, err)
	}

	browser.do(t, chromedp.Navigate(checkout()))
	browser.click(t, "#decline", "")
	if text := browser.text(t); !strings.Contains(text, "declined") {
		t.Errorf("a card that was declined is not spoken of:\n%s", text)
	}
	browser.click(t, "#pay", shop+"paid")
	browser.keep(t, "paid-page.png")

	var sub struct {
		Status    string
		Seats     int
		LicenseID uuid.UUID `json:"license_id"`
	}
	for until := time.Now().Add(30 * time.Second); sub.LicenseID == uuid.Nil; time.Sleep(50 * time.Millisecond) {
		have, err := owner.Call(t.Context(), http.MethodGet, "/v1/subscription", nil, &sub)
		if time.Now().After(until) {
			t.Fatalf("what was paid is not sold: %d, %v", have, err)
		}
	}
	if sub.Status != "active" || sub.Seats != 7 {
		t.Errorf("bought %+v", sub)
	}
	var rotated struct {
		LicenseKey string `json:"license_key"`
	}
	if _, err := owner.Call(t.Context(), http.MethodPost, "/v1/licenses/"+sub.LicenseID.String()+"/rotate-key", nil, &rotated); err != nil {
		t.Fatal(err)
	}
	seat := map[string]any{"license_key": rotated.LicenseKey, "hardware_id": "laptop", "version": "1.0.0", "user": "ann"}
	var got struct {
		MaxSeats int `json:"max_seats"`
	}
	if have, err := (local.API{URL: d.BaseURL}).Call(t.Context(), http.MethodPost, "/v1/acquire", seat, &got); have != http.StatusCreated || got.MaxSeats != 7 {
		t.Errorf("a seat was answered %d (%v), of %d", have, err, got.MaxSeats)
	}
}
