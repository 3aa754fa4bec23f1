/* The queue of shared/seat as acquire.lua and lib.lua have it, and the borrow as session_borrow, borrow.lua and stage.lua have it,
   its low-water mark included. seat.pml shows that rows and pool agree; so to sit down is one step
   here, with its row, unless it comes to nothing after the reservation.

   One licence with S seats and H holders, of which those that find it full may wait (Q); seats are lent for up to U ticks
   (0: not at all), all but R; L losses of Redis; G rebuilds, one at a time. A holder may be silent from any step on, for ever or not.

   A step is one script in Redis or one transaction in PostgreSQL. The environment variable WITHOUT takes one safeguard away:
   one that is worth having then breaks an assertion. */

#ifndef H
#define H 3
#endif
#ifndef S
#define S 2
#endif
#ifndef Q
#define Q 1
#endif
#ifndef U
#define U 0
#endif
#ifndef R
#define R 0
#endif
#ifndef L
#define L 0
#endif
#ifndef G
#define G 1
#endif

c_decl {
	\#include <stdio.h>
	\#include <stdlib.h>
	\#include <string.h>
	enum { nothing, free_seats, length_of_queue, rank, ticket, poll, silent_waiter, admitted_waiter, left_place, queue_of_rebuild,
		lapsed_seat, row_of_borrow, epoch_of_borrow, score_of_borrow, borrow_of_rebuild, longer_borrow, longer_score, low_water_mark, lock_of_mark, safeguards };
	const char *names[] = { "nothing", "free_seats", "length_of_queue", "rank", "ticket", "poll", "silent_waiter",
		"admitted_waiter", "left_place", "queue_of_rebuild", "lapsed_seat", "row_of_borrow", "epoch_of_borrow", "score_of_borrow",
		"borrow_of_rebuild", "longer_borrow", "longer_score", "low_water_mark",
		"lock_of_mark" };
	int without = nothing;
}
#define WITHOUT(safeguard) c_expr { without == safeguard }

/* Times in ticks, of which a poll is one. All clocks are one clock here, so the allowance between them is nothing. */
#define V 2     /* a lease, and so the floor of a rebuild */
#define P 1     /* life of a reservation */
#define GRACE 3 /* polls after which a waiter has lost its place */

#define MAX(a, b) ((a) > (b) -> (a) : (b))
#define BIT(x) (1 << (x))

/* PostgreSQL: the holders' rows. */
bit row[H];
byte until[H]; /* borrowed_until */
byte epoch;

/* Redis: the pool, and, once the link to it is cut, the replica that has fallen behind. */
typedef Pool {
	byte epoch;   /* 0: there is no pool */
	bit foreign;  /* the pool was built under another incarnation */
	bit sits[H];
	bit reserved[H];
	byte left[H]; /* ticks until it is reaped */
	byte line[H]; /* waiting holders by ticket, each and one; or 0 */
	byte poll[H]  /* ticks until a waiter loses its place */
}
Pool pool, replica;
bit behind;
#define USABLE (pool.epoch != 0 && !pool.foreign)

/* What is promised, by what the holders heard and did. */
byte belief[H]; /* ticks */
byte lent[H];   /* ticks until the end of the borrow that its holder was told */
byte taken[H];  /* ticks for which the holder keeps others from a seat, at the longest */
bit waits[H];
byte silent[H]; /* ticks since it last asked */
byte before[H]; /* who had a place when it came */
#define KEPT(x) (waits[x] && silent[x] < GRACE)

byte losses, builds;
hidden byte i, n, k, m;

/* Whoever believes has an open row, that of a borrower says until when, no more believe than there are seats, and no more
   borrow than may. */
inline check() {
	n = 0; k = 0;
	for (i : 0 .. H - 1) {
		if :: belief[i] > 0 -> n++; assert(row[i]) :: else fi;
		if :: until[i] > 0 -> k++ :: else fi;
		assert(lent[i] <= until[i])
	}
	assert(n <= S);
	assert(k <= S - R)
}

/* How many others borrow: whether that reaches the mark. */
inline count(c) {
	k = 0;
	for (i : 0 .. H - 1) { if :: i != c && until[i] > 0 -> k++ :: else fi }
	marked = k >= S - R && !WITHOUT(low_water_mark)
}

inline close(x) { assert(belief[x] == 0); row[x] = 0; until[x] = 0 }

inline believe(x, ticks) {
	belief[x] = MAX(belief[x], ticks);
	taken[x] = MAX(taken[x], ticks);
	check()
}

/* Takes a holder out of the line. */
inline leave(x) {
	k = 0;
	for (i : 0 .. H - 1) {
		if
		:: pool.line[i] == x + 1
		:: pool.line[i] != x + 1 && pool.line[i] != 0 -> m = pool.line[i]; pool.line[i] = 0; pool.line[k] = m; k++
		:: else
		fi;
		if :: pool.line[i] == x + 1 -> pool.line[i] = 0 :: else fi
	}
	pool.poll[x] = 0
}
inline forgo(x) {
	for (i : 0 .. H - 1) { before[i] = before[i] & ~BIT(x) }
	waits[x] = 0; silent[x] = 0; before[x] = 0
}

