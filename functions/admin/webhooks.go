package admin

import (
	"net/http"

	"github.com/google/uuid"

	"github.com/coditect/usher/shared/audit"
	"github.com/coditect/usher/shared/notify/webhook"
	"github.com/coditect/usher/shared/platform/httpx"
	"github.com/coditect/usher/shared/tenancy"
)

// Webhook is a system that hears of events.
type Webhook struct {
	ID             uuid.UUID   `json:"id"`
	URL            string      `json:"url"`
	Description    *string     `json:"description"`
	Events         []string    `json:"events"`
	Status         string      `json:"status" enum:"active,disabled,deleted"`
	DisabledReason *string     `json:"disabled_reason"`
	DisabledAt     *httpx.Time `json:"disabled_at"`
	FailingSince   *httpx.Time `json:"failing_since" doc:"The first failure since the last success. After five days the webhook is switched off."`
	OverlapUntil   *httpx.Time `json:"overlap_until" doc:"Until then what is sent is signed with the secret before, too."`
	CreatedBy      string      `json:"created_by"`
	CreatedAt      httpx.Time  `json:"created_at"`
	UpdatedAt      httpx.Time  `json:"updated_at"`
}

// NewWebhook is a webhook with a secret that was just made.
type NewWebhook struct {
	Webhook
	Secret string `json:"secret" doc:"What signatures are verified with: whsec_… Shown this once."`
}

// WebhookRequest makes a webhook.
type WebhookRequest struct {
	URL         string   `json:"url" minLength:"8" maxLength:"2048" doc:"Begins with https:// and leads to a public address."`
	Events      []string `json:"events" minItems:"1" maxItems:"50" doc:"Types such as seat.denied; seat.* is all of a kind, * all. The kinds: seat, license, subscription, usage, trial, incident."`
	Description *string  `json:"description,omitempty" minLength:"1" maxLength:"200"`
}

// WebhookChange alters a webhook; what is left out stays as it is.
type WebhookChange struct {
	URL         *string              `json:"url,omitempty" minLength:"8" maxLength:"2048"`
	Events      *[]string            `json:"events,omitempty" minItems:"1" maxItems:"50"`
	Description httpx.Change[string] `json:"description,omitzero" minLength:"1" maxLength:"200"`
	Status      *string              `json:"status,omitempty" enum:"active,disabled" doc:"Nothing is sent to a disabled one, and nothing kept for it."`
}

// WebhookDelivery is an event on its way to a webhook.
type WebhookDelivery struct {
	ID         uuid.UUID        `json:"id"`
	WebhookID  uuid.UUID        `json:"webhook_id"`
	EventID    uuid.UUID        `json:"event_id" doc:"As the receiver knows it, by Webhook-Id."`
	Type       string           `json:"type"`
	Status     string           `json:"status" enum:"pending,delivered,failed"`
	Attempts   int              `json:"attempts"`
	NextAt     *httpx.Time      `json:"next_at" doc:"When the next attempt is made; null when none is."`
	Tries      []WebhookAttempt `json:"tries" doc:"The latest attempts, at most 20."`
	Body       httpx.Object     `json:"body" doc:"What is sent."`
	CreatedAt  httpx.Time       `json:"created_at"`
	FinishedAt *httpx.Time      `json:"finished_at"`
}

// WebhookAttempt is how an attempt ended.
type WebhookAttempt struct {
	At     httpx.Time `json:"at"`
	Millis int64      `json:"ms"`
	Status *int       `json:"status" doc:"What was answered; null when nothing was."`
	Error  *string    `json:"error" doc:"What went wrong."`
}

// DeliveryQuery says which deliveries are asked for.
type DeliveryQuery struct {
	TenantPaging
	Status string `query:"status" enum:"pending,delivered,failed" doc:"Of this status alone."`
}

