package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/coditect/usher/client"
)

func (a *app) borrow() *cobra.Command {
	var h holder
	b := borrow{app: a}
	cmd := &cobra.Command{
		Use:   "borrow",
		Short: "Take a seat offline, or bring it back",
		Long: `Takes a seat and borrows it: it stays taken without heartbeats, until then, and at most as long as the licence allows. Its
receipt is written to --out, and a seal beside it, which ties it to this machine. With both, a program is believed that cannot
reach the service.

--return brings the seat back early, and removes both files. It must be asked by the same device, user or instance.`,
		Example: `  usher borrow --for 48h --out seat.jwt
  usher borrow --until 2027-01-31 --out seat.jwt
  usher borrow --return --out seat.jwt`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			until, err := b.end(time.Now())
			if err != nil {
				return err
			}
			c, err := a.client(&h)
			if err != nil {
				return err
			}
			c.ReceiptFile = b.file
			return b.do(cmd.Context(), c, until)
		},
	}
	h.flags(cmd, true)
	flags := cmd.Flags()
	flags.StringVar(&b.until, "until", "", "until when: a day such as 2027-01-31, or a time such as 2027-01-31T12:00:00Z")
	flags.StringVar(&b.length, "for", "", "for how long, such as 8h or 2d")
	flags.StringVar(&b.file, "out", "", "the file for the receipt (required)")
	flags.BoolVar(&b.back, "return", false, "bring the seat back")
	return cmd
}

// borrow is one usher borrow.
type borrow struct {
	*app
	until, length, file string
	back                bool
}

// end is until when the seat is borrowed; zero when it is brought back.
func (b *borrow) end(now time.Time) (time.Time, error) {
	switch {
	case b.file == "":
		return time.Time{}, wrong("which file? Give --out")
	case b.back && b.until+b.length != "":
		return time.Time{}, wrong("--return has no end: leave out --until and --for")
	case b.back:
		return time.Time{}, nil
	case (b.until == "") == (b.length == ""):
		return time.Time{}, wrong("until when? Give --until or --for, and not both")
	case b.length != "":
		d, err := readDuration(b.length)
		if err != nil || d <= 0 {
			return time.Time{}, wrong("--for wants a duration, such as 8h or 2d")
		}
		return now.Add(d), nil
	}
	until, err := readMoment(b.until)
	switch {
	case err != nil:
		return until, wrong("--until wants a day such as 2027-01-31, or a time such as 2027-01-31T12:00:00Z")
	case !until.After(now):
		return until, wrong("--until is over")
	}
	return until, nil
}

// do borrows a seat until then, or brings it back. The same holder gets the seat that it has borrowed already.
func (b *borrow) do(ctx context.Context, c *client.Client, until time.Time) error {
	seat, err := c.Acquire(ctx)
	if err != nil {
		return why(err, false)
	}
	defer seat.Release() // a borrowed seat stays borrowed
	session, number := seat.Status().SessionID, seat.Status().SeatNo
	type told struct {
		Session       string     `json:"session_id"`
		Seat          int        `json:"seat_no"`
		BorrowedUntil *time.Time `json:"borrowed_until"`
		File          string     `json:"file,omitempty"`
	}
	if b.back {
		if err := seat.Return(ctx); err != nil {
			return why(err, false)
		}
		if b.json {
			writeJSON(b.out, told{Session: session, Seat: number})
		} else {
			b.say("seat %d is free again", number)
		}
		return nil
	}
	got, err := seat.Borrow(ctx, until)
	if err != nil {
		return why(err, false)
	}
	if b.json {
		writeJSON(b.out, told{session, number, &got.Until, b.file})
		return nil
	}
	b.say("seat %d is borrowed until %s; its receipt is in %s, sealed by %s", number, got.Until.UTC().Format("2006-01-02 15:04:05Z"), b.file, sealOf(b.file))
	return nil
}
