/* Answers, records, and operations that cannot finish at once: the socket waits in epoll, the guest in the kernel,
 * and the loop goes on. */
#include "parts.h"

/* 0, or -1 where there was no task to answer. */
SHARED int notify_answer(struct notify_sandbox *s, uint64_t id, int64_t value, int error, uint32_t flags)
{
	struct seccomp_notif_resp response = {.id = id, .val = value, .error = error, .flags = flags};

	int sent;
	/* ENOENT: the task died or was interrupted; there is no task to answer. */
	while ((sent = ioctl(s->fd, SECCOMP_IOCTL_NOTIF_SEND, &response)) && errno == EINTR)
		;
	if (sent || error == -EINTR || error == -EAGAIN || error == -NOTIFY_RESTART)
		notify_give_back(s, id);
	return sent;
}

SHARED void notify_result(const struct notify_call *c, int64_t result)
{
	notify_answer(c->sandbox, c->id, result < 0 ? 0 : result, result < 0 ? (int)result : 0, 0);
}

SHARED void notify_continue(const struct notify_call *c)
{
	uint64_t *went_on = &c->sandbox->went_on;

	if (c->nr == SYS_execve || c->nr == SYS_execveat)
		__atomic_store_n(went_on, c->id, __ATOMIC_SEQ_CST); /* first (notify_stage_of) */
	if (notify_answer(c->sandbox, c->id, 0, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE) &&
	    __atomic_load_n(went_on, __ATOMIC_SEQ_CST) == c->id)
		__atomic_store_n(went_on, 0, __ATOMIC_SEQ_CST);
}

static void notify_record_endpoint(struct notify_record *r, const struct notify_endpoint *e)
{
	if (!e)
		return;
	r->family = (uint16_t)e->family;
	r->port = e->port;
	r->scope = e->scope;
	memcpy(r->address, e->address, sizeof r->address);
	if (e->family == 1 && e->length > offsetof(struct sockaddr_un, sun_path)) {
		size_t length = e->length - offsetof(struct sockaddr_un, sun_path);
		if (e->raw.un.sun_path[0])
			length = strnlen(e->raw.un.sun_path, length);
		memcpy(r->text, e->raw.un.sun_path, length);
		r->path_length = (uint16_t)length;
	}
}

/* Whether there is a name to look at. A look-up that the guest's C library reports has found nothing. */
static int notify_meets_file(const struct notify_call *c)
{
	return c->l->traits[c->nr] & NOTIFY_REPORTED && !(c->l->path_argument[c->nr] & NOTIFY_DESCRIPTOR) &&
	       c->args[5] != NOTIFY_LOOKED;
}

static void notify_record_names(const struct notify_call *c, struct notify_record *r)
{
	int other = notify_other_argument(c->nr);
	char *path = c->l->names, *into = r->text;
	int copied = c->name && c->name_bytes; /* a name that could not be read then may be read now */

	c->l->unnamed[0] = c->l->unnamed[1] = 0;
	size_t length = copied ? c->name_bytes : notify_read_path(c, c->l->path_argument[c->nr], path, NOTIFY_NAME);
	if (copied)
		memcpy(path, c->name, length);
	size_t more = other >= 0 ? 0 : notify_read_linked(c, path, length, path + length, NOTIFY_NAME);

	if (!more && length && notify_meets_file(c)) {
		path[length] = 0;
		r->met = notify_met(c, path, &length, NOTIFY_NAME, &more);
	}
	if (copied && other >= 0)
		memcpy(path + length, c->name + c->name_bytes, more = c->other_bytes);
	else if (other >= 0)
		more = notify_read_path(c, other, path + length, NOTIFY_NAME);
	if (length + more > sizeof r->text && !(into = r->names = notify_alloc(1, length + more)))
		return; /* without its names rather than not at all */
	memcpy(into, path, length + more);
	r->path_length = (uint16_t)length;
	r->other_length = (uint16_t)more;
	r->device = c->l->unnamed[0];
	r->inode = c->l->unnamed[1];
}

