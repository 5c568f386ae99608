/* Threads that may lead the loop. One leads. One watches: where the leader has been in one and the same step aside for two
 * milliseconds or more it takes the lead, and goes on with the leader's batch of events. One more is spare, to watch then. Who was
 * stranded ends its own call, and is a follower again.
 *
 * What the watching one waits for is a timer that the leader sets when it begins to handle something, and not again until it has
 * gone off: so many times a second at the most, and never while nothing is asked of the listener. */
#include "loop.h"

enum { NOTIFY_STRANDED_NS = 2000000 };

/* 0 or -errno. */
SHARED int notify_hold_desk(notify_listener *l, struct notify_desk **desk)
{
	struct notify_desk *made = notify_alloc(1, sizeof *made);

	if (!made)
		return -ENOMEM;
	made->received = notify_alloc(1, l->notif_bytes);
	if (!made->received) {
		notify_free(made);
		return -ENOMEM;
	}
	*desk = made;
	return 0;
}

SHARED void notify_free_desk(struct notify_desk *desk)
{
	notify_free(desk->received);
	notify_free(desk);
}

/* Have the watching thread look after so many nanoseconds, unless it is to look already. */
SHARED void notify_arm(notify_listener *l, long after_ns)
{
	const struct itimerspec when = {.it_value = {0, after_ns}};

	if (l->armed)
		return;
	l->armed = 1;
	timerfd_settime(l->timer, 0, &when, NULL);
}

SHARED int notify_ends(notify_listener *l)
{
	return __atomic_load_n(&l->ending, __ATOMIC_ACQUIRE);
}

/* The leader is stranded: what it does goes on by itself, and all else is this thread's. */
static void notify_take_lead(notify_listener *l, struct notify_desk *desk)
{
	struct notify_desk *before = l->leader;
	struct notify_sandbox *s = before->sandbox;

	before->stranded = s->stranded = 1;
	l->first_stranded |= before->first;
	__atomic_add_fetch(&l->stranded, 1, __ATOMIC_ACQ_REL);
	epoll_ctl(l->epoll, EPOLL_CTL_DEL, s->fd, NULL); /* one thread is enough for it */
	l->aside = 0;
	l->leader = desk;
	desk->used_ns = notify_used();
}

/* Wait until the leader is stranded, and lead then; or until the loop ends. */
SHARED void notify_watch_leader(notify_listener *l, struct notify_desk *desk)
{
	uint64_t seen = 0, ignored;

	while (l->leader != desk && !notify_ends(l)) {
		int timer = l->timer;
		pthread_mutex_unlock(&l->turn);
		ssize_t got = read(timer, &ignored, sizeof ignored);
		pthread_mutex_lock(&l->turn);
		if (got < 0)
			continue;
		l->armed = 0;
		if (!l->aside)
			continue; /* it waits for events, and sets the timer when one comes */
		if (l->steps == seen && l->leader->sandbox)
			notify_take_lead(l, desk);
		seen = l->steps;
		notify_arm(l, NOTIFY_STRANDED_NS);
	}
}

/* Without the turn: to make a thread takes memory of the C library's, for which the loop never waits. */
SHARED void notify_make_spare(notify_listener *l)
{
	pthread_mutex_unlock(&l->turn);
	pthread_mutex_lock(&l->job_lock);
	notify_add_follower(l); /* where it fails, sandboxes wait for each other once this thread leads */
	pthread_mutex_unlock(&l->job_lock);
	pthread_mutex_lock(&l->turn);
}