/* lib.lua: reap */
inline reap() {
	for (n : 0 .. H - 1) {
		if :: pool.sits[n] && pool.left[n] == 0 && !WITHOUT(lapsed_seat) -> pool.sits[n] = 0; pool.reserved[n] = 0 :: else fi;
		if :: pool.poll[n] == 0 && !WITHOUT(silent_waiter) -> leave(n) :: else fi
	}
}

#define FULL 1
#define ADMITTED 2
#define OWN 3
/* acquire.lua, as far as the reservation. Fewer wait before whom it admits than seats are free, and only then. */
inline reserve(c) {
	reap();
	if
	:: pool.sits[c] -> leave(c); forgo(c); answer = OWN
	:: else ->
		k = 0; m = H; /* how many sit, and its rank */
		for (i : 0 .. H - 1) {
			if :: pool.sits[i] -> k++ :: else fi;
			if :: pool.line[i] == c + 1 -> m = i :: else fi
		}
		ranked = m < H;
		n = 0; /* the length of the queue */
		for (i : 0 .. H - 1) { if :: pool.line[i] != 0 -> n++ :: else fi }
		if
		:: ranked && WITHOUT(rank) -> m = 0
		:: !ranked -> m = (WITHOUT(length_of_queue) -> 0 : n)
		:: else
		fi;
		answer = (m + k < S || WITHOUT(free_seats) && m + k == S -> ADMITTED : FULL);
		/* What it should have been. */
		n = 0; k = 0; m = 0; /* who wait before it; who keep a seat; who believe */
		for (i : 0 .. H - 1) {
			if :: i != c && KEPT(i) && (!KEPT(c) || (before[c] & BIT(i))) -> n++ :: else fi;
			if :: taken[i] > 0 -> k++ :: else fi;
			if :: belief[i] > 0 -> m++ :: else fi
		}
		assert(answer == FULL || n + m < S);
		assert(answer == ADMITTED || n + k >= S);
		if
		:: answer == ADMITTED ->
			if :: !WITHOUT(admitted_waiter) -> leave(c) :: else fi;
			forgo(c);
			pool.sits[c] = 1; pool.reserved[c] = 1; pool.left[c] = P;
			taken[c] = P
		:: else
		fi
	fi
}

/* A place in the queue. */
inline queue(c) {
	if :: ranked && WITHOUT(ticket) -> leave(c); ranked = 0 :: else fi;
	if
	:: ranked && WITHOUT(poll)
	:: else -> pool.poll[c] = GRACE
	fi;
	if
	:: !ranked -> i = 0; do :: pool.line[i] != 0 -> i++ :: else -> break od; pool.line[i] = c + 1
	:: else
	fi;
	if
	:: KEPT(c)
	:: else ->
		forgo(c);
		waits[c] = 1;
		for (i : 0 .. H - 1) { if :: i != c && KEPT(i) -> before[c] = before[c] | BIT(i) :: else fi }
	fi;
	silent[c] = 0
}

/* seat_open, which closes the rows of those who are gone from the pool, and the confirmation. */
inline sit(c) {
	for (i : 0 .. H - 1) { if :: row[i] && (!pool.sits[i] || i == c && pool.reserved[c]) -> close(i) :: else fi }
	row[c] = 1;
	pool.left[c] = (pool.reserved[c] -> V : MAX(pool.left[c], V));
	pool.reserved[c] = 0;
	believe(c, V)
}

