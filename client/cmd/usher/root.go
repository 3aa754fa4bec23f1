package main

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// app is one call of the command line: what it was told, and where it writes.
type app struct {
	getenv   func(string) string
	out, err *os.File

	url, licenseKey, apiKey string
	json                    bool
}

// start runs one command line, and answers what to exit with.
func start(args []string, getenv func(string) string, out, errs *os.File) int {
	a := &app{getenv: getenv, out: out, err: errs}
	root := a.root()
	root.SetArgs(args)
	root.SetOut(out)
	root.SetErr(errs)
	ctx := context.Background()
	if ending := heeded(os.Interrupt, syscall.SIGTERM); len(ending) > 0 {
		var stop context.CancelFunc
		ctx, stop = signal.NotifyContext(ctx, ending...)
		defer stop()
	}
	cmd, err := root.ExecuteContextC(ctx)
	return a.tell(cmd, err)
}

// heeded are those of the signals that whoever started usher has not had ignored, as nohup does, and shells for what runs in
// their background.
func heeded(signals ...os.Signal) []os.Signal { return slices.DeleteFunc(signals, signal.Ignored) }

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "usher",
		Short: "Take, hold and administer floating licences",
		Long: `usher is the command line of Usher, which decides who may run a piece of software right now.

Settings come from the environment, or from flags, which win:

  USHER_URL           --url           where the service is, such as https://licences.example.com
  USHER_LICENSE_KEY   --license-key   the licence that validate, run, seats and borrow are about
  USHER_API_KEY       --api-key       who asks: for seats and admin
  USHER_TENANT_ID     --tenant        the tenant that an operator's command is about (admin, seats)
  NO_COLOR                            no colours

Prefer the environment for keys: other users of a machine can read the command lines of its processes.`,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	group(root)
	flags := root.PersistentFlags()
	flags.StringVar(&a.url, "url", "", "where the service is (USHER_URL)")
	flags.StringVar(&a.licenseKey, "license-key", "", "the licence key (USHER_LICENSE_KEY)")
	flags.StringVar(&a.apiKey, "api-key", "", "the API key (USHER_API_KEY)")
	flags.BoolVar(&a.json, "json", false, "answer in JSON: one document, or one a line where there are several")
	root.AddCommand(a.validate(), a.run(), a.seats(), a.borrow(), a.receipt(), a.hardwareID(), a.admin(), a.audit(), a.version())
	return root
}

// group makes a command of one that only has others: without a name it helps, and an unknown name is wrong.
func group(cmd *cobra.Command) *cobra.Command {
	cmd.Args = takes()
	cmd.DisableFlagsInUseLine = true
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	return cmd
}

// takes wants an argument for each of the names, and says which when it is otherwise. It repeats no argument: that may
// be a key in the wrong place.
func takes(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) == len(names):
			return nil
		case len(names) == 0 && cmd.HasSubCommands():
			return wrong("there is no such command of %s", cmd.CommandPath())
		case len(names) == 0:
			return wrong("%s takes no arguments, only flags", cmd.CommandPath())
		default:
			return wrong("%s wants %s, and was given %s", cmd.CommandPath(), strings.Join(names, " and "), count(len(args), "argument"))
		}
	}
}

// count says how many there are of something.
func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// setting is what a flag says or, without it, the environment.
func (a *app) setting(flag, variable string) string {
	if flag != "" {
		return flag
	}
	return strings.TrimSpace(a.getenv(variable))
}

// service is where the service is.
func (a *app) service() (string, error) {
	text := a.setting(a.url, "USHER_URL")
	if text == "" {
		return "", wrong("which service? Set USHER_URL, or give --url")
	}
	u, err := url.Parse(text)
	if err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return "", wrong("the service's URL must look like https://licences.example.com")
	}
	return strings.TrimSuffix(u.String(), "/"), nil
}

// license is the licence key.
func (a *app) license() (string, error) {
	key := a.setting(a.licenseKey, "USHER_LICENSE_KEY")
	if key == "" {
		return "", wrong("which licence? Set USHER_LICENSE_KEY, or give --license-key")
	}
	return key, nil
}