var webhookRoutes = []endpoint{{
	Route: httpx.Route{
		Method: "GET", Path: "/v1/webhooks", ID: "list_webhooks",
		Summary: "List webhooks", Description: "In the order in which they were made. The operator that names no tenant gets its own, which hear of every tenant's events.",
		Query:   TenantPaging{},
		Replies: []httpx.Doc{{Status: http.StatusOK, Body: Page[Webhook]{}}},
	}, do: Deps.listWebhooks,
}, {
	Route: httpx.Route{
		Method: "POST", Path: "/v1/webhooks", ID: "create_webhook",
		Summary: "Make a webhook", Description: "What happens from now on is sent to it, signed as Standard Webhooks says. At most 20. The operator that names no tenant makes one of its own, which hears of every tenant's events.",
		Query: TenantQuery{}, Body: WebhookRequest{}, Idempotent: true,
		Replies:  []httpx.Doc{{Status: http.StatusCreated, Body: NewWebhook{}}},
		Problems: []int{http.StatusConflict},
	}, do: Deps.createWebhook,
}, {
	Route: httpx.Route{
		Method: "GET", Path: "/v1/webhooks/{id}", ID: "show_webhook",
		Summary: "Show a webhook",
		Query:   TenantQuery{},
		Replies: []httpx.Doc{{Status: http.StatusOK, Body: Webhook{}}},
	}, do: Deps.showWebhook,
}, {
	Route: httpx.Route{
		Method: "PATCH", Path: "/v1/webhooks/{id}", ID: "change_webhook",
		Summary: "Change a webhook, or switch it on or off",
		Query:   TenantQuery{}, Body: WebhookChange{},
		Replies: []httpx.Doc{{Status: http.StatusOK, Body: Webhook{}}},
	}, do: Deps.changeWebhook,
}, {
	Route: httpx.Route{
		Method: "DELETE", Path: "/v1/webhooks/{id}", ID: "delete_webhook",
		Summary: "Delete a webhook", Description: "At once and for good. What was to be sent to it is given up.",
		Query:    TenantQuery{},
		Replies:  []httpx.Doc{{Status: http.StatusOK, Body: Webhook{}}},
		Problems: []int{http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType},
	}, do: Deps.deleteWebhook,
}, {
	Route: httpx.Route{
		Method: "POST", Path: "/v1/webhooks/{id}/rotate-secret", ID: "rotate_webhook_secret",
		Summary: "Give a webhook another secret", Description: "For overlap_seconds what is sent is signed with both: a receiver that knows either believes it.",
		Query: TenantQuery{}, Body: Rotation{}, BodyOptional: true, Idempotent: true,
		Replies: []httpx.Doc{{Status: http.StatusOK, Body: NewWebhook{}}},
	}, do: Deps.rotateWebhookSecret,
}, {
	Route: httpx.Route{
		Method: "GET", Path: "/v1/webhooks/{id}/deliveries", ID: "list_webhook_deliveries",
		Summary: "List what was sent, or is to be, the newest first", Description: "Of the last 30 days.",
		Query:   DeliveryQuery{},
		Replies: []httpx.Doc{{Status: http.StatusOK, Body: Page[WebhookDelivery]{}}},
	}, do: Deps.listDeliveries,
}, {
	Route: httpx.Route{
		Method: "POST", Path: "/v1/webhooks/deliveries/{id}/redeliver", ID: "redeliver_webhook",
		Summary: "Send something again", Description: "With the next run, and as often as a new one if need be; also what was delivered. One that waits for its next attempt gets it within two minutes.",
		Query:    TenantQuery{},
		Replies:  []httpx.Doc{{Status: http.StatusOK, Body: WebhookDelivery{}}},
		Problems: []int{http.StatusConflict, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType},
	}, do: Deps.redeliver,
}}

func webhookOf(w *webhook.Webhook) Webhook {
	return Webhook{
		ID: w.ID, URL: w.URL, Description: orNull(w.Description), Events: w.Events, Status: w.Status, DisabledReason: orNull(w.DisabledReason),
		DisabledAt: httpx.AtOrNull(w.DisabledAt), FailingSince: httpx.AtOrNull(w.FailingSince), OverlapUntil: httpx.AtOrNull(w.PreviousUntil),
		CreatedBy: w.CreatedBy, CreatedAt: httpx.At(w.CreatedAt), UpdatedAt: httpx.At(w.UpdatedAt),
	}
}

