package deliver

import (
	"context"
	"errors"
	"log/slog"

	"github.com/coditect/usher/shared/identity"
	"github.com/coditect/usher/shared/notify/mail"
	"github.com/coditect/usher/shared/notify/webhook"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/platform/serve"
	"github.com/coditect/usher/shared/tenancy"
)

// Open puts the function together from its environment: DATABASE_*, SMTP_*, MAIL_*, WEBHOOK_* and SCHEDULER_* as their packages
// say.
func Open(ctx context.Context, getenv func(string) string, log *slog.Logger) (*serve.Function, error) {
	db, err1 := tenancy.Open(ctx, getenv, log)
	mails, err2 := mail.Open(getenv, db, log)
	secrets, err3 := webhook.OpenSecrets(getenv)
	guard, err4 := webhook.OpenGuard(getenv)
	scheduler, err5 := identity.OpenScheduler(getenv)
	if err := errors.Join(err1, err2, err3, err4, err5); err != nil {
		return nil, err
	}
	return &serve.Function{
		Name: "deliver",
		Routes: Routes(Deps{
			Mails: mails, Webhooks: webhook.NewSender(db, identity.OperatorID, secrets, guard, log), Scheduler: scheduler, Log: log,
		}),
		Ready: []httpx.Check{{Name: "postgresql", Ping: db.Ping}},
		Close: db.Close,
	}, nil
}
