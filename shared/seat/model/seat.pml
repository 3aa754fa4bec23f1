/* The seat protocol as shared/seat and migrations/00006_sessions.sql have it, small enough to look at every one of its states.

   One licence with S seats; N programs that ask for a seat, for H holders (as many programs for each); at most K sessions that
   a program begins; F losses of Redis; G rebuilds by B rebuilders at once; E evictions; with X, who asks may be refused when it has a
   reservation already (a newer limit, one device too many, facts that changed). Any step of any call
   may be its last: who asked begins anew, and whether the call died or its answer was lost is the same to it.

   An evicted holder that asks again waits for its old seat here; acquire.lua takes it off that seat, since who asks does not
   believe in it any more.

   A step is one script in Redis or one transaction in PostgreSQL. The environment variable WITHOUT takes one safeguard
   away: one that is worth having then breaks an assertion. */

#ifndef N
#define N 2
#endif
#ifndef H
#define H N
#endif
#ifndef S
#define S 1
#endif
#ifndef K
#define K 1
#endif
#ifndef F
#define F 1
#endif
#ifndef G
#define G 2
#endif
#ifndef B
#define B 1
#endif
#ifndef W
#define W 1
#endif
#ifndef E
#define E 0
#endif
#ifndef X
#define X 0
#endif

c_decl {
	\#include <stdio.h>
	\#include <stdlib.h>
	\#include <string.h>
	enum { nothing, row_before_answer, row_of_existing, confirm, incarnation, incarnation_of_touch, incarnation_of_rebuild,
		epoch_of_opening, epoch_of_closing, floor_of_belief, floor_of_demoted, unique_seat, no_revival, newer_epoch, row_lock,
		staged_count, evicted_seat, unheard_seat, refused_row, epoch_of_existing, reservation_alone, safeguards };
	const char *names[] = { "nothing", "row_before_answer", "row_of_existing", "confirm", "incarnation", "incarnation_of_touch",
		"incarnation_of_rebuild", "epoch_of_opening", "epoch_of_closing", "floor_of_belief", "floor_of_demoted", "unique_seat",
		"no_revival", "newer_epoch", "row_lock", "staged_count", "evicted_seat", "unheard_seat", "refused_row", "epoch_of_existing",
		"reservation_alone" };
	int without = nothing;
}
#define WITHOUT(safeguard) c_expr { without == safeguard }

/* Times in ticks. All clocks are one clock here, so the allowance between them is nothing. */
#define V 2 /* how long a holder may believe */
#define P 1 /* life of a reservation */
#ifndef R
#define R 1 /* how long a demoted primary still answers; 0: not at all */
#endif
#define FLOOR (WITHOUT(floor_of_belief) -> 0 : (WITHOUT(floor_of_demoted) -> V : V + R))

/* Sessions are numbered; sets of them are bits. */
#define M (N * K)
#define NOBODY M
#define HOLDER(x) (((x) / K) % H)
#define BIT(x) (1 << (x))

/* PostgreSQL: the rows of sessions, and the licence's row. */
#define OPEN 1
#define ENDED 2
byte row[M];
bit evicted[M];
byte epoch;
bit locked; /* by a rebuild: openings and closings on evidence wait */

/* Redis: two servers, of which one is the primary. The other is a replica that has fallen behind, once the link to it was
   cut; after it was promoted, the demoted primary, for as long as that answers. */
#define RESERVED 1
#define CONFIRMED 2
#define EVICTED 3
#define DIRTY 4
typedef Pool {
	byte incarnation; /* of the server */
	bit foreign;      /* the pool was built under another one */
	byte epoch;       /* 0: there is no pool */
	byte mark[M];
	byte left[M];     /* ticks until it is reaped */
	byte own[H]       /* the holder's session, and one; or 0 */
}
Pool redis[2];
bit primary;
byte incarnations;
bit behind;         /* the other is a replica whose link is cut */
byte demoted;       /* ticks for which the other is a demoted primary that answers */
byte staged[B];     /* what each rebuilder staged, in the keys of its epoch */

/* What is no store's to forget: the seat a session was reserved, and how long its holder believes. */
byte seat[M];
byte belief[M];  /* ticks */
byte promise[N]; /* ticks that a yes is worth to who waits for it: V from sending */
#define BELIEVED(x) (belief[x] > 0)

