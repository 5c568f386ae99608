/* What the supervisor keeps for a guest: descriptors and bytes that it sent on unix sockets and that have not been received
 * (in flight, unix(7)), and open files of operations that wait. The kernel counts them against the supervisor's user,
 * limits and memory, which all sandboxes share; so each sandbox has a part of its own. Loop thread only. */
#include <linux/sockios.h>

#include "unfinished.h"

#define NOTIFY_MESSAGE_LEAST 512 /* bytes: what a queued message counts at the least (SKB_TRUESIZE(0) is more) */
/* The kernel lets a user with more in flight wait for its garbage collector (UNIX_INFLIGHT_SANE_USER, 2024). */
#define NOTIFY_RIGHTS_ROOM 2000
#define NOTIFY_UNREAD      16384     /* bytes of one socket that are not counted */
#define NOTIFY_UNREAD_MOST 16384     /* KiB of one sandbox that are */
#define NOTIFY_UNREAD_ROOM (1 << 20) /* KiB of all sandboxes */

/* A quarter of what the supervisor may open is for guests. */
SHARED void notify_make_room(notify_listener *l)
{
	struct rlimit files;
	rlim_t room = getrlimit(RLIMIT_NOFILE, &files) ? 1024 : files.rlim_cur;

	room = room / 4 < 64 ? 64 : room / 4 > 1 << 20 ? 1 << 20 : room / 4;
	l->room[NOTIFY_KEPT_FILES] = (int)room;
	l->room[NOTIFY_KEPT_KIB] = NOTIFY_UNREAD_ROOM;
	l->room[NOTIFY_KEPT_RIGHTS] = room < NOTIFY_RIGHTS_ROOM ? (int)room : NOTIFY_RIGHTS_ROOM;
}

static int notify_has_room(const notify_listener *l, const struct notify_sandbox *s, enum notify_kept what, int count)
{
	int others = l->kept[what] - s->kept[what], wanted = s->kept[what] + count;

	return wanted <= (l->room[what] - others) / 2 && (what != NOTIFY_KEPT_KIB || wanted <= NOTIFY_UNREAD_MOST);
}

/* Keep `count` more for the sandbox: 0 where it then has more than half of what the others leave. So something is left
 * for the next one, however many use up their part. */
SHARED int notify_keep(notify_listener *l, struct notify_sandbox *s, enum notify_kept what, int count)
{
	if (!notify_has_room(l, s, what, count))
		return 0;
	notify_let_go(l, s, what, -count);
	return 1;
}

SHARED void notify_let_go(notify_listener *l, struct notify_sandbox *s, enum notify_kept what, int count)
{
	s->kept[what] -= count;
	l->kept[what] -= count;
}

SHARED void notify_flight_end(notify_listener *l, struct notify_flight *f)
{
	struct notify_flight **at = &f->sandbox->flights;

	for (; *at != f; at = &(*at)->next)
		;
	*at = f->next;
	for (int i = 0; i < f->count; i++)
		notify_let_go(l, f->sandbox, NOTIFY_KEPT_RIGHTS, f->messages[(f->first + i) % NOTIFY_FLIGHT]);
	notify_let_go(l, f->sandbox, NOTIFY_KEPT_KIB, f->kib);
	notify_let_go(l, f->sandbox, NOTIFY_KEPT_FILES, 1);
	epoll_ctl(l->epoll, EPOLL_CTL_DEL, f->fd, NULL);
	notify_close_later(l, f->sandbox, f->fd);
	f->dead = 1;
	f->next = l->dead_flights; /* an event in this batch may still point here */
	l->dead_flights = f;
}

/* Messages are received in the order in which they were sent, and what is not received counts as unsent (SIOCOUTQ), the
 * guest's own writes included: at most so many of the last messages can still be in flight. */
