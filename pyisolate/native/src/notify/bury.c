/* What a sandbox leaves: its guest's descriptors with the closers, and its memory, once no thread uses it. */
#include "loop.h"

/* The last descriptor of a workspace frees all that lies there. */
static void notify_close_own(notify_listener *l, struct notify_sandbox *s)
{
	if (s->own >= 0)
		notify_close_later(l, s, s->own);
	s->own = -1;
}

SHARED void notify_take_own(notify_listener *l, struct notify_sandbox *s, int own, int shared)
{
	if (own < 0)
		return;
	notify_close_own(l, s);
	s->own = own;
	s->shared = shared;
}

/* The last descriptor of what it saw as "/" takes apart what was mounted there. */
SHARED void notify_drop_looked_at(notify_listener *l, struct notify_sandbox *s)
{
	if (s->root_tid)
		notify_close_later(l, s, s->root);
	s->root_tid = 0;
	notify_drop_held(&s->thread_tid, s->thread);
}

/* All that is open for it but its listener, which injectors use. */
SHARED void notify_drop_kept(notify_listener *l, struct notify_sandbox *s)
{
	while (s->waits)
		notify_wait_end(l, s->waits);
	while (s->flights)
		notify_flight_end(l, s->flights);
	notify_close_own(l, s);
	notify_drop_looked_at(l, s);
}

/* Out of epoll first: closing is not enough while its cell, which has not begun, or a child of the host's has another descriptor
 * of it, and its end would be an event of what is freed. */
SHARED void notify_close_listener(notify_listener *l, struct notify_sandbox *s)
{
	if (s->fd < 0)
		return;
	epoll_ctl(l->epoll, EPOLL_CTL_DEL, s->fd, NULL);
	close(s->fd);
	s->fd = -1;
}

static void notify_free_sandbox(notify_listener *l, struct notify_sandbox *s)
{
	notify_close_listener(l, s);
	notify_rest_end(l, s);
	notify_policy_drop(s->policy);
	notify_asked_free(s->asked);
	notify_ring_free(s->ring);
	account_drop(s->account);
	notify_free(s);
}

/* Between batches no event points at anything that was given up. */
SHARED void notify_bury(notify_listener *l)
{
	struct notify_sandbox *s, *ready = NULL;

	pthread_mutex_lock(&l->lock);
	for (struct notify_sandbox **at = &l->dead; (s = *at);) {
		if (s->stranded) {
			at = &s->next_dead;
			continue;
		}
		notify_drop_kept(l, s); /* with the injectors, which are to be done with it before it is freed */
		if (s->readers || __atomic_load_n(&s->jobs, __ATOMIC_ACQUIRE)) {
			at = &s->next_dead;
			continue;
		}
		*at = s->next_dead;
		s->next_dead = ready;
		ready = s;
	}
	pthread_mutex_unlock(&l->lock);
	while ((s = ready)) {
		ready = s->next_dead;
		notify_free_sandbox(l, s);
	}
	while (l->dead_waits) {
		struct notify_wait *w = l->dead_waits;
		l->dead_waits = w->next_dead;
		notify_free(w->payload);
		notify_free(w);
	}
	while (l->dead_flights) {
		struct notify_flight *f = l->dead_flights;
		l->dead_flights = f->next;
		notify_free(f);
	}
}

/* Free what it has in memory, once no thread of its own is left. */
SHARED void notify_free_all(notify_listener *l)
{
	while (l->jobs) { /* of a stranded thread, after the loop's end */
		struct notify_job *job = l->jobs;
		l->jobs = job->next;
		notify_free(job);
	}
	for (int i = 0; i < l->next_slot; i++)
		if (l->slots[i]) {
			l->slots[i]->next_dead = l->dead;
			l->dead = l->slots[i];
		}
	for (struct notify_sandbox *s = l->dead; s; s = s->next_dead)
		s->jobs = 0; /* what such a thread left open was closed with the table */
	notify_free(l->spare_job);
	notify_bury(l);
	notify_bury(l); /* the waits that the sandboxes left */
	notify_end_lead(l);
	notify_free(l->questions);
	notify_free(l);
}
