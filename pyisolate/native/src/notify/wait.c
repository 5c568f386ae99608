/* Operations that cannot finish at once: the socket waits in epoll, the guest in the kernel, and the loop goes on. */
#include "unfinished.h"

/* connect() that waits for no peer: 0, -EINPROGRESS (also for a connection that was under way already), or -errno.
 * O_NONBLOCK belongs to the open file and so to the guest as well, for the microseconds in between, and another of its
 * threads may take it away again. The send timeout is therefore the shortest there is at that time (one tick of the
 * kernel); only this thread sets it (notify_do_setsockopt). */
static int notify_connect_soon(int fd, const struct notify_endpoint *to, int *blocking)
{
	static const struct timeval shortest = {0, 1};
	struct timeval patience = {0};
	socklen_t length = sizeof patience;
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0)
		return -errno;
	if (notify_names_path(to)) {
		struct notify_endpoint held;
		int place = notify_hold_path(to, &held);
		if (place < 0)
			return place;
		int result = notify_connect_soon(fd, &held, blocking);
		close(place);
		return result;
	}
	*blocking = !(flags & O_NONBLOCK);
	if (getsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, &length) ||
	    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &shortest, sizeof shortest))
		return -errno;
	if (*blocking)
		fcntl(fd, F_SETFL, flags | O_NONBLOCK);
	int result = connect(fd, &to->raw.any, to->length) ? -errno : 0;
	if (*blocking) {
		/* over loopback the handshake is over by now: the second call collects its result */
		if (result == -EINPROGRESS || result == -EALREADY)
			result = connect(fd, &to->raw.any, to->length) ? -errno : 0;
		if (result == -EALREADY)
			result = -EINPROGRESS;
		fcntl(fd, F_SETFL, flags);
	}
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
	return result;
}

/* The guest may hold the socket's lock, or that of a directory on the way to another socket. */
SHARED int notify_connect_now(notify_listener *l, int fd, const struct notify_endpoint *to, int *blocking)
{
	struct notify_desk *desk = notify_step_aside(l);
	int result = notify_connect_soon(fd, to, blocking);

	notify_step_back(l, desk);
	return result;
}

SHARED void notify_wait_end(notify_listener *l, struct notify_wait *w)
{
	struct notify_wait **at;

	for (at = &w->sandbox->waits; *at && *at != w; at = &(*at)->next)
		;
	if (*at)
		*at = w->next; /* first: a child that the host forks closes what it finds here */
	epoll_ctl(l->epoll, EPOLL_CTL_DEL, w->fd, NULL); /* the guest keeps the file open: closing is not enough */
	if (w->call.name)
		close(w->fd); /* a question about a name: not the guest's */
	else
		notify_close_taken(l, w->sandbox, w->fd);
	notify_close_rights(l, w->sandbox, w->control, w->message.control_bytes);
	notify_let_go(l, w->sandbox, NOTIFY_KEPT_RIGHTS, w->message.rights);
	notify_let_go(l, w->sandbox, NOTIFY_KEPT_FILES, 1);
	if (w->step == NOTIFY_STEP_ASK && !w->call.name)
		w->sandbox->questions--;
	notify_policy_drop(w->call.policy);
	w->call.policy = NULL;
	w->dead = 1;
	w->sandbox->waiting_count--;
	if (w->sandbox->paused) {
		w->sandbox->paused = 0;
		if (!w->sandbox->stopped)
			notify_receive_again(l, w->sandbox);
	}
	if (l->tick_cursor == w)
		l->tick_cursor = w->next_all;
	if (w->previous_all)
		w->previous_all->next_all = w->next_all;
	else
		l->waits = w->next_all;
	if (w->next_all)
		w->next_all->previous_all = w->previous_all;
	w->next_dead = l->dead_waits; /* an event in this batch may still point here */
	l->dead_waits = w;
}

SHARED void notify_wait_finish(notify_listener *l, struct notify_wait *w, int64_t result)
{
	if (w->message.written_to && result >= 0) {
		uint32_t length = (uint32_t)result;
		int written = notify_write(l, w->sandbox, w->id, w->tid, w->message.written_to, &length, sizeof length);
		result = written ? written : 1;
	}
	notify_answer(w->sandbox, w->id, result < 0 ? 0 : result, result < 0 ? (int)result : 0, 0);
	notify_wait_end(l, w);
}

static uint64_t notify_deadline(int fd)
{
	struct timeval patience = {0};
	socklen_t length = sizeof patience;

	if (getsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, &length) || (!patience.tv_sec && !patience.tv_usec))
		return 0;
	return notify_now() + (uint64_t)patience.tv_sec * 1000000000u + (uint64_t)patience.tv_usec * 1000u;
}

