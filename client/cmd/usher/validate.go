package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/coditect/usher/client"
	"github.com/coditect/usher/client/hardware"
)

func (a *app) validate() *cobra.Command {
	var h holder
	var q client.Question
	cmd := &cobra.Command{
		Use:   "validate",
		Short: "Say whether a licence is good here, and what is wrong with it",
		Long: `Asks whether the licence is good for this device, product, version and these features, and shows everything that
speaks against it. It takes no seat. Exits with 0 when the licence is good, with 1 when it is not, with 2 when the command
line or the configuration is wrong, and with 3 when the service cannot be reached.`,
		Example: "  usher validate --product agent-studio --version 2.1.0 --feature workflows",
		Args:    takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client(&h)
			if err != nil {
				return err
			}
			v, err := c.Validate(cmd.Context(), q)
			if err != nil {
				return why(err, false)
			}
			if a.json {
				writeJSON(a.out, v)
			} else {
				a.validation(v)
			}
			if !v.Valid {
				return &failure{exit: exitNo}
			}
			return nil
		},
	}
	h.flags(cmd, false)
	cmd.Flags().StringSliceVar(&q.Features, "feature", nil, "a feature that is wanted; may be repeated")
	return cmd
}

// validation shows what was found, all of what is wrong first.
func (a *app) validation(v *client.Validation) {
	verdict := a.paint(green, "valid")
	if !v.Valid {
		verdict = a.paint(red, "not valid")
	}
	a.say("%s (%s)", verdict, v.Code)
	for _, c := range v.Checks {
		if !c.OK {
			a.say("  %s: %s", c.Code, printable(c.Detail))
		}
	}
	if l := v.License; l != nil {
		expires := "never"
		if l.ExpiresAt != nil {
			expires = l.ExpiresAt.UTC().Format("2006-01-02 15:04:05Z")
		}
		a.say("product %s, plan %s, status %s, %d of %s taken, expires %s",
			printable(l.Product), printable(l.Plan), l.Status, l.ActiveSeats, count(l.MaxSeats, "seat"), expires)
	}
}

func (a *app) hardwareID() *cobra.Command {
	return &cobra.Command{
		Use:   "hardware-id",
		Short: "Say what this device is called",
		Long: `Says the id by which a licence knows this device: USHER_HARDWARE_ID, or one that is made from what the machine has of its
own, and from which that cannot be read. It is the same at every start.`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			id := a.setting("", client.EnvHardwareID)
			if id == "" {
				var err error
				if id, err = hardware.ID(cmd.Context(), "usher"); err != nil {
					return &failure{exitUsage, "no_hardware_id", fmt.Sprintf("%v: set %s", err, client.EnvHardwareID)}
				}
			}
			if a.json {
				writeJSON(a.out, struct {
					HardwareID string `json:"hardware_id"`
				}{id})
			} else {
				a.say("%s", id)
			}
			return nil
		},
	}
}