byte losses, builds;
hidden byte i, n;

/* S1: open sessions hold distinct seats. S2: who believes has an open row. Together: no more believe than there are seats. */
inline check() {
	n = 0;
	for (i : 0 .. M - 1) {
		if :: BELIEVED(i) -> n++; assert(row[i] == OPEN) /* S2 */ :: else fi
	}
	assert(n <= S)
}

/* Which server a connection leads to. */
#define DEMOTED (demoted > 0)
inline connect() { if :: to = primary :: DEMOTED -> to = 1 - primary fi }

#define USABLE (redis[to].epoch != 0 && (!redis[to].foreign || WITHOUT(incarnation)))
#define SITS(x) (redis[to].mark[x] == RESERVED || redis[to].mark[x] == CONFIRMED || redis[to].mark[x] == EVICTED)

/* lib.lua: free_session, reap */
inline free(x) {
	redis[to].mark[x] = DIRTY;
	redis[to].left[x] = 0;
	if :: redis[to].own[HOLDER(x)] == x + 1 -> redis[to].own[HOLDER(x)] = 0 :: else fi
}
inline reap() {
	for (i : 0 .. M - 1) {
		if :: SITS(i) && redis[to].left[i] == 0 -> free(i) :: else fi
	}
}

/* session_close for one session. A row that is closed on evidence was its holder's whole claim. */
inline close(x) {
	if :: row[x] == OPEN -> assert(!BELIEVED(x)) /* S2 */; row[x] = ENDED; evicted[x] = 0 :: else fi
}

#define YES 1
#define NO 2
#define UNKNOWN 3
#define REBUILD 4
/* touch.lua. The sessions in gone are those whose rows were closed with the opening. */
inline touch(confirming) {
	if
	:: redis[to].epoch == 0 || redis[to].foreign && !WITHOUT(incarnation_of_touch) -> answer = REBUILD
	:: redis[to].mark[x] == RESERVED && !confirming -> answer = REBUILD /* the acquire is under way: ask again */
	:: SITS(x) && redis[to].mark[x] != EVICTED && (redis[to].left[x] > 0 || WITHOUT(no_revival)) ->
		if
		:: redis[to].mark[x] == RESERVED -> redis[to].mark[x] = CONFIRMED; redis[to].left[x] = V
		:: redis[to].left[x] < V -> redis[to].left[x] = V
		:: else
		fi;
		for (i : 0 .. M - 1) {
			if :: (gone & BIT(i)) && redis[to].mark[i] == DIRTY -> redis[to].mark[i] = 0 :: else fi
		}
		answer = YES
	:: else ->
		answer = (redis[to].mark[x] == 0 -> UNKNOWN : NO);
		if :: SITS(x) && (redis[to].left[x] == 0 || WITHOUT(unheard_seat)) -> free(x) :: else fi
		/* L2: nobody hears that its lease is over while it runs, unless from a demoted primary, or because of one. */
		assert(R > 0 || answer == UNKNOWN || !BELIEVED(x) || evicted[x])
	fi
}

/* What a program does not know any more when it begins anew. */
inline forget() { d_step { x = NOBODY; promise[c] = 0; decided = 0; gone = 0; answer = 0; to = 0 } }

inline believe() {
	if :: belief[x] < promise[c] -> belief[x] = promise[c] :: else fi;
	check();
	promise[c] = 0
}

