/* Descriptors of guests' files are closed by injectors, one sandbox's by one thread at a time, and never by the loop.
 *
 * To close any descriptor of a file asks the server of its file system (FUSE, NFS, CIFS: `flush` in linux/fs.h), which may
 * be a guest's friend or gone, and no signal ends that wait. To close the last one does the file's own work: a removed file's
 * memory is freed, files that a unix socket has in flight are closed with it, and a pipe is locked, which a guest's thread may
 * hold while it waits for a server. What such a thread cannot end it keeps: at most NOTIFY_CLOSERS threads, and the
 * descriptors of their sandboxes, whose calls wait once NOTIFY_LEFT_OF_ONE do. */
#include "unfinished.h"

/* A place in the table of those that wait, from 1; 0: there is none. */
static int notify_left_place(notify_listener *l)
{
	int place = l->left_free;

	if (place)
		l->left_free = l->left[place - 1].next;
	else if (l->left_used < NOTIFY_LEFT)
		place = ++l->left_used;
	return place;
}

static void notify_queue_leaving(notify_listener *l, struct notify_leaving *of)
{
	of->queued = 1;
	of->next = NULL;
	*l->to_close_end = of;
	l->to_close_end = &of->next;
	if (of->sandbox)
		__atomic_add_fetch(&of->sandbox->jobs, 1, __ATOMIC_ACQ_REL);
	pthread_cond_signal(&l->job_ready);
}

/* Put in at the end of a queue: 0 where there is no room. */
static int notify_leave(notify_listener *l, struct notify_sandbox *s, const struct notify_left *what)
{
	struct notify_leaving *of = s ? &s->leaving : &l->nobodys;

	pthread_mutex_lock(&l->job_lock);
	int place = notify_left_place(l);
	if (place) {
		l->left[place - 1] = *what;
		*(of->first ? &l->left[of->last - 1].next : &of->first) = place;
		of->last = place;
		of->sandbox = s;
		__atomic_add_fetch(&of->count, 1, __ATOMIC_SEQ_CST);
		__atomic_add_fetch(&l->left_count, 1, __ATOMIC_RELAXED);
		if (!of->queued)
			notify_queue_leaving(l, of);
	}
	pthread_mutex_unlock(&l->job_lock);
	return place;
}

/* Have a descriptor closed; `s` NULL: of a sandbox that is not known any more. */
SHARED void notify_close_later(notify_listener *l, struct notify_sandbox *s, int fd)
{
	if (!notify_leave(l, s, &(struct notify_left){.fd = fd}))
		close(fd); /* as many wait as the kernel lets a process have open: notify_may_leave stops before */
}

/* Answer a call once all that is closed for its sandbox is: what a guest sent is open here no more when it goes on. */
SHARED void notify_result_later(const struct notify_call *c, int64_t result)
{
	struct notify_left answer = {.fd = -1, .id = c->id, .value = result};

	if (result < 0) {
		answer.value = 0;
		answer.error = (int)result;
	}
	if (!notify_leave(c->l, c->sandbox, &answer))
		notify_result(c, result);
}

/* TCP and UDP sockets that do not linger are closed at once, and unix sockets in which nothing is in flight but bytes: nothing
 * waits, and who holds a socket's lock holds it open, too. */
static int notify_closes_at_once(const struct notify_sandbox *s, int fd)
{
	struct linger linger = {0};
	socklen_t length = sizeof linger;
	int domain = notify_socket_option(fd, SOL_SOCKET, SO_DOMAIN), type;

	if (domain == AF_UNIX)
		return !s->passes;
	if (domain != AF_INET && domain != AF_INET6)
		return 0;
	type = notify_socket_option(fd, SOL_SOCKET, SO_TYPE);
	return (type == SOCK_STREAM || type == SOCK_DGRAM) &&
	       !getsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, &length) && (!linger.l_onoff || !linger.l_linger);
}

/* Close what was taken as a socket, which a guest may have swapped for anything. */
SHARED void notify_close_taken(notify_listener *l, struct notify_sandbox *s, int fd)
{
	if (notify_closes_at_once(s, fd))
		close(fd);
	else
		notify_close_later(l, s, fd);
}

/* Those that wait are so many, of all sandboxes, that no guest may hand over more. */
SHARED int notify_may_leave(notify_listener *l, int count)
{
	int left = __atomic_load_n(&l->left_count, __ATOMIC_RELAXED);

	return !left || left + count <= (l->room[NOTIFY_KEPT_FILES] < NOTIFY_LEFT / 2 ? l->room[NOTIFY_KEPT_FILES]
										      : NOTIFY_LEFT / 2);
}
