/* A program opens, by a name of /dev, what its process has open already: /dev/stdin, /dev/stdout, /dev/stderr, /dev/fd/N.
 *
 * There is no /proc in a root view for these names to lead to, and only the cell's own interpreter has a C library that
 * knows better (preload/files.c). Here the open becomes a duplicate of the descriptor: no right comes with it, so no
 * policy is asked. The name is read once; what a guest changes since names another descriptor of its own at most. */
#include "calls.h"

/* The descriptor that a name stands for; -1: it is no such name. */
static int notify_named_descriptor(const char *name, size_t length)
{
	static const char *const streams[] = {"/dev/stdin", "/dev/stdout", "/dev/stderr"};
	int number = 0;

	for (int i = 0; i < 3; i++)
		if (length == strlen(streams[i]) && !memcmp(name, streams[i], length))
			return i;
	if (length < 9 || length > 8 + 7 || memcmp(name, "/dev/fd/", 8))
		return -1;
	for (size_t i = 8; i < length; i++) {
		if (name[i] < '0' || name[i] > '9')
			return -1;
		number = 10 * number + name[i] - '0';
	}
	return number;
}

/* Put a duplicate into the guest, as open(2) would answer. Called by an injector. */
SHARED void notify_inject_own(notify_listener *l, const struct notify_job *job)
{
	struct notify_call c = {.l = l, .sandbox = job->sandbox, .id = job->id, .tid = job->tid};
	int fd = notify_take_fd_of(&c, job->pid, (uint64_t)job->protocol);
	int held = fd < 0 ? -1 : fcntl(fd, F_GETFL);

	if (held < 0 || held & O_PATH)
		notify_answer(job->sandbox, job->id, 0, fd == -EBADF || fd >= 0 ? -ENOENT : fd, 0);
	else if (job->kind & O_DIRECTORY)
		notify_answer(job->sandbox, job->id, 0, -ENOTDIR, 0);
	else if (job->kind & O_CREAT && job->kind & O_EXCL)
		notify_answer(job->sandbox, job->id, 0, -EEXIST, 0);
	else if ((held & O_ACCMODE) != O_RDWR && (held & O_ACCMODE) != (job->kind & O_ACCMODE))
		notify_answer(job->sandbox, job->id, 0, -EACCES, 0);
	else
		notify_give_fd(job, fd, job->kind & O_CLOEXEC);
	if (fd >= 0)
		notify_close_later(l, job->sandbox, fd);
}

/* A duplicate has not the right that is asked for: recorded here, by the loop; refused by the injector. */
static void notify_record_narrower(const struct notify_call *c, int number, int flags)
{
	int held = c->policy->flags & NOTIFY_FULL ? (int)notify_about_open(c, number, "flags:", 8) : -1;

	if (held >= 0 && (held & O_ACCMODE) != O_RDWR && (held & O_ACCMODE) != (flags & O_ACCMODE))
		notify_tell(c, c->l->capability[c->nr], NOTIFY_ALLOW, 0, NULL, NULL);
}

/* 1 where the call opens such a name: it will be answered, and nothing else decides it. */
SHARED int notify_opens_own(const struct notify_call *c)
{
	int flags, number, argument;
	size_t length;

	switch (c->nr) {
#ifdef SYS_open
	case SYS_open:
		argument = 0;
		flags = (int)c->args[1];
		break;
#endif
	case SYS_openat:
		argument = 1;
		flags = (int)c->args[2];
		break;
	default:
		return 0;
	}
	const char *name = flags & O_PATH ? NULL : notify_read_name(c, c->args[argument], &length);
	if (!name || !length)
		return 0;
	number = notify_named_descriptor(name, length);
	if (number < 0)
		return 0;
	notify_record_narrower(c, number, flags);
	if (!notify_may_leave(c->l, 1)) {
		struct notify_decision d = {.reason = NOTIFY_LIMIT_EXCEEDED, .rule = -1, .presented = -1};
		notify_refuse(c, PYI_LIMIT_OPEN_FILES, ENFILE, &d, NULL);
		return 1;
	}
	notify_ask_injector(c, NOTIFY_JOB_OWN, flags, number, -1);
	return 1;
}