SHARED void notify_flight_settle(notify_listener *l, struct notify_flight *f)
{
	int bytes;

	if (ioctl(f->fd, SIOCOUTQ, &bytes))
		return;
	for (; f->count > bytes / NOTIFY_MESSAGE_LEAST; f->count--) {
		notify_let_go(l, f->sandbox, NOTIFY_KEPT_RIGHTS, f->messages[f->first]);
		f->first = (f->first + 1) % NOTIFY_FLIGHT;
	}
	notify_let_go(l, f->sandbox, NOTIFY_KEPT_KIB, f->kib - bytes / 1024);
	f->kib = bytes / 1024;
	if (!f->count && bytes < NOTIFY_UNREAD)
		notify_flight_end(l, f);
}

SHARED void notify_settle_all(notify_listener *l, struct notify_sandbox *s)
{
	struct notify_flight *next;

	for (struct notify_flight *f = s->flights; f; f = next) {
		next = f->next;
		notify_flight_settle(l, f);
	}
}

/* Whether so many bytes more may wait to be received. */
SHARED int notify_may_queue(notify_listener *l, struct notify_sandbox *s, size_t bytes)
{
	int kib = (int)(bytes / 1024) + 1;

	if (!notify_has_room(l, s, NOTIFY_KEPT_KIB, kib))
		notify_settle_all(l, s);
	return notify_has_room(l, s, NOTIFY_KEPT_KIB, kib);
}

/* Watch the socket `fd` from before the message is sent. Only who holds the sender can tell what became of its messages;
 * the kernel says when one has been received. NULL where that cannot be kept. */
static struct notify_flight *notify_flight_of(notify_listener *l, struct notify_sandbox *s, int fd)
{
	struct notify_flight *f;
	uint64_t cookie = 0;
	socklen_t length = sizeof cookie;

	if (getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &length))
		return NULL;
	for (f = s->flights; f && f->cookie != cookie; f = f->next)
		;
	if (f || !notify_keep(l, s, NOTIFY_KEPT_FILES, 1))
		return f;
	f = notify_alloc(1, sizeof *f);
	int held = f ? fcntl(fd, F_DUPFD_CLOEXEC, 3) : -1;
	struct epoll_event event = {.events = EPOLLOUT | EPOLLET, .data.ptr = f};
	if (held < 0 || epoll_ctl(l->epoll, EPOLL_CTL_ADD, held, &event)) {
		if (held >= 0)
			close(held);
		notify_free(f);
		notify_let_go(l, s, NOTIFY_KEPT_FILES, 1);
		return NULL;
	}
	f->source.kind = NOTIFY_SOURCE_FLIGHT;
	f->sandbox = s;
	f->fd = held;
	f->cookie = cookie;
	f->next = s->flights;
	s->flights = f;
	return f;
}

/* The guest may hold the socket's lock, or that of a directory on the way to another socket. */
static int64_t notify_send_now(notify_listener *l, int fd, const struct notify_message *m, const char *data,
			       char *control)
{
	struct notify_desk *desk = notify_step_aside(l);
	int64_t result = notify_send_message(fd, m, data, control);

	notify_step_back(l, desk);
	return result;
}

/* notify_send_message with `rights` descriptors that are kept already. Where it sent them they are no more the caller's.
 * A sandbox of which too much is not received finds the socket full. */
SHARED int64_t notify_send_kept(notify_listener *l, struct notify_sandbox *s, int fd, const struct notify_message *m,
				const char *data, char *control)
{
	int queued = 0, large = m->local && !ioctl(fd, SIOCOUTQ, &queued) && (size_t)queued + m->bytes >= NOTIFY_UNREAD;

	if (large && !notify_may_queue(l, s, m->bytes))
		return -EAGAIN;
	if (!large && !m->rights)
		return notify_send_now(l, fd, m, data, control);
	struct notify_flight *f = notify_flight_of(l, s, fd);
	if (!f)
		return m->rights ? -ETOOMANYREFS : -ENOBUFS;
	int64_t result = f->count < NOTIFY_FLIGHT ? notify_send_now(l, fd, m, data, control) : -ETOOMANYREFS;
	if (result >= 0 && m->rights)
		f->messages[(f->first + f->count++) % NOTIFY_FLIGHT] = (uint8_t)m->rights;
	notify_flight_settle(l, f);
	return result;
}
