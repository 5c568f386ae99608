/* Unix sockets in a sandbox's workspace: its processes bind them, and reach one another there.
 *
 * A name is looked up below the workspace's own directory, by a descriptor that the supervisor has: whatever the guest
 * makes of its names and links, nothing else is reached. No call waits here: see notify_open_own. */
#include "facts.h"

#include <limits.h>

/* A rename of the guest's, or any mount of the host's, can come between (-EAGAIN): not so often in a row. */
#define NOTIFY_TRIES 8

static const char notify_workspace[] = "/sandbox/workspace"; /* policy/workspace.py, HOME */

/* What follows a directory's name in a path; NULL where the path does not begin with it. */
static const char *notify_below(const char *path, const char *directory)
{
	size_t length = strlen(directory);

	if (strncmp(path, directory, length) || (path[length] && path[length] != '/'))
		return NULL;
	for (path += length; *path == '/'; path++)
		;
	return path;
}

/* The name of a unix address, relative to the workspace, in `name` of `room` bytes; 0 where it leads elsewhere. */
static int notify_own_name(const struct notify_call *c, const struct notify_endpoint *e, char *name, size_t room)
{
	char path[sizeof e->raw.un.sun_path + 1] = {0}, link[64], cwd[PATH_MAX];
	const char *rest = NULL, *above = NULL;

	memcpy(path, e->raw.un.sun_path, notify_unix_path(e));
	if (path[0] == '/') {
		rest = notify_below(path, notify_workspace);
		if (!rest && c->policy->flags & NOTIFY_OWN_TMP)
			rest = notify_below(path, "/tmp");
		if (!rest && c->policy->flags & NOTIFY_OWN_SHM)
			rest = notify_below(path, "/dev/shm");
		return rest && *rest && (size_t)snprintf(name, room, "%s", rest) < room;
	}
	snprintf(link, sizeof link, "/proc/%d/cwd", c->tid);
	ssize_t got = readlink(link, cwd, sizeof cwd - 1);
	if (got > 0 && notify_valid(c)) {
		cwd[got] = 0;
		above = notify_below(cwd, notify_workspace);
	}
	return above && (size_t)snprintf(name, room, "%s%s%s", above, *above ? "/" : "", path) < room;
}

/* The name goes above the workspace: without a lock openat2 says -EAGAIN of that, too. No part of it is followed as a link,
 * so that ".." takes back the part before it. */
static int notify_leaves(const char *name)
{
	int depth = 0;

	for (size_t length; *name && depth >= 0; name += length + (name[length] == '/')) {
		length = strcspn(name, "/");
		if (length == 2 && !memcmp(name, "..", 2))
			depth--;
		else if (length && !(length == 1 && *name == '.'))
			depth++;
	}
	return depth < 0;
}

/* Open a name as far as memory has it. A tmpfs keeps every name that is there, so what has to be looked up is not there:
 * -EAGAIN is -ENOENT. To look it up would take the directory's lock, which guests hold, and those may be throttled. */
static int notify_open_own(const struct notify_call *c, const char *name, uint64_t flags)
{
	const struct open_how how = {.flags = flags | O_PATH | O_CLOEXEC | O_NOFOLLOW,
				     .resolve = RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS |
						RESOLVE_BENEATH | RESOLVE_CACHED};
	int fd = -1;

	if (notify_leaves(name))
		return -EXDEV;
	for (int tries = 0; fd < 0 && tries < NOTIFY_TRIES; tries++) {
		fd = (int)syscall(SYS_openat2, c->sandbox->own, name, &how, sizeof how);
		if (fd < 0 && errno != EAGAIN)
			return -errno;
	}
	return fd < 0 ? -ENOENT : fd;
}

/* What connect says of a name that is not there: of one below a file, that this is no directory. */
static int notify_absent(const struct notify_call *c, char *name)
{
	struct stat about = {0};
	char *last = strrchr(name, '/');
	int error = -ENOENT;

	if (!last)
		return error;
	*last = 0;
	int above = notify_open_own(c, name, 0);
	if (above < 0)
		return above;
	if (!fstat(above, &about) && S_ISLNK(about.st_mode))
		error = -ELOOP;
	else if (!S_ISDIR(about.st_mode))
		error = -ENOTDIR;
	close(above);
	return error;
}

/* None where a directory of the host's is mounted: between check and call the guest could turn a link to it, or move it, and
 * Landlock, which knows both by what is above them, would let it make a socket there. */
static int notify_has_own(const struct notify_call *c, const struct notify_endpoint *e)
{
	return c->policy->flags & NOTIFY_OWN_SOCKETS && c->sandbox->own >= 0 && !c->sandbox->shared &&
	       notify_unix_path(e) > 0;
}

/* Open the socket that an address names in the workspace, and name it by descriptor in `held`. The descriptor; -EXDEV
 * where the address leads elsewhere, and is for the policy's rules; else -errno, which is the call's own. */
SHARED int notify_hold_own(const struct notify_call *c, const struct notify_endpoint *e, struct notify_endpoint *held)
{
	char name[PATH_MAX];
	struct stat about = {0};

	if (!notify_has_own(c, e) || !notify_own_name(c, e, name, sizeof name))
		return -EXDEV;
	int fd = notify_open_own(c, name, 0);
	if (fd == -ENOENT)
		fd = notify_absent(c, name);
	if (fd < 0)
		return fd == -ELOOP ? -EXDEV : fd;
	if (fstat(fd, &about) || !S_ISSOCK(about.st_mode)) {
		close(fd);
		return S_ISLNK(about.st_mode) ? -EXDEV : -ECONNREFUSED;
	}
	notify_by_descriptor(fd, held);
	return fd;
}

/* 1 where an address to bind is a new name in the workspace: the guest makes it there itself, and Landlock lets it make
 * sockets nowhere else. In monitor mode, where the call may go anywhere, enforcing would let this one pass. */
SHARED int notify_binds_own(const struct notify_call *c, const struct notify_endpoint *e)
{
	char name[PATH_MAX];

	int may = notify_may_continue(c) || c->policy->flags & NOTIFY_MONITOR_NET;

	if (!may || !notify_has_own(c, e) || !notify_own_name(c, e, name, sizeof name))
		return 0;
	char *last = strrchr(name, '/');
	if (last)
		*last = 0;
	int fd = notify_open_own(c, last ? name : ".", O_DIRECTORY);
	if (fd >= 0)
		close(fd);
	return fd >= 0 || fd == -ENOENT;
}