func deliveryOf(d *webhook.Delivery) WebhookDelivery {
	shown := WebhookDelivery{
		ID: d.ID, WebhookID: d.WebhookID, EventID: d.EventID, Type: d.Type, Status: d.Status, Attempts: d.Attempts, Tries: []WebhookAttempt{},
		Body: httpx.Object(d.Body), CreatedAt: httpx.At(d.CreatedAt), FinishedAt: httpx.AtOrNull(d.FinishedAt),
	}
	if d.FinishedAt == nil {
		shown.NextAt = httpx.AtOrNull(&d.NextAt)
	}
	for _, t := range d.Tries {
		try := WebhookAttempt{At: httpx.At(t.At), Millis: t.Millis, Error: orNull(t.Error)}
		if t.Status != 0 {
			try.Status = &t.Status
		}
		shown.Tries = append(shown.Tries, try)
	}
	return shown
}

func webhookSubject(id uuid.UUID) string { return "webhook:" + id.String() }

func (d Deps) listWebhooks(c *httpx.Call, who caller) (httpx.Reply, error) {
	var q TenantPaging
	if err := c.DecodeQuery(&q); err != nil {
		return httpx.Reply{}, err
	}
	after, err := q.after(uuid.Nil)
	if err != nil {
		return httpx.Reply{}, err
	}
	var rows []webhook.Webhook
	err = d.DB.AsReadOnly(c.Context(), who.tenant, func(tx tenancy.Tx) (err error) {
		rows, err = webhook.List(c.Context(), tx, who.tenant, after, q.more())
		return err
	})
	if err != nil {
		return httpx.Reply{}, err
	}
	return httpx.Reply{Body: pageOf(rows, q.Paging, func(w *webhook.Webhook) uuid.UUID { return w.ID }, webhookOf)}, nil
}

func (d Deps) createWebhook(c *httpx.Call, who caller) (httpx.Reply, error) {
	var q WebhookRequest
	if err := decode(c, &TenantQuery{}, &q); err != nil {
		return httpx.Reply{}, err
	}
	terms := webhook.Terms{URL: q.URL, Description: or(q.Description, ""), Events: q.Events}
	return d.once(c, who, func(tx tenancy.Tx) (int, any, error) {
		made, secret, err := webhook.Create(c.Context(), tx, who.tenant, d.Notices, d.Hooks, terms, who.By())
		if err != nil {
			return 0, nil, err
		}
		err = audit.Record(c.Context(), tx, who.act(c, "webhook.created", webhookSubject(made.ID), asSent(c)))
		return http.StatusCreated, NewWebhook{Webhook: webhookOf(&made), Secret: secret}, err
	})
}

func (d Deps) showWebhook(c *httpx.Call, who caller) (httpx.Reply, error) {
	id, err := c.PathUUID("id")
	if err != nil {
		return httpx.Reply{}, err
	}
	var w webhook.Webhook
	if err := d.readWebhook(c, who, id, &w)(); err != nil {
		return httpx.Reply{}, err
	}
	if err := c.DecodeQuery(&TenantQuery{}); err != nil {
		return httpx.Reply{}, err
	}
	return httpx.Reply{Body: webhookOf(&w)}, nil
}

// readWebhook reads a webhook to w, which may be nil, and says whether it is there.
func (d Deps) readWebhook(c *httpx.Call, who caller, id uuid.UUID, w *webhook.Webhook) func() error {
	return func() error {
		return d.DB.AsReadOnly(c.Context(), who.tenant, func(tx tenancy.Tx) error {
			read, err := webhook.Read(c.Context(), tx, who.tenant, id)
			if w != nil {
				*w = read
			}
			return err
		})
	}
}

func (d Deps) changeWebhook(c *httpx.Call, who caller) (httpx.Reply, error) {
	id, err := c.PathUUID("id")
	if err != nil {
		return httpx.Reply{}, err
	}
	var q WebhookChange
	if err := decode(c, &TenantQuery{}, &q); err != nil {
		return httpx.Reply{}, unlessMissing(err, d.readWebhook(c, who, id, nil))
	}
	change := webhook.Change{URL: q.URL, Status: q.Status, Events: or(q.Events, nil)}
	if q.Description.Given {
		change.Description = new(or(q.Description.Value, ""))
	}
	return d.actOnWebhook(c, who, "webhook.changed", id, func(tx tenancy.Tx) (webhook.Webhook, error) {
		return webhook.Alter(c.Context(), tx, who.tenant, d.Hooks, id, change)
	})
}

