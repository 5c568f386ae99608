/* The task that asked. Its id could be another task's by the time it is used, so every reader here is followed by
 * notify_valid(): a notification that is still valid pins the task that made it (seccomp_unotify(2)). */
#include "facts.h"

/* A call whose sandbox was stopped, or got another policy, while a thread was stranded in it, is none any more (aside.c). */
SHARED int notify_valid(const struct notify_call *c)
{
	uint64_t id = c->id;

	return !notify_is_stale(c) && ioctl(c->sandbox->fd, SECCOMP_IOCTL_NOTIF_ID_VALID, &id) == 0;
}

static ssize_t notify_proc_mem(int tid, uint64_t address, void *into, size_t bytes)
{
	char path[32];

	snprintf(path, sizeof path, "/proc/%d/mem", tid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	ssize_t got = pread(fd, into, bytes, (off_t)address);
	int error = errno;
	close(fd);
	return got < 0 ? -error : got;
}

static ssize_t notify_copy_some(int tid, uint64_t address, void *into, size_t bytes)
{
	/* Split at the page, so that an unmapped second page costs its own bytes only. */
	size_t first = 4096 - (size_t)(address % 4096);
	struct iovec local = {into, bytes};
	struct iovec remote[2] = {
		{(void *)(uintptr_t)address, bytes < first ? bytes : first},
		{(void *)(uintptr_t)(address + first), bytes > first ? bytes - first : 0},
	};
	ssize_t got = process_vm_readv(tid, &local, 1, remote, bytes > first ? 2 : 1, 0);

	if (got >= 0)
		return got;
	if (errno == ENOSYS) /* CONFIG_CROSS_MEMORY_ATTACH */
		return notify_proc_mem(tid, address, into, bytes);
	return -errno;
}

/* Bytes read, maybe fewer than asked for where the mapping ends, or -errno. The guest may hold the lock of its memory, or its
 * page may be a file's that only a disk or a server has. */
SHARED ssize_t notify_read_some(const struct notify_call *c, uint64_t address, void *into, size_t bytes)
{
	struct notify_desk *desk = notify_step_aside(c->l);
	ssize_t got = notify_copy_some(c->tid, address, into, bytes);

	notify_step_back(c->l, desk);
	return got;
}

/* The same into all of several places, in the order of `from`: 0 or -EFAULT. */
SHARED int notify_read_all(const struct notify_call *c, const struct iovec *from, size_t count, void *into,
			   size_t bytes)
{
	struct notify_desk *desk = notify_step_aside(c->l);
	struct iovec local = {into, bytes};
	int all = process_vm_readv(c->tid, &local, 1, from, count, 0) == (ssize_t)bytes;

	notify_step_back(c->l, desk);
	return all ? 0 : -EFAULT;
}

SHARED int notify_read(const struct notify_call *c, uint64_t address, void *into, size_t bytes)
{
	ssize_t got = bytes ? notify_read_some(c, address, into, bytes) : 0;

	if (got < 0)
		return (int)got;
	return (size_t)got == bytes ? 0 : -EFAULT;
}

/* A write must not hit a task that got the id afterwards: the file pins the memory, the check comes after opening it. */
static int notify_write_some(struct notify_sandbox *s, uint64_t id, int tid, uint64_t address, const void *from,
			     size_t bytes)
{
	char path[32];
	ssize_t put = -1;

	snprintf(path, sizeof path, "/proc/%d/mem", tid);
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -EFAULT;
	if (!ioctl(s->fd, SECCOMP_IOCTL_NOTIF_ID_VALID, &id))
		put = pwrite(fd, from, bytes, (off_t)address);
	close(fd);
	return put == (ssize_t)bytes ? 0 : -EFAULT;
}

SHARED int notify_write(notify_listener *l, struct notify_sandbox *s, uint64_t id, int tid, uint64_t address,
			const void *from, size_t bytes)
{
	struct notify_desk *desk = notify_step_aside(l);
	int result = notify_write_some(s, id, tid, address, from, bytes);

	notify_step_back(l, desk);
	return result;
}

/* A field of /proc/<tid>/status as up to `max` numbers (the last ones win); how many, or 0. */
static int notify_status_line(const char *text, const char *field, int base, unsigned long long *out, int max)
{
	const char *at = strstr(text, field);
	int count = 0;

	if (!at)
		return 0;
	for (at += strlen(field); *at && *at != '\n' && count < max;) {
		char *end;
		unsigned long long value = strtoull(at, &end, base);
		if (end == at)
			break;
		out[count++] = value;
		at = end;
	}
	return count;
}

SHARED int notify_proc_text(int tid, const char *file, char *text, size_t bytes)
{
	char path[40];

	snprintf(path, sizeof path, "/proc/%d/%s", tid, file);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	ssize_t got = read(fd, text, bytes - 1);
	close(fd);
	if (got <= 0)
		return -1;
	text[got] = 0;
	return 0;
}

static int notify_status(int tid, char *text, size_t bytes)
{
	return notify_proc_text(tid, "status", text, bytes);
}

/* The process of a thread, in the supervisor's view. A number is another's once the host has counted round: it may be a
 * process of another owner, of which a descriptor would be taken before Linux 6.9. */
SHARED int notify_pid(struct notify_sandbox *s, int tid)
{
	char text[4096];
	unsigned long long value;
	uint64_t now = notify_now();

	if (s->last_tid == tid && now - s->last_pid_ns < NOTIFY_NAME_NS)
		return s->last_pid;
	if (notify_status(tid, text, sizeof text) || !notify_status_line(text, "\nTgid:", 10, &value, 1))
		return tid;
	s->last_tid = tid;
	s->last_pid = (int)value;
	s->last_pid_ns = now;
	return s->last_pid;
}

/* The task's own process and thread id, as it would name them itself. */
SHARED int notify_own_ids(int tid, int *own_pid, int *own_tid)
{
	char text[4096];
	unsigned long long values[32];

	if (notify_status(tid, text, sizeof text))
		return -1;
	int count = notify_status_line(text, "\nNStgid:", 10, values, 32);
	if (!count)
		return -1;
	*own_pid = (int)values[count - 1];
	count = notify_status_line(text, "\nNSpid:", 10, values, 32);
	if (!count)
		return -1;
	*own_tid = (int)values[count - 1];
	return 0;
}

SHARED int notify_real_uid(int tid, uid_t *uid)
{
	char text[4096];
	unsigned long long value;

	if (notify_status(tid, text, sizeof text) || !notify_status_line(text, "\nUid:", 10, &value, 1))
		return -1;
	*uid = (uid_t)value;
	return 0;
}

/* The capabilities that the task has, as one number. -1 where they cannot be read. */
SHARED int notify_permitted(int tid, uint64_t *capabilities)
{
	char text[4096];
	unsigned long long value;

	if (notify_status(tid, text, sizeof text) || !notify_status_line(text, "\nCapPrm:", 16, &value, 1))
		return -1;
	*capabilities = value;
	return 0;
}

/* The user or group that the task is (`field`), by the number that it has itself (`map`: user_namespaces(7)); -1 where it
 * is more than one, or is not known. */
static long long notify_own_user(int tid, const char *text, const char *field, const char *map)
{
	char ranges[4096];
	unsigned long long ids[4], range[3];

	if (notify_status_line(text, field, 10, ids, 4) != 4 || ids[1] != ids[0] || ids[2] != ids[0] ||
	    notify_proc_text(tid, map, ranges, sizeof ranges) || notify_status_line(ranges, "", 10, range, 3) != 3 ||
	    ids[0] < range[1] || ids[0] - range[1] >= range[2])
		return -1;
	return (long long)(ids[0] - range[1] + range[0]);
}

/* A set*id call of a task without capabilities that names no user or group but its own: posix_spawn makes it where it is to
 * reset them (GNU make, POSIX_SPAWN_RESETIDS). It changes nothing, and the task can become no other. */
SHARED int notify_keeps_ids(const struct notify_call *c)
{
	char text[4096];
	unsigned long long permitted;
	int count = 0, user = 0;

	switch (c->nr) {
	case SYS_setresuid:
		user = 1; /* fallthrough */
	case SYS_setresgid:
		count = 3;
		break;
	case SYS_setreuid:
		user = 1; /* fallthrough */
	case SYS_setregid:
		count = 2;
		break;
	case SYS_setuid:
		user = 1; /* fallthrough */
	case SYS_setgid:
		count = 1;
		break;
	default:
		return 0;
	}
	if (notify_status(c->tid, text, sizeof text) || !notify_status_line(text, "\nCapPrm:", 16, &permitted, 1) ||
	    permitted)
		return 0;
	long long own = user ? notify_own_user(c->tid, text, "\nUid:", "uid_map")
			     : notify_own_user(c->tid, text, "\nGid:", "gid_map");
	if (own < 0 || !notify_valid(c))
		return 0;
	for (int i = 0; i < count; i++)
		if ((uint32_t)c->args[i] != (uint32_t)own && (count == 1 || (uint32_t)c->args[i] != UINT32_MAX))
			return 0;
	return 1;
}

/* A signal that the task would handle if it were not asleep in our hands. */
SHARED int notify_interrupted(int tid)
{
	char text[4096];
	unsigned long long own = 0, shared = 0, blocked = 0, ignored = 0;

	if (notify_status(tid, text, sizeof text))
		return 0;
	notify_status_line(text, "\nSigPnd:", 16, &own, 1);
	notify_status_line(text, "\nShdPnd:", 16, &shared, 1);
	notify_status_line(text, "\nSigBlk:", 16, &blocked, 1);
	notify_status_line(text, "\nSigIgn:", 16, &ignored, 1);
	return ((own | shared) & ~blocked & ~ignored) != 0;
}

/* The hard limit of a task: a line for each resource, in the order of their numbers (proc(5), limits). prlimit(2) would
 * take CAP_SYS_RESOURCE. -1 where it cannot be read. */
SHARED int notify_hard_limit(int tid, int resource, uint64_t *hard)
{
	char text[4096];
	const char *line = text;

	if (resource < 0 || resource >= RLIM_NLIMITS || notify_proc_text(tid, "limits", text, sizeof text))
		return -1;
	for (int i = 0; line && i <= resource; i++)
		line = (line = strchr(line, '\n')) ? line + 1 : NULL;
	if (!line || strnlen(line, 48) < 48)
		return -1;
	line += 47; /* "%-25s %-20s %-20s": the third column */
	*hard = RLIM_INFINITY;
	if (strncmp(line, "unlimited", 9))
		*hard = strtoull(line, NULL, 10);
	return 0;
}

/* What is known of a file; no server is asked, for which this thread would wait. */
SHARED int notify_stat(int at, const char *name, struct statx *found)
{
	int flags = AT_STATX_DONT_SYNC | (name[0] ? 0 : AT_EMPTY_PATH);

	return !statx(at, name, flags, STATX_TYPE | STATX_MODE | STATX_INO, found);
}

/* A file is the root of its own mount, and has no other name: the host knows which one it gave. */
SHARED void notify_is_given(uint64_t file[2], const struct statx *about)
{
	file[0] = makedev(about->stx_dev_major, about->stx_dev_minor);
	file[1] = about->stx_ino;
}

/* The name of a file that the task has open, for a record. */
static size_t notify_read_open(const struct notify_call *c, int descriptor, char *out, size_t room)
{
	char link[64];

	snprintf(link, sizeof link, "/proc/%d/fd/%d", c->tid, descriptor);
	ssize_t length = readlink(link, out, room);
	struct statx found;
	int unnamed = length == 1 && notify_stat(AT_FDCWD, link, &found) && S_ISREG(found.stx_mode);
	if (length <= 0 || !notify_valid(c))
		return 0;
	if (unnamed)
		notify_is_given(c->l->desk->unnamed, &found);
	return (size_t)length;
}

/* AT_EMPTY_PATH: an empty name stands for the open file itself. */
static int notify_is_open_file(const struct notify_call *c, int argument)
{
	switch (argument == 1 ? c->nr : -1) {
	case SYS_execveat:
		return 1;
	case SYS_linkat:
	case SYS_fchownat:
		return (c->args[4] & AT_EMPTY_PATH) != 0;
	case SYS_utimensat:
	case NOTIFY_FCHMODAT2:
		return (c->args[3] & AT_EMPTY_PATH) != 0;
	default:
		return 0;
	}
}

enum { NOTIFY_SHORT_NAME = 256 };

/* A name in the task's memory, or NULL. It is read once for each call: who asks which question it belongs to, who judges it
 * and who records it see the same bytes. Most are short, and lie in one page. Loop thread only. */
SHARED const char *notify_read_name(const struct notify_call *c, uint64_t address, size_t *length)
{
	struct notify_desk *desk = c->l->desk;
	size_t in_page = 4096 - (size_t)(address % 4096);

	for (int i = 0; i < NOTIFY_COPIES; i++)
		if (desk->copies[i].sandbox == c->sandbox && desk->copies[i].id == c->id &&
		    desk->copies[i].address == address) {
			*length = desk->copies[i].length;
			return desk->copies[i].text;
		}
	struct notify_copy *copy = &desk->copies[desk->next_copy];
	ssize_t got =
		notify_read_some(c, address, copy->text, in_page < NOTIFY_SHORT_NAME ? in_page : NOTIFY_SHORT_NAME);
	copy->sandbox = NULL;
	if (got > 0 && strnlen(copy->text, (size_t)got) == (size_t)got)
		got = notify_read_some(c, address, copy->text, sizeof copy->text);
	if (got <= 0 || !notify_valid(c))
		return NULL;
	desk->next_copy = (desk->next_copy + 1) % NOTIFY_COPIES;
	copy->sandbox = c->sandbox;
	copy->id = c->id;
	copy->address = address;
	*length = copy->length = strnlen(copy->text, (size_t)got);
	return copy->text;
}

/* The directory that a name is looked up from: the argument right before it, where a call has one. */
static int notify_looked_up_from(const struct notify_call *c, int argument)
{
	switch (argument > 0 ? c->nr : -1) {
	case -1:
#ifdef SYS_rename
	case SYS_rename:
	case SYS_link:
	case SYS_symlink:
#endif
		return AT_FDCWD;
	default:
		return (int)c->args[argument - 1];
	}
}

/* A path argument for a record: best effort, bounded, made absolute where the task says from where. */
SHARED size_t notify_read_path(const struct notify_call *c, int argument, char *out, size_t room)
{
	char link[64];
	size_t used = 0, length;

	if (argument & NOTIFY_DESCRIPTOR)
		return notify_read_open(c, (int)c->args[argument & ~NOTIFY_DESCRIPTOR], out, room);
	if (c->nr == SYS_utimensat && !c->args[1]) /* futimens */
		return notify_read_open(c, (int)c->args[0], out, room);
	const char *raw = notify_read_name(c, c->args[argument], &length);

	if (!raw || length == sizeof c->l->desk->copies->text)
		return 0; /* ENAMETOOLONG for every call */
	if (!length && notify_is_open_file(c, argument))
		return notify_read_open(c, (int)c->args[argument - 1], out, room);
	if (length && raw[0] != '/') {
		int from = notify_looked_up_from(c, argument);
		if (from == AT_FDCWD)
			snprintf(link, sizeof link, "/proc/%d/cwd", c->tid);
		else
			snprintf(link, sizeof link, "/proc/%d/fd/%d", c->tid, from);
		ssize_t base = readlink(link, out, room / 2);
		if (base > 0 && out[0] == '/') {
			used = (size_t)base;
			if (out[used - 1] != '/')
				out[used++] = '/';
		}
	}
	if (length > room - used)
		length = room - used;
	memcpy(out + used, raw, length);
	return used + length;
}

/* A name of one of the task's own descriptors, as /proc gives them: its number, or -1. */
static int notify_own_descriptor(const struct notify_call *c, const char *name, size_t length)
{
	char text[64];
	int who, number, end = 0, pid, tid;

	if (length >= sizeof text || length < 8)
		return -1;
	memcpy(text, name, length);
	text[length] = 0;
	if (sscanf(text, "/dev/fd/%d%n", &number, &end) == 1 ||
	    sscanf(text, "/proc/self/fd/%d%n", &number, &end) == 1 ||
	    sscanf(text, "/proc/thread-self/fd/%d%n", &number, &end) == 1)
		return (size_t)end == length ? number : -1;
	if (sscanf(text, "/proc/%d/fd/%d%n", &who, &number, &end) != 2 || (size_t)end != length)
		return -1;
	return !notify_own_ids(c->tid, &pid, &tid) && who == pid ? number : -1;
}

/* What such a name leads to: only the task's own /proc knows. "?" where it cannot be read; 0 for any other name. */
SHARED size_t notify_read_linked(const struct notify_call *c, const char *name, size_t length, char *out, size_t room)
{
	int number = notify_own_descriptor(c, name, length);
	size_t found = number < 0 ? 0 : notify_read_open(c, number, out, room);

	if (number >= 0 && !found)
		out[found++] = '?';
	return found;
}

/* Where the second name of a call stands that has two, or -1. */
SHARED int notify_other_argument(int nr)
{
	switch (nr) {
#ifdef SYS_rename
	case SYS_rename:
	case SYS_link:
		return 1;
#endif
#ifdef SYS_renameat
	case SYS_renameat:
#endif
	case SYS_renameat2:
	case SYS_linkat:
		return 3;
	default:
		return -1;
	}
}
