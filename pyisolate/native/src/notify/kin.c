/* The processes of a cell: its init, and what descends from it, by /proc/PID/task/TID/children (CONFIG_PROC_CHILDREN).
 * The calls of other guests wait for this thread: it looks at few. */
#include "facts.h"

#define NOTIFY_KIN 64 /* files of tasks that are read for one call; in a cell of more there is one of every kind */

struct notify_kin {
	int count, pids[NOTIFY_KIN];
	int reads; /* that are left */
};

/* The last number of a line of /proc/PID/status, which is the task's own where it has one in each namespace; or -1. */
static int notify_own_number(struct notify_kin *kin, int pid, const char *field)
{
	char text[4096];
	const char *line;

	if (kin->reads-- <= 0 || notify_proc_text(pid, "status", text, sizeof text) || !(line = strstr(text, field)))
		return -1;
	size_t length = strcspn(line + 1, "\n") + 1;
	while (length && line[length - 1] != '\t')
		length--;
	return atoi(line + length);
}

/* Add the children of a task: 0, or -1 where they are too many or cannot be read. */
static int notify_add_children(struct notify_kin *kin, int pid, const char *tid)
{
	char path[80], text[4096];

	if (kin->reads-- <= 0)
		return -1;
	snprintf(path, sizeof path, "/proc/%d/task/%.20s/children", pid, tid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return kin->count == 1 ? -1 : 0; /* of the init: no kernel tells; of another: it has ended */
	ssize_t got = read(fd, text, sizeof text - 1);
	close(fd);
	text[got > 0 ? got : 0] = 0;
	for (char *at = text, *end; got > 0; at = end) {
		long child = strtol(at, &end, 10);
		if (end == at)
			break;
		if (kin->count == NOTIFY_KIN)
			return -1;
		kin->pids[kin->count++] = (int)child;
	}
	return got == sizeof text - 1 ? -1 : 0;
}

/* Add the children of all threads of a process. No opendir: its memory is the C library's (memory.c). */
static int notify_add_children_of_all(struct notify_kin *kin, int pid)
{
	char path[40], entries[4096] __attribute__((aligned(8)));
	int error = 0;
	long got;

	snprintf(path, sizeof path, "/proc/%d/task", pid);
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	while (fd >= 0 && !error && (got = syscall(SYS_getdents64, fd, entries, sizeof entries)) > 0)
		for (long at = 0; at < got && !error;) {
			const struct notify_entry *entry = (const struct notify_entry *)(entries + at);
			if (entry->name[0] != '.')
				error = notify_add_children(kin, pid, entry->name);
			at += entry->bytes;
		}
	if (fd >= 0)
		close(fd);
	return error;
}

static int notify_init_of(struct notify_kin *kin, int pid)
{
	while (pid > 0) {
		if (notify_own_number(kin, pid, "\nNSpid:") == 1)
			return pid;
		pid = notify_own_number(kin, pid, "\nPPid:");
	}
	return -1;
}

static int notify_finds_kin(struct notify_kin *kin, int caller, int group)
{
	kin->count = 1;
	for (int i = 0; i < kin->count; i++) {
		if (i && (group ? notify_own_number(kin, kin->pids[i], "\nNSpgid:") == group : kin->pids[i] != caller))
			return 1;
		if (notify_add_children_of_all(kin, kin->pids[i]))
			return 1;
	}
	return kin->reads < 0;
}

/* Is there a process of the cell in a group, or, where that is 0, any but the caller and the init? 1 where it is not known.
 * Looked for twice: a process goes to the init when its parent ends, and could be missed by one look. */
SHARED int notify_reaches(const struct notify_call *c, int group)
{
	struct notify_kin kin = {.reads = NOTIFY_KIN};
	int caller = notify_pid(c->sandbox, c->tid), init = notify_init_of(&kin, caller);

	if (init < 0 || !notify_valid(c))
		return 1;
	kin.pids[0] = init;
	return notify_finds_kin(&kin, caller, group) || notify_finds_kin(&kin, caller, group);
}