func (d Deps) deleteWebhook(c *httpx.Call, who caller) (httpx.Reply, error) {
	id, err := c.PathUUID("id")
	if err != nil {
		return httpx.Reply{}, err
	}
	if err := decode(c, &TenantQuery{}, nil); err != nil {
		return httpx.Reply{}, unlessMissing(err, d.readWebhook(c, who, id, nil))
	}
	return d.actOnWebhook(c, who, "webhook.deleted", id, func(tx tenancy.Tx) (webhook.Webhook, error) {
		return webhook.Delete(c.Context(), tx, who.tenant, id)
	})
}

// actOnWebhook changes a webhook and records it, and answers it as it is then.
func (d Deps) actOnWebhook(c *httpx.Call, who caller, action string, id uuid.UUID, act func(tenancy.Tx) (webhook.Webhook, error)) (httpx.Reply, error) {
	var w webhook.Webhook
	err := d.DB.As(c.Context(), who.tenant, func(tx tenancy.Tx) (err error) {
		if w, err = act(tx); err != nil {
			return err
		}
		return audit.Record(c.Context(), tx, who.act(c, action, webhookSubject(id), asSent(c)))
	})
	if err != nil {
		return httpx.Reply{}, err
	}
	return httpx.Reply{Body: webhookOf(&w)}, nil
}

func (d Deps) rotateWebhookSecret(c *httpx.Call, who caller) (httpx.Reply, error) {
	id, err := c.PathUUID("id")
	if err != nil {
		return httpx.Reply{}, err
	}
	var q Rotation
	if err := decode(c, &TenantQuery{}, &q); err != nil {
		return httpx.Reply{}, unlessMissing(err, d.readWebhook(c, who, id, nil))
	}
	return d.once(c, who, func(tx tenancy.Tx) (int, any, error) {
		w, secret, err := webhook.Rotate(c.Context(), tx, who.tenant, d.Notices, id, duration(q.OverlapSeconds, usualOverlap))
		if err != nil {
			return 0, nil, err
		}
		err = audit.Record(c.Context(), tx, who.act(c, "webhook.secret_rotated", webhookSubject(id), asSent(c)))
		return http.StatusOK, NewWebhook{Webhook: webhookOf(&w), Secret: secret}, err
	})
}

func (d Deps) listDeliveries(c *httpx.Call, who caller) (httpx.Reply, error) {
	id, err := c.PathUUID("id")
	if err != nil {
		return httpx.Reply{}, err
	}
	if err := d.readWebhook(c, who, id, nil)(); err != nil {
		return httpx.Reply{}, err
	}
	var q DeliveryQuery
	if err := c.DecodeQuery(&q); err != nil {
		return httpx.Reply{}, err
	}
	before, err := q.after(uuid.Max)
	if err != nil {
		return httpx.Reply{}, err
	}
	var rows []webhook.Delivery
	err = d.DB.AsReadOnly(c.Context(), who.tenant, func(tx tenancy.Tx) (err error) {
		rows, err = webhook.ListDeliveries(c.Context(), tx, who.tenant, id, q.Status, before, q.more())
		return err
	})
	if err != nil {
		return httpx.Reply{}, err
	}
	return httpx.Reply{Body: pageOf(rows, q.Paging, func(d *webhook.Delivery) uuid.UUID { return d.ID }, deliveryOf)}, nil
}

func (d Deps) redeliver(c *httpx.Call, who caller) (httpx.Reply, error) {
	id, err := c.PathUUID("id")
	if err != nil {
		return httpx.Reply{}, err
	}
	if err := decode(c, &TenantQuery{}, nil); err != nil {
		return httpx.Reply{}, unlessMissing(err, func() error {
			return d.DB.AsReadOnly(c.Context(), who.tenant, func(tx tenancy.Tx) error {
				_, err := webhook.ReadDelivery(c.Context(), tx, who.tenant, id)
				return err
			})
		})
	}
	var again webhook.Delivery
	err = d.DB.As(c.Context(), who.tenant, func(tx tenancy.Tx) (err error) {
		if again, err = webhook.Redeliver(c.Context(), tx, who.tenant, id); err != nil {
			return err
		}
		return audit.Record(c.Context(), tx, who.act(c, "webhook.redelivered", webhookSubject(again.WebhookID), map[string]string{"delivery": id.String()}))
	})
	if err != nil {
		return httpx.Reply{}, err
	}
	return httpx.Reply{Body: deliveryOf(&again)}, nil
}