/* Park an operation; takes `fd` and what is kept of its message. 0, or -errno with all of it still the caller's: ENOBUFS
 * where the sandbox has its part of unfinished operations. */
SHARED int notify_park(const struct notify_call *c, int fd, const struct notify_wait *what)
{
	notify_listener *l = c->l;
	size_t bytes = what->message.bytes, control_bytes = what->message.control_bytes;

	if (!notify_keep(l, c->sandbox, NOTIFY_KEPT_FILES, 1))
		return -ENOBUFS;
	struct notify_wait *w = notify_alloc(1, sizeof *w);
	struct epoll_event event = {.events = EPOLLOUT, .data.ptr = w};
	if (!w) {
		notify_let_go(l, c->sandbox, NOTIFY_KEPT_FILES, 1);
		return -ENOMEM;
	}
	*w = *what;
	w->source.kind = NOTIFY_SOURCE_WAIT;
	w->call.desk = NULL; /* any thread may go on with it */
	w->sandbox = c->sandbox;
	w->id = c->id;
	w->tid = c->tid;
	w->fd = fd;
	w->deadline_ns = w->step == NOTIFY_STEP_ASK ? w->since_ns + NOTIFY_PATIENCE_NS : notify_deadline(fd);
	/* data and control messages in one block; the descriptors in it are this operation's from now on */
	w->payload = notify_alloc(1, bytes + 8 + control_bytes);
	/* a question's socket is not connected, and would be ready all the time */
	int watched = !w->on_tick && w->step != NOTIFY_STEP_ASK;
	if (!w->payload || (watched && epoll_ctl(l->epoll, EPOLL_CTL_ADD, fd, &event))) {
		notify_let_go(l, c->sandbox, NOTIFY_KEPT_FILES, 1);
		notify_free(w->payload);
		notify_free(w);
		return -ENOMEM;
	}
	w->control = w->payload + ((bytes + 7) & ~(size_t)7);
	if (bytes)
		memcpy(w->payload, what->payload, bytes);
	if (control_bytes)
		memcpy(w->control, what->control, control_bytes);
	w->next = c->sandbox->waits;
	c->sandbox->waits = w;
	c->sandbox->waiting_count++;
	w->previous_all = NULL;
	w->next_all = l->waits;
	if (l->waits)
		l->waits->previous_all = w;
	l->waits = w;
	return 0;
}

/* A question was answered with yes: connect now. 0 or -errno to answer, -EINPROGRESS where it goes on waiting. */
SHARED int notify_wait_connect(notify_listener *l, struct notify_wait *w)
{
	struct epoll_event event = {.events = EPOLLOUT, .data.ptr = w};
	int blocking;

	w->sandbox->questions--;
	w->step = NOTIFY_STEP_CONNECT;
	w->deadline_ns = notify_deadline(w->fd);
	int result = notify_connect_now(l, w->fd, &w->message.to, &blocking);
	if (result == -EINPROGRESS && !blocking) {
		notify_wait_finish(l, w, result);
		return -EINPROGRESS;
	}
	if (result == -EINPROGRESS && epoll_ctl(l->epoll, EPOLL_CTL_ADD, w->fd, &event))
		return -ENOMEM;
	return result;
}

SHARED void notify_wait_step(notify_listener *l, struct notify_wait *w)
{
	int64_t result;
	int blocking;

	if (w->step == NOTIFY_STEP_ASK)
		return;
	if (w->step == NOTIFY_STEP_CONNECT) {
		result = notify_connect_now(l, w->fd, &w->message.to, &blocking);
		if (result == -EINPROGRESS || result == -EALREADY)
			return;
		if (result == -EISCONN)
			result = 0;
		if (result || !w->then_send) {
			notify_wait_finish(l, w, result);
			return;
		}
		w->step = NOTIFY_STEP_SEND;
		w->message.to.length = 0;
	}
	result = notify_send_kept(l, w->sandbox, w->fd, &w->message, w->payload, w->control);
	if (result >= 0)
		w->message.rights = 0; /* they are in flight */
	if (result != -EAGAIN) {
		notify_wait_finish(l, w, result);
	} else if (w->message.local && !w->on_tick && !notify_may_queue(l, w->sandbox, w->message.bytes)) {
		epoll_ctl(l->epoll, EPOLL_CTL_DEL, w->fd, NULL); /* it can be written to all the time */
		w->on_tick = 1;
	}
}
