package functiontest_test

import (
	"testing"

	"github.com/google/uuid"

	. "github.com/coditect/usher/functions/all/functiontest"
)

func TestTheJudgeSeesWhatMustNotBe(t *testing.T) {
	t.Parallel()
	license, a, b, c := uuid.New(), uuid.New(), uuid.New(), uuid.New()
	life := func(session uuid.UUID, seat int, from, until Instant) Life {
		return Life{License: license, Session: session, Seat: seat, From: from, Until: until}
	}
	refused := life(a, 1, 0, 10)
	refused.Refused = "410"
	renewed := life(a, 1, 0, 30)
	renewed.Renewed = 20
	revived := life(a, 1, 0, 10)
	revived.Revived = 11
	for name, of := range map[string]struct {
		lives     []Life
		evictions []Eviction
		failovers []Span
		want      Verdict
	}{
		"one after the other":              {lives: []Life{life(a, 1, 0, 10), life(b, 2, 0, 20), life(c, 1, 10, 20)}, want: Verdict{Most: 2}},
		"three in two seats":               {lives: []Life{life(a, 1, 0, 10), life(b, 2, 0, 20), life(c, 3, 9, 20)}, want: Verdict{Most: 3, Over: 1}},
		"two in one seat":                  {lives: []Life{life(a, 1, 0, 10), life(b, 1, 9, 20)}, want: Verdict{Most: 2, Shared: 1}},
		"a session twice":                  {lives: []Life{life(a, 1, 0, 10), life(a, 1, 5, 20)}, want: Verdict{Most: 1}},
		"refused":                          {lives: []Life{refused}, want: Verdict{Most: 1, Lost: []string{""}}},
		"evicted":                          {lives: []Life{refused}, evictions: []Eviction{{Session: a}}, want: Verdict{Most: 1}},
		"renewed before":                   {lives: []Life{renewed}, evictions: []Eviction{{Session: a, Answered: 21}}, want: Verdict{Most: 1}},
		"renewed after":                    {lives: []Life{renewed}, evictions: []Eviction{{Session: a, Answered: 14}}, want: Verdict{Most: 1, Revived: []string{""}}},
		"renewed before the pool was told": {lives: []Life{renewed}, evictions: []Eviction{{Session: a, Answered: 16}}, want: Verdict{Most: 1}},
		"revived":                          {lives: []Life{revived}, failovers: []Span{{From: 1, To: 10}}, want: Verdict{Most: 1, Revived: []string{""}}},
		"recalled":                         {lives: []Life{revived}, failovers: []Span{{From: 1, To: 11}}, want: Verdict{Most: 1, Recalled: 1}},
		"evicted, and had not heard":       {lives: []Life{life(a, 1, 0, 10), life(b, 1, 9, 20)}, evictions: []Eviction{{Session: a, Answered: 3}}, want: Verdict{Most: 2, Shared: 1}},
	} {
		got := Judge(Case{Lives: of.lives, Seats: map[uuid.UUID]int{license: 2}, Evictions: of.evictions, Failovers: of.failovers, Told: 5})
		if got.Most != of.want.Most || got.Over != of.want.Over || got.Shared != of.want.Shared || len(got.Lost) != len(of.want.Lost) ||
			len(got.Revived) != len(of.want.Revived) || got.Recalled != of.want.Recalled {
			t.Errorf("%s: judged %+v, want %+v", name, got, of.want)
		}
		if holds := got.Over+got.Shared+len(got.Lost)+len(got.Revived) == 0; got.Holds() != holds {
			t.Errorf("%s: holds is %v", name, got.Holds())
		}
	}
}