/* One program. To send a request is one step with its first script: sent earlier, it is worth less. */
proctype Client(byte c) {
	byte x = NOBODY, begun, decided, gone, answer;
	bit to;
idle:
	atomic { connect(); d_step { /* acquire.lua */
		if
		:: USABLE ->
			reap();
			if
			:: redis[to].own[HOLDER(c * K)] != 0 -> x = redis[to].own[HOLDER(c * K)] - 1
			:: else ->
				n = 0; /* the seats that are taken */
				for (i : 0 .. M - 1) {
					if :: SITS(i) -> n = n | BIT(seat[i]) :: else fi
				}
				i = 0;
				do :: i < S && (n & BIT(i)) -> i++ :: else -> break od;
				if
				:: i < S && begun < K ->
					x = c * K + begun;
					begun++;
					seat[x] = i;
					redis[to].mark[x] = RESERVED;
					redis[to].left[x] = P;
					redis[to].own[HOLDER(x)] = x + 1
				:: else
				fi
			fi;
			if
			:: x != NOBODY ->
				promise[c] = V;
				decided = redis[to].epoch;
				for (i : 0 .. M - 1) {
					if :: redis[to].mark[x] == RESERVED && redis[to].mark[i] == DIRTY && seat[i] == seat[x] -> gone = gone | BIT(i) :: else fi
				}
			:: else
			fi
		:: else
		fi;
		to = 0 };
		if :: x == NOBODY -> goto idle :: else fi;
		if :: WITHOUT(row_before_answer) -> believe(); promise[c] = V :: else fi;
		if :: WITHOUT(row_of_existing) && x != c * K + begun - 1 -> goto confirming :: else fi
	}
opening:
	if
	:: atomic { !locked -> d_step { /* seat_open */
		if
		:: row[x] == OPEN && (decided == epoch || WITHOUT(epoch_of_existing)) -> answer = YES
		:: row[x] == ENDED -> answer = NO
		:: row[x] != ENDED && decided != epoch && !WITHOUT(epoch_of_opening) && !(row[x] == OPEN && WITHOUT(epoch_of_existing)) -> answer = REBUILD
		:: else ->
			answer = YES;
			for (i : 0 .. M - 1) {
				if :: gone & BIT(i) -> close(i) :: else fi
			}
			for (i : 0 .. M - 1) {
				if :: row[i] == OPEN && i != x && seat[i] == seat[x] && !WITHOUT(unique_seat) -> answer = REBUILD :: else fi
			}
			if
			:: answer == YES ->
				row[x] = OPEN;
				for (i : 0 .. M - 1) {
					assert(i == x || row[i] != OPEN || seat[i] != seat[x]) /* S1 */
				}
			:: else
			fi
		fi };
		if
		:: answer == REBUILD -> forget(); goto idle
		:: answer == NO -> goto giving
		:: else -> answer = 0; if :: WITHOUT(confirm) -> goto answering :: else fi
		fi }
	:: X -> goto refused
	:: forget(); goto idle
	fi;
confirming:
	if
	:: atomic { connect(); d_step {
		touch(1);
		gone = 0; to = 0 };
		if
		:: answer == YES -> answer = 0; decided = 0; goto answering
		:: answer != YES && answer != REBUILD && WITHOUT(refused_row) -> answer = 0; promise[c] = 0
		:: else -> forget(); goto idle
		fi }
	:: forget(); goto idle
	fi;
	atomic { !locked -> if :: decided == epoch -> d_step { close(x) } :: else fi; forget(); goto idle };
refused: /* the reservation is given back, unless the holder's other request was told yes of it meanwhile */
	if
	:: atomic { connect(); d_step { if :: SITS(x) && (redis[to].mark[x] == RESERVED || WITHOUT(reservation_alone)) -> free(x) :: else fi }; forget(); goto idle }
	:: forget(); goto idle
	fi;
giving: /* the pool has a session that has ended */
	if
	:: atomic { connect(); d_step { if :: SITS(x) -> free(x) :: else fi }; forget(); goto idle }
	:: forget(); goto idle
	fi;
answering:
	if
	:: atomic { d_step { decided = 0; gone = 0; believe() } }
	:: forget(); goto idle
	fi;
hold:
	if
	:: atomic { promise[c] = V; connect(); d_step { touch(0); to = 0 };
		if :: answer == REBUILD -> answer = 0; promise[c] = 0; goto hold :: else fi };
		if
		:: atomic { answer == YES -> answer = 0; d_step { believe() }; goto hold } /* S4: it has not ended */
		:: atomic { answer == UNKNOWN && row[x] == OPEN -> answer = 0; promise[c] = 0; goto hold }
		:: atomic { answer == NO || answer == UNKNOWN && row[x] != OPEN -> belief[x] = 0; forget(); goto idle }
		:: atomic { promise[c] = 0; answer = 0; goto hold } /* the answer is lost */
		fi
	:: atomic { H == N -> belief[x] = 0; connect(); d_step { if :: SITS(x) -> free(x) :: else fi; to = 0 } }; /* release: it stopped first */
		if
		:: atomic { d_step { close(x) }; forget(); goto idle } /* the holder's own word, so no epoch */
		:: forget(); goto idle
		fi
	:: atomic { belief[x] = 0; forget(); goto idle }
	:: forget(); goto idle /* it beats no more, and believes as long as it may */
	fi
}

