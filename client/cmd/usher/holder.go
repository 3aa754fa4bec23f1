package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"github.com/coditect/usher/client"
)

// holder is who asks for a seat, or about a licence, as flags say.
type holder struct {
	product, version, user, instance, hardware string
}

// flags adds the flags to a command that asks about a licence; those of a seat only where it wants one.
func (h *holder) flags(cmd *cobra.Command, seat bool) {
	flags := cmd.Flags()
	flags.StringVar(&h.product, "product", "", "the product's code; any that the licence is for when left out")
	flags.StringVar(&h.version, "version", "0.0.0", "the program's version, for licences of certain versions")
	flags.StringVar(&h.hardware, "hardware-id", "", "the device's id; what usher hardware-id says when left out (USHER_HARDWARE_ID)")
	if seat {
		flags.StringVar(&h.user, "user", "", "who sits, where the licence counts users")
		flags.StringVar(&h.instance, "instance-id", "", "which instance sits, where the licence counts instances; a new one when left out")
	}
}

// client is the SDK as the flags and the environment set it up.
func (a *app) client(h *holder) (*client.Client, error) {
	service, err := a.service()
	if err != nil {
		return nil, err
	}
	key, err := a.license()
	if err != nil {
		return nil, err
	}
	return &client.Client{
		URL: service, LicenseKey: key, Product: h.product, Version: h.version, User: h.user, InstanceID: h.instance,
		HardwareID: a.setting(h.hardware, client.EnvHardwareID),
	}, nil
}

// why makes a failure of an error of the SDK. Those of run have exit codes of their own.
func why(err error, running bool) error {
	exit := func(usual, ofRun int) int {
		if running {
			return ofRun
		}
		return usual
	}
	says := printable(strings.TrimPrefix(err.Error(), "usher: "))
	var refusal *client.Refusal
	switch {
	case errors.Is(err, context.Canceled):
		return interrupted
	case errors.Is(err, client.ErrNoSeats):
		return &failure{exitNoSeat, "no_seats_available", says}
	case errors.As(err, &refusal):
		p := problem{Status: refusal.Status, Code: refusal.Code, Detail: refusal.Detail}
		f := p.failure()
		for _, field := range refusal.Fields {
			f.message += fmt.Sprintf(" %s: %s", field.Field, printable(field.Detail))
		}
		switch {
		case f.exit == exitUnreachable:
			f.exit = exit(exitUnreachable, exitRunUnreachable)
		case refusal.Status == http.StatusBadRequest || refusal.Status == http.StatusUnprocessableEntity:
			f.exit = exitUsage
		default:
			f.exit = exit(exitNo, exitRefused)
		}
		return f
	case errors.Is(err, client.ErrUnreachable):
		if u, ok := errors.AsType[*url.Error](err); ok { // it repeats the request
			says = "the service cannot be reached: " + printable(u.Err.Error())
		}
		return &failure{exit(exitUnreachable, exitRunUnreachable), "unreachable", says}
	default:
		return &failure{exitUsage, "usage", says}
	}
}