proctype Holder(byte c) {
	byte answer;
	bit ranked;
#if U > 0
	byte decided; /* the epoch of the row that says until when */
	bit counted, marked; /* how many others borrow; that they are as many as may */
#endif
	do
	:: atomic { USABLE -> d_step { reserve(c) };
		if
		:: answer == FULL && Q > 0 -> d_step { queue(c) }
		:: answer == FULL
		:: answer != FULL && pool.epoch == epoch -> d_step { sit(c) }
		:: answer != FULL /* comes to nothing, or has another epoch */
		fi;
		d_step { answer = 0; ranked = 0 } }
	:: d_step { USABLE && waits[c] -> if :: !WITHOUT(left_place) -> leave(c) :: else fi; forgo(c) }
	:: d_step { USABLE && pool.sits[c] && !pool.reserved[c] && pool.left[c] > 0 && belief[c] > 0 -> /* touch.lua */
		pool.left[c] = (WITHOUT(longer_score) -> V : MAX(pool.left[c], V));
		believe(c, V) }
	:: atomic { USABLE && pool.sits[c] && belief[c] > 0 -> /* release: it stopped first */
		d_step { belief[c] = 0; lent[c] = 0; taken[c] = 0; pool.sits[c] = 0; pool.reserved[c] = 0; pool.left[c] = 0 };
		if :: d_step { close(c) } :: skip fi }
#if U > 0
	/* To borrow: the row says until when, in the epoch that is, and not when as many others borrow as may, which is counted
	   under the licence's lock; then the pool of that epoch; then the holder hears it. A borrow never ends earlier than one
	   before it. That the session has a row stands for its fence. */
	:: d_step { WITHOUT(lock_of_mark) && !counted -> count(c); counted = 1 }
	:: atomic { row[c] && belief[c] > 0 && (counted || !WITHOUT(lock_of_mark)) ->
		d_step { if :: !counted -> count(c) :: else fi; counted = 0 };
		if
		:: WITHOUT(row_of_borrow) -> decided = epoch
		:: !WITHOUT(row_of_borrow) && !marked -> until[c] = U; decided = epoch
		:: !WITHOUT(row_of_borrow) && (!marked || until[c] > 0) ->
			until[c] = (WITHOUT(longer_borrow) -> 1 : MAX(until[c], 1)); decided = epoch
		:: !WITHOUT(row_of_borrow) && marked /* the limit */
		fi;
		marked = 0;
		d_step { check() } }
	:: d_step { decided != 0 && USABLE && pool.sits[c] && !pool.reserved[c] && pool.left[c] > 0 && row[c] &&
			(pool.epoch == decided || WITHOUT(epoch_of_borrow)) ->
		m = (WITHOUT(row_of_borrow) -> U : until[c]);
		if :: !WITHOUT(score_of_borrow) -> pool.left[c] = MAX(pool.left[c], m) :: else fi;
		decided = 0;
		lent[c] = MAX(lent[c], m);
		believe(c, lent[c]) }
	:: decided != 0 -> decided = 0
#endif
	od
}

/* A rebuild, at any moment. The rows are read and the epoch raised in one transaction, and how long a borrow goes on is read
   then: the pool counts it from when it was told. */
proctype Rebuilder() {
	byte next, rows, borrowed[H];
	do
	:: d_step { builds < G && next == 0 ->
		builds++; epoch++; next = epoch;
		for (i : 0 .. H - 1) {
			if :: row[i] -> rows = rows | BIT(i); borrowed[i] = (WITHOUT(borrow_of_rebuild) -> 0 : until[i]) :: else fi
		} }
	:: d_step { next != 0 -> /* rebuild.lua */
		for (i : 0 .. H - 1) {
			pool.reserved[i] = 0;
			if
			:: rows & BIT(i) -> pool.sits[i] = 1; pool.left[i] = MAX(borrowed[i], V); taken[i] = pool.left[i]
			:: else -> pool.sits[i] = 0; pool.left[i] = 0; taken[i] = 0
			fi;
			borrowed[i] = 0
		}
		if :: WITHOUT(queue_of_rebuild) -> for (i : 0 .. H - 1) { pool.line[i] = 0; pool.poll[i] = 0 } :: else fi;
		pool.epoch = next; pool.foreign = 0;
		next = 0; rows = 0 }
	:: d_step { next != 0 -> for (i : 0 .. H - 1) { borrowed[i] = 0 } next = 0; rows = 0 }
	od
}

inline wipe(at) {
	for (i : 0 .. H - 1) { at.sits[i] = 0; at.reserved[i] = 0; at.left[i] = 0 }
	at.epoch = 0; at.foreign = 0
}
inline copy(from, into) {
	for (i : 0 .. H - 1) { into.sits[i] = from.sits[i]; into.reserved[i] = from.reserved[i]; into.left[i] = from.left[i] }
	into.epoch = from.epoch
}
#define LESS(ticks) if :: ticks > 0 -> ticks-- :: else fi

/* Time, and what befalls Redis: nothing where holders wait, for a queue that is lost begins anew. */
proctype World() {
	do
	:: d_step {
		for (i : 0 .. H - 1) {
			LESS(belief[i]); LESS(lent[i]); LESS(taken[i]); LESS(until[i]);
			LESS(pool.left[i]); LESS(replica.left[i]); LESS(pool.poll[i]);
			if :: waits[i] && silent[i] < GRACE -> silent[i]++ :: else fi
		}
		for (n : 0 .. H - 1) { if :: waits[n] && silent[n] == GRACE -> forgo(n) :: else fi } }
	:: d_step { losses < L && !behind -> behind = 1; copy(pool, replica) }
	:: d_step { behind -> behind = 0; losses++; copy(replica, pool); pool.foreign = pool.epoch != 0; wipe(replica) }
	:: d_step { losses < L && !behind -> losses++; wipe(pool) }
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
		epoch = 1; pool.epoch = 1;
		byte p = 0;
		do :: p < H -> run Holder(p); p++ :: else -> break od;
		p = 0;
		if :: G > 0 -> run Rebuilder() :: else fi;
		run World()
	}
}
