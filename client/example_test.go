package client_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/coditect/usher/client"
)

// service stands in for Usher in the examples: it has one seat, and gives it to whoever asks.
func service() (url string, stop func()) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch r.URL.Path {
		case "/v1/acquire":
			w.WriteHeader(http.StatusCreated)
			fmt.Fprint(w, `{"session_id":"s","seat_token":"ust_x","seat_no":1,"active_seats":1,"max_seats":1,"ttl_seconds":360,"heartbeat_after_seconds":120}`)
		case "/v1/validate":
			fmt.Fprint(w, `{"valid":false,"code":"license_expired","checks":[{"name":"license_expired","ok":false,"code":"license_expired","detail":"The licence ended on 1 May."}]}`)
		default:
			fmt.Fprint(w, `{}`)
		}
	}))
	return s.URL, s.Close
}

func ExampleAcquire() {
	url, stop := service()
	defer stop()
	_ = os.Setenv("USHER_URL", url)
	_ = os.Setenv("USHER_LICENSE_KEY", "USH-9MQJJ-HBXXN-WMX7Z-Q7FM7-N4374-AKHNB")
	_ = os.Setenv("USHER_HARDWARE_ID", "laptop")

	err := func(ctx context.Context) error {
		seat, err := client.Acquire(ctx)
		if err != nil {
			return err
		}
		defer seat.Release()

		fmt.Println("seat", seat.Status().SeatNo, seat.Valid())
		return nil
	}(context.Background())
	fmt.Println(err)
	// Output:
	// seat 1 true
	// <nil>
}

// A program that may wait for a seat, says who asks, and ends in order when it is told to.
func ExampleClient_Acquire() {
	url, stop := service()
	defer stop()
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()

	c := client.Client{
		URL: url, LicenseKey: "USH-9MQJJ-HBXXN-WMX7Z-Q7FM7-N4374-AKHNB", HardwareID: "laptop",
		Product: "editor", Version: "2.1.0", User: "ann@example.com",
		Wait:   true,
		Queued: func(p client.Place) { fmt.Printf("place %d of %d\n", p.Position, p.Length) },
	}
	seat, err := c.Acquire(ctx)
	switch {
	case errors.Is(err, client.ErrNoSeats):
		fmt.Println("all seats are taken: try again later")
		return
	case errors.Is(err, client.ErrUnreachable):
		fmt.Println("the licence service does not answer:", err)
		return
	case err != nil:
		fmt.Println(err) // a sentence for the user
		return
	}
	defer seat.Release()
	fmt.Println("at work")
	// Output: at work
}

// What a program may want to hear while it holds a seat.
func ExampleSeat_Events() {
	url, stop := service()
	defer stop()
	c := client.Client{URL: url, LicenseKey: "USH-9MQJJ-HBXXN-WMX7Z-Q7FM7-N4374-AKHNB", HardwareID: "laptop"}
	seat, err := c.Acquire(context.Background())
	if err != nil {
		fmt.Println(err)
		return
	}
	time.AfterFunc(10*time.Millisecond, seat.Release) // the work

	for e := range seat.Events() {
		switch e.Kind {
		case client.Unreachable:
			fmt.Println("no connection; you can work on until", e.Until)
		case client.Lapsed:
			fmt.Println("please wait: the seat is being asked for again:", e.Err)
		case client.Confirmed, client.Reacquired:
			fmt.Println("go on")
		case client.Draining:
			fmt.Println("please save: there are fewer seats from", e.Until)
		case client.Lost:
			fmt.Printf("%s ended this session at %s: %s\n", e.By, e.At, e.Reason)
		case client.Released:
			fmt.Println("given back")
		}
	}
	// Output: given back
}

func ExampleClient_Validate() {
	url, stop := service()
	defer stop()
	c := client.Client{URL: url, LicenseKey: "USH-9MQJJ-HBXXN-WMX7Z-Q7FM7-N4374-AKHNB", HardwareID: "laptop"}
	v, err := c.Validate(context.Background(), client.Question{Features: []string{"export"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, check := range v.Checks {
		if !check.OK {
			fmt.Println(check.Detail)
		}
	}
	// Output: The licence ended on 1 May.
}

// A seat for a week without a network: the program finds its receipt when it starts offline.
func ExampleSeat_Borrow() {
	c := client.Client{
		URL: "https://usher.example.com", LicenseKey: "USH-9MQJJ-HBXXN-WMX7Z-Q7FM7-N4374-AKHNB",
		ReceiptFile: "/var/lib/editor/seat.jws",
		Roots:       "-----BEGIN PUBLIC KEY-----\n…", // embedded in the program
	}
	seat, err := c.Acquire(context.Background())
	if err != nil {
		return
	}
	borrowed, err := seat.Borrow(context.Background(), time.Now().Add(7*24*time.Hour))
	if err != nil {
		return
	}
	fmt.Println("yours until", borrowed.Until)
}
