/* A thread takes up a sandbox, for one call or wait of it, and puts it down. Where another thread leads by then it was stranded
 * in between, and gives the sandbox back to the loop. */
#include "unfinished.h"

SHARED void notify_wake_loop(int wake)
{
	uint64_t one = 1;

	if (write(wake, &one, sizeof one) < 0)
		return; /* full: it is readable anyway */
}

SHARED void notify_take_up(notify_listener *l, struct notify_sandbox *s)
{
	l->desk->sandbox = s;
	l->desk->stale = 0;
}

/* A socket of a stranded sandbox is ready: epoll would say so without end. */
SHARED void notify_unwatch(notify_listener *l, struct notify_wait *w)
{
	epoll_ctl(l->epoll, EPOLL_CTL_DEL, w->fd, NULL);
	w->unwatched = 1;
}

static void notify_watch_again(notify_listener *l, struct notify_sandbox *s)
{
	struct epoll_event event = {.events = s->paused || s->resting ? 0 : EPOLLIN, .data.ptr = s};

	if (!s->hung_up && s->fd >= 0)
		epoll_ctl(l->epoll, EPOLL_CTL_ADD, s->fd, &event); /* EBADF: the loop has ended */
	for (struct notify_wait *w = s->waits; w; w = w->next) {
		struct epoll_event ready = {.events = EPOLLOUT, .data.ptr = w};
		if (w->unwatched && epoll_ctl(l->epoll, EPOLL_CTL_ADD, w->fd, &ready))
			w->on_tick = 1;
		w->unwatched = 0;
	}
	notify_settle_all(l, s); /* what their sockets said in between is not said again */
}

/* 1 where the thread was stranded: it does not lead any more. */
SHARED int notify_put_down(notify_listener *l)
{
	struct notify_desk *desk = l->desk;
	struct notify_sandbox *s = desk->sandbox;

	desk->sandbox = NULL;
	if (!desk->stranded)
		return 0;
	desk->stranded = s->stranded = 0;
	if (desk->first)
		l->first_stranded = 0;
	__atomic_sub_fetch(&l->stranded, 1, __ATOMIC_ACQ_REL);
	notify_watch_again(l, s);
	notify_wake_loop(l->own_wake); /* it may have waits now, for which the leader is to tick */
	return 1;
}
