/* What the host spends for each sandbox: one account, which reactor, callers, listener and drain charge.
 *
 * What a guest sends and asks costs it nothing and the host's threads, which all sandboxes share, a processor. So each has a
 * budget: one part in ACCOUNT_PARTS of a processor, and ACCOUNT_BURST_NS at once. An honest guest that is refused a thousand
 * different things costs more, but seldom: for it there is a reserve, which is refilled ten times as slowly. Past both, frames
 * are left unread and calls unanswered until the budget is refilled, as long as others are served that keep to theirs. Who goes
 * past it is no such other: those that are greedy hold each other back no more than by turns, and one that is alone has all.
 *
 * No lock and no memory of the C library's: the listener's loop may wait for neither (notify/memory.c).
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <stddef.h>
#include <time.h>

#include "account.h"

enum { ACCOUNTS = 16384 }; /* NOTIFY_SLOTS */

static struct account account_all[ACCOUNTS];
/* Of those past that number, together: they have one budget, and never none. */
static struct account account_rest = {.references = 1};
static unsigned account_last;
/* Who was served last within its budget, and who else before: a number, and milliseconds (ACCOUNT_NUMBER). Written by all
 * threads without a lock; one that is lost between two of them is written again at the next turn. */
static uint64_t account_recent[2];

#define ACCOUNT_CLOCK_BITS 40 /* of milliseconds: 34 years */
#define ACCOUNT_CLOCK      ((1ULL << ACCOUNT_CLOCK_BITS) - 1)
#define ACCOUNT_NUMBERS    ((1u << 24) - 1)

/* Time may be given, or 0: now. */
static uint64_t account_now(uint64_t given_ns)
{
	struct timespec t;

	if (given_ns)
		return given_ns;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

SHARED struct account *account_open(void)
{
	unsigned number = __atomic_add_fetch(&account_last, 1, __ATOMIC_RELAXED);

	for (unsigned i = 0; i < ACCOUNTS; i++) {
		struct account *a = &account_all[(number + i) % ACCOUNTS];
		int none = 0;
		if (!__atomic_compare_exchange_n(&a->references, &none, 1, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
			continue;
		a->number = number & ACCOUNT_NUMBERS;
		__atomic_store_n(&a->until_ns, 0, __ATOMIC_RELAXED);
		__atomic_store_n(&a->full_ns, 0, __ATOMIC_RELAXED);
		__atomic_store_n(&a->held_ns, 0, __ATOMIC_RELAXED);
		return a;
	}
	return account_hold(&account_rest);
}

SHARED struct account *account_hold(struct account *a)
{
	__atomic_add_fetch(&a->references, 1, __ATOMIC_RELAXED);
	return a;
}

SHARED void account_drop(struct account *a)
{
	__atomic_sub_fetch(&a->references, 1, __ATOMIC_ACQ_REL);
}

/* Note that it was served, unless it is past its budget. */
SHARED void account_served(const struct account *a, uint64_t now_ns)
{
	uint64_t now = account_now(now_ns), last = __atomic_load_n(&account_recent[0], __ATOMIC_RELAXED);

	if (__atomic_load_n(&a->until_ns, __ATOMIC_RELAXED) > now)
		return;
	if (last >> ACCOUNT_CLOCK_BITS != a->number)
		__atomic_store_n(&account_recent[1], last, __ATOMIC_RELAXED);
	__atomic_store_n(&account_recent[0],
			 (uint64_t)a->number << ACCOUNT_CLOCK_BITS | (now / 1000000 & ACCOUNT_CLOCK), __ATOMIC_RELAXED);
}

/* Pay so much from the reserve, as far as there is any. Returns what was paid. */
static uint64_t account_pay(struct account *a, uint64_t over_ns, uint64_t now)
{
	uint64_t window = (uint64_t)ACCOUNT_RESERVE_NS * ACCOUNT_RESERVE_PARTS, pay_ns, from;
	uint64_t full = __atomic_load_n(&a->full_ns, __ATOMIC_RELAXED), least = now > window ? now - window : 0;

	do {
		from = full > least ? full : least;
		uint64_t left_ns = from < now ? (now - from) / ACCOUNT_RESERVE_PARTS : 0;
		pay_ns = over_ns < left_ns ? over_ns : left_ns;
	} while (!__atomic_compare_exchange_n(&a->full_ns, &full, from + pay_ns * ACCOUNT_RESERVE_PARTS, 1,
					      __ATOMIC_RELAXED, __ATOMIC_RELAXED));
	return pay_ns;
}

/* Charge it for processor time. What is owed past ACCOUNT_DEBT_NS is forgotten, so that none waits without end. */
SHARED void account_spend(struct account *a, uint64_t spent_ns, uint64_t now_ns)
{
	uint64_t now = account_now(now_ns), full = (uint64_t)ACCOUNT_BURST_NS * ACCOUNT_PARTS,
		 most = now + (uint64_t)ACCOUNT_DEBT_NS * ACCOUNT_PARTS, next;
	uint64_t until = __atomic_load_n(&a->until_ns, __ATOMIC_RELAXED), least = now > full ? now - full : 0;

	next = (until > least ? until : least) + spent_ns * ACCOUNT_PARTS;
	if (next > now) {
		uint64_t over_ns = (next - now + ACCOUNT_PARTS - 1) / ACCOUNT_PARTS;
		spent_ns -= account_pay(a, over_ns < spent_ns ? over_ns : spent_ns, now);
	}
	do {
		next = (until > least ? until : least) + spent_ns * ACCOUNT_PARTS;
		next = next > most ? most : next;
	} while (!__atomic_compare_exchange_n(&a->until_ns, &until, next, 1, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
	account_served(a, now);
}

static int account_is_other(const struct account *a, uint64_t recent, uint64_t now)
{
	uint64_t age_ms = (now / 1000000 - recent) & ACCOUNT_CLOCK;

	return recent && recent >> ACCOUNT_CLOCK_BITS != a->number && age_ms <= ACCOUNT_OTHERS_NS / 1000000;
}

/* How long it is to wait (nanoseconds); 0: it is within its budget, or no other is served that is. */
SHARED uint64_t account_wait(const struct account *a, uint64_t now_ns)
{
	uint64_t now = account_now(now_ns), until = __atomic_load_n(&a->until_ns, __ATOMIC_RELAXED);

	if (until <= now)
		return 0;
	for (int i = 0; i < 2; i++)
		if (account_is_other(a, __atomic_load_n(&account_recent[i], __ATOMIC_RELAXED), now))
			return until - now;
	return 0;
}

SHARED void account_held(struct account *a, uint64_t held_ns)
{
	__atomic_add_fetch(&a->held_ns, held_ns, __ATOMIC_RELAXED);
}

SHARED uint64_t account_held_ns(const struct account *a)
{
	return __atomic_load_n(&a->held_ns, __ATOMIC_RELAXED);
}
