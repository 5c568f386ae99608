/* Memory of the kernel's that no control group charges, record locks and huge pages, and what it counts by user: pipes. */
#include "calls.h"

#include <dirent.h>

#define NOTIFY_LOCKS                                                                                                   \
	1024 /* record locks of one process, counted; it makes at most twice as many until it is counted again */
#define NOTIFY_PIPE_BYTES 65536 /* what a pipe has by itself (pipe(7)) */
#define NOTIFY_REFUSALS   64    /* calls of a process that is past it, until it is counted again */

/* The record locks of one open file, as proc(5) shows them in fdinfo; reading ends past `most`. */
static int notify_locks_of(int directory, const char *name, int most)
{
	char text[4096], first = 1;
	ssize_t got;
	int found = 0, fd = openat(directory, name, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return 0;
	while (found <= most && (got = read(fd, text, sizeof text)) > 0)
		for (ssize_t i = 0; i < got; i++) {
			found += first && text[i] == 'l'; /* "lock:" */
			first = text[i] == '\n';
		}
	close(fd);
	return found;
}

/* The record locks of a process, or as many as are past the limit. */
static int notify_locks(int pid)
{
	_Alignas(8) char entries[4096];
	char path[40];
	int found = 0;
	long got;

	snprintf(path, sizeof path, "/proc/%d/fdinfo", pid);
	int directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (directory < 0)
		return 0;
	while (found <= NOTIFY_LOCKS && (got = syscall(SYS_getdents64, directory, entries, sizeof entries)) > 0)
		for (long at = 0; at < got && found <= NOTIFY_LOCKS;) {
			const struct notify_entry *entry = (const struct notify_entry *)(entries + at);
			if (entry->name[0] != '.')
				found += notify_locks_of(directory, entry->name, NOTIFY_LOCKS - found);
			at += entry->bytes;
		}
	close(directory);
	return found;
}

static int notify_locks_now(const struct notify_call *c, int pid)
{
	struct notify_desk *desk = notify_step_aside(c->l); /* as in notify_about_open */
	int found = notify_locks(pid);

	notify_step_back(c->l, desk);
	return found;
}

/* The process has as many files open as the policy lets it have: its hard limit. A lower one is its own doing. */
SHARED int notify_table_full(const struct notify_call *c)
{
	_Alignas(8) char entries[4096];
	char path[40];
	uint64_t most, found = 0;
	long got;

	if (notify_hard_limit(c->tid, RLIMIT_NOFILE, &most) || most < c->policy->open_files)
		return 0;
	snprintf(path, sizeof path, "/proc/%d/fd", c->tid);
	int directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (directory < 0)
		return 0;
	while (found < most && (got = syscall(SYS_getdents64, directory, entries, sizeof entries)) > 0)
		for (long at = 0; at < got;) {
			const struct notify_entry *entry = (const struct notify_entry *)(entries + at);
			found += entry->name[0] != '.';
			at += entry->bytes;
		}
	close(directory);
	return found >= most && notify_valid(c);
}

static void notify_refuse_hidden(const struct notify_call *c, int error)
{
	struct notify_decision d = {.reason = NOTIFY_LIMIT_EXCEEDED, .rule = -1, .presented = -1};

	notify_refuse(c, PYI_LIMIT_MEMORY, error, &d, NULL);
}

/* A process's record locks go with the last descriptor of their file that it closes, so its table shows them all. A lock
 * that belongs to an open file (F_OFD_SETLK) is shown by nothing once the file is only mapped, or in flight. */
SHARED void notify_do_lock(const struct notify_call *c)
{
	int command = (int)c->args[1];

	if (!(c->policy->flags & NOTIFY_CELL)) {
		notify_continue(c); /* the process is the host's */
		return;
	}
	if (command == F_OFD_SETLK || command == F_OFD_SETLKW) {
		notify_refuse_hidden(c, EINVAL); /* as before Linux 3.15 */
		return;
	}
	int pid = notify_pid(c->sandbox, c->tid);
	struct notify_locker *by = &c->sandbox->lockers[(unsigned)pid % NOTIFY_LOCKERS];
	if (by->pid != pid)
		*by = (struct notify_locker){.pid = pid, .calls = NOTIFY_LOCKS};
	if (by->refusals) {
		by->refusals--;
	} else if (by->calls++ < NOTIFY_LOCKS) {
		notify_continue(c);
		return;
	} else if (notify_locks_now(c, pid) <= NOTIFY_LOCKS) {
		by->calls = 1;
		notify_continue(c);
		return;
	} else {
		by->refusals = NOTIFY_REFUSALS;
	}
	notify_refuse_hidden(c, ENOLCK);
}

/* The pool of huge pages is the host's (MAP_HUGETLB, MFD_HUGETLB; transparent ones are memory as any). ENOMEM is what an
 * empty pool answers, and allocators take other pages then. */
SHARED void notify_do_huge(const struct notify_call *c)
{
	notify_refuse_hidden(c, ENOMEM);
}

/* A user has 64 MiB of pipes (fs.pipe-user-pages-soft), full or empty, and a new pipe past that has two pages: all that wrote
 * into pipes of the usual size before a reader came would wait for ever, the host among them where cells are its user. One of
 * a MiB counts as sixteen. EPERM is what the kernel answers past that. */
SHARED void notify_do_pipe_size(const struct notify_call *c)
{
	if (!(c->policy->flags & NOTIFY_CELL) || (uint32_t)c->args[2] <= NOTIFY_PIPE_BYTES)
		notify_continue(c); /* by registers; only the "full" filter notifies it */
	else
		notify_refuse_hidden(c, EPERM);
}
