/* What a task has open: what /proc says of it, and descriptors of the same that the supervisor takes. */
#include "facts.h"

/* Close a descriptor that is kept for the next call of one thread, where there is one: `tid` says whose, 0 for none. */
SHARED void notify_drop_held(int *tid, int descriptor)
{
	int held = *tid;

	*tid = 0; /* first: a child that the host forks closes what it finds here */
	if (held)
		close(descriptor);
}

/* A pidfd of the thread, kept for its next call: to open and to close one each time takes three calls more. It names no
 * other thread that gets the number later (ESRCH then). -errno: EINVAL before 6.9, where it could name a process alone. */
static int notify_hold_thread(const struct notify_call *c)
{
	struct notify_sandbox *s = c->sandbox;

	if (s->thread_tid == c->tid)
		return s->thread;
	notify_drop_held(&s->thread_tid, s->thread);
	int pidfd = (int)syscall(SYS_pidfd_open, c->tid, NOTIFY_PIDFD_THREAD);
	if (pidfd < 0)
		return -errno;
	s->thread = pidfd;
	s->thread_tid = c->tid;
	if (!notify_valid(c))
		notify_drop_held(&s->thread_tid, s->thread);
	return s->thread_tid ? s->thread : -ESRCH;
}

static int notify_take_fd_now(const struct notify_call *c, uint64_t number)
{
	int thread = notify_hold_thread(c);
	int fd = thread < 0 ? -1 : (int)syscall(SYS_pidfd_getfd, thread, (int)number, 0);

	if (fd >= 0)
		return fd;
	if (thread >= 0 && errno != ESRCH)
		return errno == EMFILE || errno == ENFILE ? -ENOMEM : -errno;
	notify_drop_held(&c->sandbox->thread_tid, c->sandbox->thread); /* another thread has its number by now */
	return notify_take_fd_of(c, 0, number);
}

/* The supervisor's own descriptor of one of the task's files, or -errno. The caller closes it. A task that starts a program
 * holds the lock that this takes while it waits for that of its memory (exec_update_lock). */
SHARED int notify_take_fd(const struct notify_call *c, uint64_t number)
{
	struct notify_desk *desk = notify_step_aside(c->l);
	int fd = notify_take_fd_now(c, number);

	notify_step_back(c->l, desk);
	return fd;
}

/* The same for another thread than the loop, which knows the task's process. */
SHARED int notify_take_fd_of(const struct notify_call *c, int pid, uint64_t number)
{
	/* Before 6.9 a process is the finest a pidfd can name; the filter lets no thread have a table of its own. */
	int pidfd = (int)syscall(SYS_pidfd_open, c->tid, NOTIFY_PIDFD_THREAD);

	if (pidfd < 0 && errno == EINVAL)
		pidfd = (int)syscall(SYS_pidfd_open, pid ? pid : notify_pid(c->sandbox, c->tid), 0);
	if (pidfd < 0)
		return errno == EMFILE || errno == ENFILE ? -ENOMEM : -errno;
	int fd = notify_valid(c) ? (int)syscall(SYS_pidfd_getfd, pidfd, (int)number, 0) : -1;
	int error = fd < 0 ? (errno == EMFILE || errno == ENFILE ? ENOMEM : errno) : 0;
	close(pidfd);
	return fd < 0 ? -error : fd;
}

/* Note what may bring descriptors into its unix sockets, but for what it sends here: who sends some outside, and calls unseen. */
static void notify_note_passing(const struct notify_call *c)
{
	if (c->policy->unix_count || !(c->policy->flags & NOTIFY_CELL) ||
	    c->policy->flags & (NOTIFY_MONITOR_NET | NOTIFY_NATIVE_NET))
		c->sandbox->passes = 1;
}

/* The same for a socket; -ENOTSOCK for anything else. To close a descriptor of a file would take the host's own record locks on
 * it (fcntl(2)) and may wait for its file system's server: so none is taken, but where the guest has another one in its place at
 * that moment. */
SHARED int notify_take_socket(const struct notify_call *c, uint64_t number)
{
	char link[40], text[8];

	snprintf(link, sizeof link, "/proc/%d/fd/%d", c->tid, (int)number);
	ssize_t length = readlink(link, text, sizeof text);
	if (length < 0 && errno == ENOENT)
		return -EBADF;
	if (length >= 0 && (length < (ssize_t)sizeof text || memcmp(text, "socket:[", sizeof text)))
		return -ENOTSOCK;
	notify_note_passing(c);
	return notify_take_fd(c, number);
}

/* A number that /proc/TID/fdinfo/N says of an open file, as the mount by which it was opened (Linux 3.15); -1: not known. */
SHARED long notify_about_open(const struct notify_call *c, int descriptor, const char *field, int base)
{
	char file[40], text[512];

	snprintf(file, sizeof file, "fdinfo/%d", descriptor);
	struct notify_desk *desk =
		notify_step_aside(c->l); /* of an epoll file it takes the lock that its waiters have */
	const char *found = notify_proc_text(c->tid, file, text, sizeof text) ? NULL : strstr(text, field);
	notify_step_back(c->l, desk);
	return found ? strtol(found + strlen(field), NULL, base) : -1;
}