/* The sweep: reads the rows, tidies the pool, closes on evidence, acknowledges. */
proctype Sweeper() {
	byte open, decided, gone;
	bit to;
	do
	:: d_step { for (i : 0 .. M - 1) { if :: row[i] == OPEN -> open = open | BIT(i) :: else fi } decided = epoch };
		atomic { connect(); d_step {
			if
			:: USABLE ->
				reap();
				for (i : 0 .. M - 1) {
					if :: redis[to].mark[i] == DIRTY || redis[to].mark[i] == 0 && (open & BIT(i)) -> gone = gone | BIT(i) :: else fi
				}
				if :: redis[to].epoch != decided -> gone = 0 :: else fi
			:: else
			fi;
			if :: gone == 0 -> decided = 0 :: else fi;
			open = 0; to = 0 } };
		if
		:: atomic { gone != 0 && !locked -> d_step {
			if
			:: decided == epoch || WITHOUT(epoch_of_closing) -> for (i : 0 .. M - 1) { if :: gone & BIT(i) -> close(i) :: else fi }
			:: else -> gone = 0
			fi;
			decided = 0 } };
			if
			:: atomic { gone != 0 -> connect(); d_step { for (i : 0 .. M - 1) { if :: (gone & BIT(i)) && redis[to].mark[i] == DIRTY -> redis[to].mark[i] = 0 :: else fi } gone = 0; to = 0 } }
			:: gone = 0
			fi
		:: d_step { gone = 0; decided = 0 }
		fi
	:: atomic { connect(); d_step { /* ghosts: what has ended opens no more, so to list and to look is one step */
		if :: USABLE -> for (i : 0 .. M - 1) { if :: SITS(i) && redis[to].mark[i] != RESERVED && row[i] == ENDED -> free(i) :: else fi } :: else fi;
		to = 0 } }
	od
}

inline read_rows() {
	for (i : 0 .. M - 1) {
		if :: row[i] == OPEN -> rows = rows | BIT(i); if :: evicted[i] -> marks = marks | BIT(i) :: else fi :: else fi
	}
	i = 0
}

/* A rebuild, at any moment: that the pool is cold, foreign or of another epoch, or that somebody saw pool and rows disagree.
   The sessions are staged in two parts. */
proctype Rebuilder(byte b) {
	byte saw, next, rows, marks;
	bit to;
	do
	:: atomic { builds < G && !locked -> builds++; connect(); saw = redis[to].incarnation; to = 0;
		if :: WITHOUT(row_lock) -> d_step { read_rows() } :: else -> locked = 1 fi };
		if
		:: d_step {
			epoch++;
			next = epoch;
			if :: locked -> read_rows() :: else fi;
			locked = 0;
			staged[b] = rows & BIT(0) };
			staged[b] = staged[b] | (rows & ~BIT(0))
		:: locked = 0
		fi;
		atomic {
			if
			:: next == 0
			:: next != 0 -> connect(); d_step { /* rebuild.lua */
				if
				:: redis[to].epoch >= next && !WITHOUT(newer_epoch)
				:: redis[to].epoch < next && saw != redis[to].incarnation && !WITHOUT(incarnation_of_rebuild)
				:: redis[to].epoch < next && saw == redis[to].incarnation && staged[b] != rows && !WITHOUT(staged_count)
				:: else ->
					for (i : 0 .. H - 1) { redis[to].own[i] = 0 }
					for (i : 0 .. M - 1) {
						if
						:: staged[b] & BIT(i) ->
							redis[to].mark[i] = (marks & BIT(i) -> EVICTED : CONFIRMED);
							redis[to].left[i] = FLOOR;
							if :: !(marks & BIT(i)) -> redis[to].own[HOLDER(i)] = i + 1 :: else fi
						:: else -> redis[to].mark[i] = 0; redis[to].left[i] = 0
						fi
					}
					redis[to].epoch = next;
					redis[to].foreign = 0
				fi }
			:: next != 0
			fi;
			d_step { staged[b] = 0; saw = 0; next = 0; rows = 0; marks = 0; to = 0 }
		}
	od
}

