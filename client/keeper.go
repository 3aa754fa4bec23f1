package client

import (
	"context"
	"errors"
	"io/fs"
	"math/rand/v2"
	"time"

	"github.com/coditect/usher/client/receipt"
)

const (
	// nap is the longest that the keeper sleeps in one go: timers stand still while the machine sleeps, so that it looks at the
	// clock now and then.
	nap = 5 * time.Second
	// Between attempts that were not answered it waits from soonest on, longer each time.
	soonest = 500 * time.Millisecond
	latest  = 30 * time.Second
	// shortest is the least that a heartbeat waits for its answer.
	shortest = time.Second
)

// keeper keeps a seat in the background, and is the only one that changes what is believed while it does.
type keeper struct {
	*Seat

	body []byte // of a quest
	// beat is how long the service wants to hear nothing, due is when to ask next.
	beat time.Duration
	due  instant
	// quest is what is asked when there is no session any more.
	quest *quest
	// failures counts attempts without an answer, and told is the trouble that the host was last told of.
	failures int
	told     Event
	place    Place
	draining bool
}

// newKeeper begins where the first quest has led to.
func newKeeper(s *Seat, body []byte, first *quest, beat time.Duration) *keeper {
	k := &keeper{Seat: s, body: body, quest: first, beat: beat, due: s.line.now().add(beat - jitter(beat/10))}
	if s.Status().Offline {
		k.told.Kind = Unreachable // the host sees it in the seat's Status
	}
	return k
}

// keep is the keeper's life.
func (k *keeper) keep() {
	var end Event
	if no := k.stillOffline(); no != nil {
		k.lapse(no)
	}
	for end.Kind == "" {
		now := k.line.now()
		if promise := k.promise(); promise > 0 && now >= promise {
			k.lapse(k.told.Err)
		}
		switch {
		case k.ctx.Err() != nil:
			end = Event{Kind: Released, At: time.Now()}
		case now < k.due:
			k.rest(now)
		case k.bearer() != "":
			end = k.heartbeat(now)
		default:
			end = k.reacquire()
		}
	}
	k.finish(end)
}

// rest waits until something is due or the promise ends, a nap at most.
func (k *keeper) rest(now instant) {
	next := k.due
	if promise := k.promise(); promise > 0 {
		next = min(next, promise)
	}
	timer := time.NewTimer(min(now.until(next), nap))
	defer timer.Stop()
	select {
	case <-k.ctx.Done():
	case <-k.kick:
	case <-timer.C:
	}
}

// beaten is the answer to a heartbeat.
type beaten struct {
	SeatNo                int       `json:"seat_no"`
	ExpiresAt             time.Time `json:"expires_at"`
	TTLSeconds            int64     `json:"ttl_seconds"`
	HeartbeatAfterSeconds int64     `json:"heartbeat_after_seconds"`
	Draining              bool      `json:"draining"`
	DrainUntil            time.Time `json:"drain_until"`
	ActiveSeats           int       `json:"active_seats"`
	MaxSeats              int       `json:"max_seats"`
}