static void notify_record_as(const struct notify_call *c, uint64_t serial, int capability, int verdict, int error,
			     const struct notify_decision *d, const struct notify_endpoint *e)
{
	struct notify_record r;

	memset(&r, 0, sizeof r);
	r.key = c->sandbox->key;
	r.policy_serial = serial;
	r.monotonic_ns = notify_now();
	memcpy(r.args, c->args, sizeof r.args);
	r.count = 1;
	r.tid = c->tid;
	r.pid = notify_pid(c->sandbox, c->tid);
	r.nr = c->nr;
	r.error = error;
	r.rule = d ? d->rule : -1;
	r.presented = d ? d->presented : -1;
	r.reason = (uint8_t)(d ? d->reason : NOTIFY_NO_REASON);
	r.capability = (uint16_t)capability;
	r.verdict = (uint8_t)verdict;
	r.asked = c->asked == NOTIFY_NOT_ASKED && notify_is_lookup(e) ? NOTIFY_UNKNOWN : c->asked;
	r.slot_capability = c->slot_capability;
	r.slot_verdict = c->slot_verdict;
	r.reply = c->reply;
	r.waited_ms = c->waited_ms;
	r.question = c->question;
	r.looked = capability == PYI_FS_LOOKUP && c->policy && !(c->policy->flags & NOTIFY_MONITOR_FILES);
	if (e)
		notify_record_endpoint(&r, e);
	else if (c->nr >= 0 && c->nr < NOTIFY_SYSCALLS && c->l->path_argument[c->nr] >= 0)
		notify_record_names(c, &r);
	notify_push(c->l, c->sandbox, &r);
}

/* Count and record. Comes before the answer, so that a guest that saw the refusal finds its record. */
SHARED void notify_tell(const struct notify_call *c, int capability, int verdict, int error,
			const struct notify_decision *d, const struct notify_endpoint *e)
{
	notify_count(c->sandbox, capability, verdict);
	notify_record_as(c, c->policy ? c->policy->serial : 0, capability, verdict, error, d, e);
}

/* What the shadow policy says of the same call. The counters are those of the policy in force. */
SHARED void notify_tell_shadow(const struct notify_call *c, int capability, struct notify_decision d,
			       const struct notify_endpoint *e)
{
	if (!d.allow)
		notify_record_as(c, c->policy->shadow->serial, capability, NOTIFY_WOULD_DENY, 0, &d, e);
}

SHARED void notify_refuse(const struct notify_call *c, int capability, int error, const struct notify_decision *d,
			  const struct notify_endpoint *e)
{
	notify_tell(c, capability, NOTIFY_DENY, error, d, e);
	notify_result(c, -error);
}

SHARED void notify_refuse_always(const struct notify_call *c, int capability, const struct notify_endpoint *e)
{
	struct notify_decision d = {.reason = NOTIFY_ALWAYS_DENIED, .rule = -1, .presented = -1};

	notify_refuse(c, capability, EPERM, &d, e);
}

/* The supervisor could not do its part. EPERM means that it may not look into the task (ptrace(2), Yama): that is a
 * refusal of ours, so it is recorded. */
SHARED void notify_give_up(const struct notify_call *c, int capability, int error)
{
	struct notify_decision d = {.reason = NOTIFY_INTERNAL, .rule = -1, .presented = -1};

	if (error == -EPERM)
		notify_refuse(c, capability, EPERM, &d, NULL);
	else
		notify_result(c, error);
}

/* A net decision: 1 to go on (granted, or only watched), 0 when refused and answered. */
SHARED int notify_pass(const struct notify_call *c, int capability, const struct notify_decision *d,
		       const struct notify_endpoint *e)
{
	if (d->allow) {
		notify_count(c->sandbox, capability, NOTIFY_ALLOW);
		return 1;
	}
	if (c->policy->flags & NOTIFY_MONITOR_NET) {
		notify_tell(c, capability, NOTIFY_WOULD_DENY, 0, d, e);
		return 1;
	}
	notify_refuse(c, capability, EACCES, d, e);
	return 0;
}

/* --- operations ------------------------------------------------------------------------------------------- */

/* connect() that never sleeps: 0, -EINPROGRESS (also for a connection that was under way already), or -errno.
 * O_NONBLOCK belongs to the open file and so to the guest as well, for the microseconds in between, and another of its
 * threads may take it away again. The send timeout is therefore the shortest there is at that time (one tick of the
 * kernel); only this thread sets it (notify_do_setsockopt). */
SHARED int notify_connect_now(int fd, const struct notify_endpoint *to, int *blocking)
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
		int result = notify_connect_now(fd, &held, blocking);
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

