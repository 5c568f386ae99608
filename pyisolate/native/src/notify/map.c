/* A file's code that is mapped. No rule, no hook and no security module speaks before the kernel refuses it on a noexec mount, as
 * the root view has what may be read and not run: the listener alone can record that.
 *
 * It looks at the file by an O_PATH descriptor. To close another one would take the record locks on the file from the host's own
 * process (fcntl(2)), and wait for its file system's server (FUSE_FLUSH); nor is a server asked what its mount's options are.
 */
#include "calls.h"

#include <sys/statfs.h>
#include <sys/statvfs.h>

enum { NOTIFY_TABLE = 8192 };

/* What a line of proc_pid_mountinfo(5) says of a device: 1 that its file system is in this kernel alone, 0 that it is none of
 * those, -1 that the line is of another device. */
static int notify_line_is_local(const char *line, const char *device)
{
	static const char *const local[] = {"tmpfs",    "ramfs", "devtmpfs", "overlay", "btrfs", "zfs",
					    "squashfs", "erofs", "proc",     "sysfs",   NULL};
	const char *type = strstr(line, " - ");

	for (int field = 1; field < 3 && line; field++) /* the third */
		line = strchr(line, ' ') ? strchr(line, ' ') + 1 : NULL;
	if (!line || !type || strncmp(line, device, strlen(device)))
		return -1;
	type += strlen(" - ");
	for (int i = 0; local[i]; i++)
		if (!strncmp(type, local[i], strlen(local[i])) && type[strlen(local[i])] == ' ')
			return 1;
	return 0;
}

/* The same of the host's whole table, which has all that a guest may be granted. A device that it has not is not local. */
static int notify_find_local(unsigned int major, unsigned int minor)
{
	char device[32], text[NOTIFY_TABLE + 1];
	size_t have = 0;
	ssize_t got;
	int found = -1, within = 0; /* a line that is longer than there is room for: its start was looked at */

	snprintf(device, sizeof device, "%u:%u ", major, minor);
	int fd = open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	while (found < 0 && (got = read(fd, text + have, NOTIFY_TABLE - have)) > 0) {
		char *line = text, *end;
		have += (size_t)got;
		text[have] = 0;
		while (found < 0 && ((end = strchr(line, '\n')) || (line == text && have == NOTIFY_TABLE))) {
			if (end)
				*end = 0;
			if (!within)
				found = notify_line_is_local(line, device);
			within = !end;
			line = end ? end + 1 : text + have;
		}
		have -= (size_t)(line - text);
		memmove(text, line, have);
	}
	close(fd);
	return found == 1;
}

/* No server is asked about a file of this device: it is on a disk, or in memory. A number that another file system gets later was
 * given up by this one, and what is granted to guests keeps its own. */
static int notify_is_local(notify_listener *l, unsigned int major, unsigned int minor)
{
	uint64_t device = makedev(major, minor);

	if (major)
		return 1; /* a block device's (linux/major.h: 0 is for file systems without one) */
	for (int i = 0; i < NOTIFY_DEVICES; i++)
		if (l->local[i] == device && device)
			return 1;
	if (!notify_find_local(major, minor))
		return 0;
	memmove(l->local + 1, l->local, (NOTIFY_DEVICES - 1) * sizeof *l->local);
	l->local[0] = device;
	return 1;
}

/* Is there anything to record of a file that the kernel maps? What monitor mode lets through, or a shadow policy would refuse. */
static int notify_watches_code(const notify_policy *p)
{
	return p->acts[PYI_IMPORT_NATIVE] == NOTIFY_ACT_WATCH ||
	       (p->shadow && p->shadow->acts[PYI_IMPORT_NATIVE] != NOTIFY_ACT_ALLOW);
}

/* A file of the sandbox's workspace: a tmpfs that no table of mounts has. */
static int notify_is_own(const struct notify_call *c, const struct statx *about)
{
	struct statx own;

	return c->sandbox->own >= 0 && notify_stat(c->sandbox->own, "", &own) &&
	       own.stx_dev_major == about->stx_dev_major && own.stx_dev_minor == about->stx_dev_minor;
}

/* Does the mount by which a file was opened run nothing? Of what was opened as a name alone the kernel says EBADF before. */
static int notify_mount_refuses(const struct notify_call *c, int fd, const struct statx *about)
{
	struct statfs mount;

	if (!notify_is_own(c, about) && !notify_is_local(c->l, about->stx_dev_major, about->stx_dev_minor))
		return 0;
	return !fstatfs(fd, &mount) && mount.f_flags & ST_NOEXEC &&
	       !(notify_about_open(c, (int)c->args[4], "flags:", 8) & O_PATH);
}

/* Nothing else can be mapped as code, wherever it lies, and no rule would change that: files, and /dev/zero, which is memory. */
static int notify_may_be_code(const struct statx *about)
{
	return S_ISREG(about->stx_mode) ||
	       (S_ISCHR(about->stx_mode) && about->stx_rdev_major == 1 && about->stx_rdev_minor == 5);
}

/* Whether a rule grants the file the host finds out from the record, as of a file that is opened. */
SHARED void notify_do_map(const struct notify_call *c)
{
	struct notify_call named = *c;
	struct statx about;
	char link[40], name[NOTIFY_NAME];

	snprintf(link, sizeof link, "/proc/%d/fd/%d", c->tid, (int)c->args[4]);
	int fd = c->args[1] ? open(link, O_PATH | O_CLOEXEC) : -1;
	if (fd < 0 || !notify_stat(fd, "", &about) || !notify_may_be_code(&about)) {
		if (fd >= 0)
			close(fd);
		notify_continue(c); /* the kernel says why not */
		return;
	}
	int refuses = notify_mount_refuses(c, fd, &about);
	if (refuses || notify_watches_code(c->policy)) {
		snprintf(link, sizeof link, "/proc/thread-self/fd/%d", fd);
		ssize_t length = readlink(link, name, sizeof name);
		named.name = name;
		named.name_bytes = length > 0 ? (size_t)length : 0;
		if (length == 1)
			notify_is_given(named.unnamed, &about);
		notify_tell(&named, PYI_IMPORT_NATIVE, NOTIFY_ALLOW, refuses ? EPERM : 0, NULL, NULL);
	}
	close(fd);
	if (refuses)
		notify_result(c, -EPERM);
	else
		notify_continue(c);
}