// heartbeat asks for the lease to be extended, and answers how the seat ended, if it did.
func (k *keeper) heartbeat(now instant) Event {
	patience := attempt
	if promise := k.promise(); promise > 0 {
		left := now.until(promise)
		patience = min(patience, max(k.beat/2, left/2), left) // so that there is time for another, and the end is told in time
		patience = max(patience, shortest)
	}
	ctx, cancel := context.WithTimeout(k.ctx, patience)
	defer cancel()
	var a beaten
	token := k.bearer()
	_, sent, err := k.line.send(ctx, message{path: "/v1/heartbeat", body: []byte("{}"), token: token}, &a)
	ttl := seconds(a.TTLSeconds)
	if err == nil && (ttl == 0 || k.line.now() >= sent.add(ttl)) {
		err = &silence{cause: errors.New("its answer came when the lease was over")}
	}
	var refusal *Refusal
	switch {
	case k.ctx.Err() != nil:
		return Event{}
	case err == nil:
		before := k.Status()
		k.confirm(&grant{
			session: before.SessionID, token: token, until: sent.add(ttl), beat: seconds(max(a.HeartbeatAfterSeconds, 1)),
			status: Status{
				SessionID: before.SessionID, SeatNo: a.SeatNo, Overdraft: before.Overdraft, ActiveSeats: a.ActiveSeats, MaxSeats: a.MaxSeats,
				TTL: ttl, ExpiresAt: a.ExpiresAt, Draining: a.Draining, DrainUntil: a.DrainUntil,
			},
		})
		k.recheck(before.SessionID, k.beat/2)
		return Event{}
	case !errors.As(err, &refusal):
		k.retry(err)
		return Event{}
	case refusal.Code == "seat_evicted":
		return lost(refusal)
	case refusal.Status == 410:
		k.forget()
		k.drawer.discard(k.Status().SessionID)
		k.lapse(refusal)
		return Event{}
	case refusal.Code == "seat_token_invalid":
		k.forget() // and believe on: what was promised holds, and the same holder gets its own seat back
		return Event{}
	default:
		k.retry(err)
		return Event{}
	}
}

// forget gives up the session: a seat is asked for anew, at once.
func (k *keeper) forget() {
	k.mu.Lock()
	k.token = ""
	k.mu.Unlock()
	k.quest, k.failures, k.due = newQuest(k.line, k.body), 0, k.line.now()
}

// reacquire asks for a seat again, and answers how that ended for good, if it did.
func (k *keeper) reacquire() Event {
	g, place, poll, err := k.quest.ask(k.ctx)
	var refusal *Refusal
	switch {
	case k.ctx.Err() != nil:
		return Event{}
	case g != nil:
		k.confirm(g)
		k.recheck(g.session, g.beat/2)
	case place != nil:
		k.failures, k.due = 0, k.line.now().add(poll)
		if *place != k.place {
			k.place = *place
			k.tell(Event{Kind: Waiting, Place: *place, At: time.Now()})
		}
		k.recheck("", poll)
	case !errors.As(err, &refusal):
		k.retry(err)
	case refusal.final():
		if refusal.withdrawn() {
			k.drawer.empty()
		}
		return lost(refusal)
	default:
		k.retry(err)
		k.recheck("", k.beat/2)
	}
	return Event{}
}

// confirm believes in a grant.
func (k *keeper) confirm(g *grant) {
	before := k.Status().SessionID
	k.believe(g)
	k.failures, k.beat = 0, g.beat
	k.due = k.line.now().add(g.beat - jitter(g.beat/10))
	switch news := (Event{At: time.Now()}); {
	case g.session != before:
		news.Kind = Reacquired
		k.tell(news)
	case k.told.Kind != "":
		news.Kind = Confirmed
		k.tell(news)
	}
	k.told, k.place = Event{}, Place{}
	if g.status.Draining && !k.draining {
		k.tell(Event{Kind: Draining, At: time.Now(), Until: g.status.DrainUntil})
	}
	k.draining = g.status.Draining
}

// retry waits a little before the next attempt: as long as was asked for, but not as long as a heartbeat, so that the truth
// is heard within one of them.
func (k *keeper) retry(err error) {
	pause := min(soonest<<min(k.failures, 10), latest, max(k.beat/2, soonest))
	k.failures++
	pause -= jitter(pause / 2)
	if asked := retryAfter(err); asked > 0 {
		pause = max(pause, min(asked, max(k.beat-k.beat/10, soonest)))
		pause += jitter(pause / 10)
	}
	if !k.Status().BorrowedUntil.IsZero() {
		pause = max(pause, offlinePace) // the machine is meant to be offline
		if no := k.stillOffline(); no != nil {
			err = no
			k.doubt(no)
		}
	}
	now := k.line.now()
	k.due = now.add(pause)
	if promise := k.promise(); promise > now {
		if k.told.Kind == "" {
			trouble := because(Unreachable, err)
			trouble.Until = time.Now().Add(now.until(promise))
			k.told = trouble
			k.tell(trouble)
		}
		return
	}
	k.lapse(err)
}