SHARED void notify_wait_end(notify_listener *l, struct notify_wait *w)
{
	struct notify_wait **at;

	for (at = &w->sandbox->waits; *at && *at != w; at = &(*at)->next)
		;
	if (*at)
		*at = w->next; /* first: a child that the host forks closes what it finds here */
	epoll_ctl(l->epoll, EPOLL_CTL_DEL, w->fd, NULL); /* the guest keeps the file open: closing is not enough */
	close(w->fd);
	notify_close_rights(w->control, w->message.control_bytes);
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
		int written = notify_write(w->sandbox, w->id, w->tid, w->message.written_to, &length, sizeof length);
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
	int result = notify_connect_now(w->fd, &w->message.to, &blocking);
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
		result = notify_connect_now(w->fd, &w->message.to, &blocking);
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

/* What a question is about: an address, a file that is opened to be read or written (the host says so where it would be
 * made), a name that is made or removed (and so of a call that does both), or a program. */
SHARED int notify_asked_capability(const struct notify_call *c)
{
	if (!c->name)
		return PYI_NET_CONNECT;
	if (c->nr == SYS_execve || c->nr == SYS_execveat)
		return PYI_PROCESS_EXEC;
	if (notify_changes_names(c->nr))
		return c->l->capability[c->nr];
	return c->args[c->l->path_argument[c->nr] + 1] & O_ACCMODE ? PYI_FS_WRITE : PYI_FS_READ;
}

SHARED void notify_settle_question(struct notify_wait *w, int reply, int verdict, int error)
{
	w->call.reply = (uint8_t)reply;
	w->call.waited_ms = (uint32_t)((notify_now() - w->since_ns) / 1000000u);
	notify_tell(&w->call, notify_asked_capability(&w->call), verdict, error, &w->refusal,
		    w->call.name ? NULL : &w->message.to);
}

SHARED void notify_refuse_question(notify_listener *l, struct notify_wait *w, int reply)
{
	notify_settle_question(w, reply, NOTIFY_DENY, EACCES);
	notify_wait_finish(l, w, -EACCES);
}

/* A question whose call was given up, with its one record: nothing is done, whatever the answer was. */
SHARED void notify_give_up_question(notify_listener *l, struct notify_wait *w)
{
	notify_settle_question(w, NOTIFY_REPLY_GONE, NOTIFY_DENY, EINTR);
	notify_wait_end(l, w);
}

/* Does a question's call wait still? One that does not stays where it is: whether it was a question at all the host knows,
 * and a guest whose signals interrupt its calls has no more of them at the host than another one. */
SHARED int notify_still_waits(struct notify_wait *w)
{
	uint64_t id = w->id;

	if (!w->gone && (w->sandbox->fd < 0 || ioctl(w->sandbox->fd, SECCOMP_IOCTL_NOTIF_ID_VALID, &id)))
		w->gone = 1;
	return !w->gone;
}

static void notify_tick_question(notify_listener *l, struct notify_wait *w, uint64_t now)
{
	int waits = notify_still_waits(w);

	if (w->begun)
		return; /* what was done with it comes, however long that takes */
	if (now >= w->deadline_ns && waits) {
		notify_refuse_question(l, w, NOTIFY_REPLY_LATE);
	} else if (now >= w->deadline_ns) {
		notify_give_up_question(l, w);
	} else if (waits && !w->begun && notify_interrupted(w->tid)) {
		w->gone = 1;
		notify_answer(w->sandbox, w->id, 0, -NOTIFY_RESTART, 0);
	}
}

/* Every tick: who gave up (killed, signalled, timed out)? A bounded number a turn. */
SHARED void notify_tick(notify_listener *l)
{
	uint64_t now = notify_now();

	if (!l->tick_cursor)
		l->tick_cursor = l->waits;
	for (int i = 0; i < 64 && l->tick_cursor; i++) {
		struct notify_wait *w = l->tick_cursor;
		uint64_t id = w->id;
		l->tick_cursor = w->next_all;
		if (w->step == NOTIFY_STEP_ASK)
			notify_tick_question(l, w, now);
		else if (ioctl(w->sandbox->fd, SECCOMP_IOCTL_NOTIF_ID_VALID, &id))
			notify_wait_end(l, w);
		else if (w->deadline_ns && now >= w->deadline_ns)
			notify_wait_finish(l, w, w->step == NOTIFY_STEP_CONNECT ? -EINPROGRESS : -EAGAIN);
		else if (notify_interrupted(w->tid))
			notify_wait_finish(l, w, w->deadline_ns ? -EINTR : -NOTIFY_RESTART);
		else if (w->on_tick)
			notify_wait_step(l, w);
	}
}
