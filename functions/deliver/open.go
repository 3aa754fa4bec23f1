package deliver

import (
	"context"
	"errors"
	"log/slog"

	"github.com/coditect/usher/shared/identity"
	"github.com/coditect/usher/shared/notify"
	"github.com/coditect/usher/shared/notify/mail"
	"github.com/coditect/usher/shared/notify/webhook"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/platform/serve"
	"github.com/coditect/usher/shared/tenancy"
)

// Open puts the function together from its environment: DATABASE_*, SMTP_*, MAIL_*, NOTIFY_KEYS, WEBHOOK_* and SCHEDULER_* as their packages
// say.
func Open(ctx context.Context, getenv func(string) string, log *slog.Logger) (*serve.Function, error) {
	db, err1 := tenancy.Open(ctx, getenv, log)
	keys, err2 := notify.OpenKeys(getenv)
	mails, err3 := mail.Open(getenv, keys, db, log)
	guard, err4 := webhook.OpenGuard(getenv)
	scheduler, err5 := identity.OpenScheduler(getenv)
	if err := errors.Join(err1, err2, err3, err4, err5); err != nil {
		return nil, err
	}
	return &serve.Function{
		Name: "deliver",
		Routes: Routes(Deps{
			Mails: mails, Webhooks: webhook.NewSender(db, identity.OperatorID, keys, guard, log), Scheduler: scheduler, Log: log,
		}),
		Ready: []httpx.Check{{Name: "postgresql", Ping: db.Ping}},
		Close: db.Close,
	}, nil
}