// stillOffline looks at the receipt again by which alone the seat is believed in, so that a clock that is set back is noticed,
// and what was withdrawn, where the revocation list at least can be had. It answers why the receipt is not believed, or that it
// is gone, because another program of the device has heard that it is void. That it cannot be looked at now, or its seal not be
// renewed, is no reason: what was promised holds, and it is looked at again in a minute.
func (k *keeper) stillOffline() error {
	if !k.Status().Offline {
		return nil
	}
	r, err := k.drawer.glance()
	if errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err == nil {
		ctx, cancel := context.WithTimeout(k.ctx, leaving)
		defer cancel()
		k.drawer.refresh(ctx, k.line, r.License)
	}
	_, _, err = k.drawer.get(k.ctx)
	if _, refused := errors.AsType[*receipt.Refusal](err); refused {
		return err
	}
	return nil
}

// recheck looks at a kept receipt of another session than the service has just told of, and stops believing in that one where it
// was withdrawn: whoever only waits for a seat, or is refused one, may believe in it still.
func (k *keeper) recheck(session string, patience time.Duration) {
	withdrawn, no := k.drawer.recheck(k.ctx, k.line, session, patience)
	if no != nil && withdrawn == k.Status().SessionID && k.promise() > 0 {
		k.lapse(no)
	}
}

// lapse stops believing, and says so when that is news.
func (k *keeper) lapse(err error) {
	news := because(Lapsed, err)
	if k.told.Kind == Lapsed && (news.Code == "" || news.Code == k.told.Code) {
		k.doubt(lapsed(k.told.Err)) // that nobody answers is not why
		return
	}
	k.doubt(lapsed(err))
	k.told = news
	k.tell(news)
}

// because is an event with what an error says of its reason.
func because(kind Kind, err error) Event {
	e := Event{Kind: kind, At: time.Now(), Err: err}
	if refusal, ok := errors.AsType[*Refusal](err); ok {
		e.Code, e.Reason, e.By = refusal.Code, refusal.Reason, refusal.EndedBy
		if !refusal.EndedAt.IsZero() {
			e.At = refusal.EndedAt
		}
	}
	return e
}

func lost(refusal *Refusal) Event { return because(Lost, refusal) }

// tell tells the host, who need not listen.
func (k *keeper) tell(e Event) {
	for {
		select {
		case k.events <- e:
			return
		default:
		}
		select {
		case <-k.events:
		default:
		}
	}
}

// finish stops believing first, then gives back what there is, and then says so.
func (k *keeper) finish(end Event) {
	why := ErrReleased
	if end.Kind == Lost {
		why = end.Err
	}
	session, token := k.end(end.Kind, why)
	if end.Kind == Lost {
		k.drawer.discard(session)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(k.ctx), leaving)
	defer cancel()
	switch {
	case k.stays:
	case token != "":
		k.giveBack(ctx, token)
		k.drawer.discard(session) // of a Borrow that is not over yet
	case end.Kind == Released:
		k.quest.giveUp(ctx)
	}
	k.leave()
	k.line.hang()
	k.tell(end)
	close(k.events)
	close(k.done)
}

// giveBack tries a few times.
func (s *Seat) giveBack(ctx context.Context, token string) {
	for try := range 3 {
		err := release(ctx, s.line, token)
		if !errors.Is(err, ErrUnreachable) || !sleep(ctx, soonest/2<<try) {
			return
		}
	}
}

// jitter is a random part of d, so that those who began together do not go on together.
func jitter(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return rand.N(d) //nolint:gosec // a pace is no secret
}
