/* Fair turns at the loop. A call costs its guest a wait, and the loop the work: who asks with many threads, or for large
 * sends, would have a processor of the host's that no limit counts. A sandbox past its budget (account.c) rests until it is
 * refilled, while others are served that keep to theirs; what its records cost Python's threads is in it, so that it makes
 * no more than these may read. Where only greedy ones are served they have half of the loop's time together. Loop thread
 * only, but for `resting`, which a drain reads, and what injectors add.
 */
#include "loop.h"

enum {
	NOTIFY_SLICE_NS = 1000000,
	NOTIFY_BURST_NS = 20000000, /* what a sandbox that asked little may ask at once: some thousand calls */
	NOTIFY_FREE_PART = 32,      /* one part in so many of the loop's time needs no rest */
	NOTIFY_REST_MAX_NS = 50000000,
};

/* The processor time of the calling thread. */
SHARED uint64_t notify_used(void)
{
	struct timespec used;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
	return (uint64_t)used.tv_sec * 1000000000u + (uint64_t)used.tv_nsec;
}

/* A long rest is cut: who has become the only one by then need not wait for the end of it. */
static void notify_rest(struct notify_sandbox *s, uint64_t now, uint64_t rest_ns)
{
	rest_ns = rest_ns < NOTIFY_REST_MAX_NS ? rest_ns : NOTIFY_REST_MAX_NS;
	s->resume_ns = now + rest_ns;
	account_held(s->account, rest_ns);
}

/* The processor time that the loop has used since the last turn goes to `s`, which also owes what injectors have used for
 * it since: they make its sockets and put descriptors into its tasks. */
SHARED void notify_had_turn(notify_listener *l, struct notify_sandbox *s)
{
	uint64_t ended = notify_now(), used_ns = notify_used(), took_ns = used_ns - l->desk->used_ns;
	uint64_t injected_ns = __atomic_exchange_n(&s->injected_ns, 0, __ATOMIC_RELAXED);
	int64_t owed = s->owed_ns - (int64_t)(ended - s->last_ns) / NOTIFY_FREE_PART;
	s->owed_ns = (owed < -NOTIFY_BURST_NS ? -NOTIFY_BURST_NS : owed) + (int64_t)(took_ns + injected_ns);
	__atomic_add_fetch(&s->spent_ns, took_ns, __ATOMIC_RELAXED);
	l->desk->used_ns = used_ns;
	s->last_ns = ended;
	account_spend(s->account, took_ns, ended);
	uint64_t rest_ns = account_wait(s->account, ended);
	if (!rest_ns && s->owed_ns >= NOTIFY_SLICE_NS)
		rest_ns = (uint64_t)s->owed_ns * (2 * (uint64_t)l->resting_count + 1);
	if (rest_ns < NOTIFY_SLICE_NS || s->resting || __atomic_load_n(&l->bound, __ATOMIC_RELAXED) < 2)
		return;
	struct epoll_event event = {.events = 0, .data.ptr = s};
	notify_rest(s, ended, rest_ns);
	s->owed_ns = 0;
	s->next_resting = l->resting;
	l->resting = s;
	l->resting_count++;
	__atomic_store_n(&s->resting, 1, __ATOMIC_SEQ_CST);
	epoll_ctl(l->epoll, EPOLL_CTL_MOD, s->fd, &event); /* ENOENT: it has hung up, or was stopped */
}

/* Take a sandbox off the list, which is short: a rest is at most NOTIFY_REST_MAX_NS. */
SHARED void notify_rest_end(notify_listener *l, struct notify_sandbox *s)
{
	if (!s->resting)
		return;
	for (struct notify_sandbox **at = &l->resting; *at; at = &(*at)->next_resting)
		if (*at == s) {
			*at = s->next_resting;
			break;
		}
	l->resting_count--;
	__atomic_store_n(&s->resting, 0, __ATOMIC_SEQ_CST);
}

/* Receive again from those that have rested and owe nothing more: records are read in that time, too. Returns the
 * milliseconds until the next one has, -1 where none rests. */
SHARED int notify_end_rests(notify_listener *l)
{
	uint64_t now = l->resting ? notify_now() : 0, first = UINT64_MAX;

	for (struct notify_sandbox *s = l->resting, *next; s; s = next) {
		next = s->next_resting;
		uint64_t rest_ns = s->resume_ns <= now ? account_wait(s->account, now) : 0;
		if (rest_ns)
			notify_rest(s, now, rest_ns);
		if (s->resume_ns <= now) {
			notify_rest_end(l, s);
			notify_receive_again(l, s);
		} else if (s->resume_ns < first) {
			first = s->resume_ns;
		}
	}
	return first == UINT64_MAX ? -1 : (int)((first - now) / 1000000 + 1);
}