#if E > 0
/* An eviction: marked on the row, then told to the pool, again and again. */
proctype Evictor() {
	byte x, told;
	bit to;
	do
	:: atomic { told < E -> x = 0; do :: x < M - 1 -> x++ :: break od; if :: row[x] == OPEN && !evicted[x] -> evicted[x] = 1; told++ :: else fi; x = 0 }
	:: atomic { x = 0; do :: x < M - 1 -> x++ :: break od;
		if
		:: row[x] == OPEN && evicted[x] ->
			connect();
			d_step { /* evict.lua */
				if
				:: USABLE && (redis[to].mark[x] == RESERVED || redis[to].mark[x] == CONFIRMED) ->
					if :: WITHOUT(evicted_seat) -> free(x) :: else -> redis[to].mark[x] = EVICTED; if :: redis[to].own[HOLDER(x)] == x + 1 -> redis[to].own[HOLDER(x)] = 0 :: else fi fi
				:: else
				fi; to = 0 }
		:: else
		fi; x = 0 }
	od
}
#endif

inline wipe(at) {
	for (i : 0 .. M - 1) { redis[at].mark[i] = 0; redis[at].left[i] = 0 }
	for (i : 0 .. H - 1) { redis[at].own[i] = 0 }
	redis[at].epoch = 0;
	redis[at].foreign = 0
}

/* Time, and what befalls Redis. */
proctype World() {
	do
	:: d_step {
			for (i : 0 .. M - 1) {
				if :: belief[i] > 0 -> belief[i]-- :: else fi
				for (n : 0 .. 1) { if :: redis[n].left[i] > 0 -> redis[n].left[i]-- :: else fi }
			}
			for (i : 0 .. N - 1) { if :: promise[i] > 0 -> promise[i]-- :: else fi }
			if :: demoted > 0 -> demoted--; if :: demoted == 0 -> wipe(1 - primary); redis[1 - primary].incarnation = 0 :: else fi :: else fi
			n = 0
		}
	/* The link to the replica is cut … */
	:: d_step { losses < F && !behind && demoted == 0 ->
		behind = 1;
		for (i : 0 .. M - 1) { redis[1 - primary].mark[i] = redis[primary].mark[i]; redis[1 - primary].left[i] = redis[primary].left[i] }
		for (i : 0 .. H - 1) { redis[1 - primary].own[i] = redis[primary].own[i] }
		redis[1 - primary].epoch = redis[primary].epoch }
	/* … and it is promoted at some later time. */
	:: d_step { behind ->
		behind = 0; losses++; incarnations++;
		primary = 1 - primary;
		redis[primary].incarnation = incarnations;
		redis[primary].foreign = redis[primary].epoch != 0;
		if :: R > 0 -> demoted = R + 1 :: else -> wipe(1 - primary); redis[1 - primary].incarnation = 0 fi; n = 0 }
	/* A restart without what was stored. */
	:: d_step { losses < F && !behind -> losses++; incarnations++; wipe(primary); redis[primary].incarnation = incarnations }
	/* FLUSHALL: the incarnation stays. */
	:: d_step { losses < F && !behind -> for (i : 0 .. B - 1) { staged[i] = 0 } losses++; wipe(primary) }
	od
}

init {
	c_code {
		const char *name = getenv("WITHOUT");
		if (name) {
			for (without = 1; without < safeguards && strcmp(name, names[without]); without++) ;
			if (without == safeguards) { fprintf(stderr, "no safeguard %s\n", name); exit(2); }
		}
	};
	atomic {
		epoch = 1; incarnations = 1;
		redis[0].epoch = 1; redis[0].incarnation = 1;
		byte p = 0;
		do :: p < N -> run Client(p); p++ :: else -> break od;
		p = 0;
		do :: p < B -> run Rebuilder(p); p++ :: else -> break od;
		p = 0;
		if :: W > 0 -> run Sweeper() :: else fi;
#if E > 0
		run Evictor();
#endif
		run World()
	}
}
