/* What a call meets under a name when it comes, in the guest's own view. */
#include "facts.h"

/* What the thread sees as "/", or -1. Opening it costs as much as all the rest of a look-up; it is believed no longer than a
 * thread's number, for a cell enters its root view once, and a thread does not change it. */
SHARED int notify_root(const struct notify_call *c)
{
	struct notify_sandbox *s = c->sandbox;
	uint64_t now = notify_now();
	char link[40];

	if (s->root_tid == c->tid && now - s->root_ns < NOTIFY_NAME_NS)
		return s->root;
	notify_drop_held(&s->root_tid, s->root);
	snprintf(link, sizeof link, "/proc/%d/root", c->tid);
	s->root = open(link, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (s->root < 0)
		return -1;
	s->root_tid = c->tid;
	s->root_ns = now;
	if (!notify_valid(c))
		notify_drop_held(&s->root_tid, s->root);
	return s->root_tid ? s->root : -1;
}

static int notify_open_met(int from, const char *name, uint64_t flags)
{
	struct open_how how = {
		.flags = O_PATH | O_CLOEXEC | flags,
		.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | RESOLVE_CACHED,
	};

	return (int)syscall(SYS_openat2, from, name, &how, sizeof how);
}

/* The path of an open directory as the guest has it, or 0. */
static size_t notify_path_of(int folder, char *out, size_t room)
{
	char link[40];

	snprintf(link, sizeof link, "/proc/thread-self/fd/%d", folder);
	ssize_t length = readlink(link, out, room);
	size_t gone = sizeof " (deleted)" - 1;

	if (length <= 0 || (size_t)length == room || out[0] != '/')
		return 0;
	return (size_t)length > gone && !memcmp(out + length - gone, " (deleted)", gone) ? 0 : (size_t)length;
}

/* Does no server answer for a file? A disk has a device. What has none and keeps a file's own flags is memory (since Linux 6.0) or
 * stands above a disk (overlay, btrfs): no server's file system says so of its files (FUSE, NFS, CIFS, 9p; fs/fuse/dir.c). */
static int notify_is_near(const struct statx *state)
{
	uint64_t flags = STATX_ATTR_APPEND | STATX_ATTR_IMMUTABLE;

	return state->stx_dev_major || (state->stx_attributes_mask & flags) == flags;
}

/* The text of a link is read where no server is asked for it. */
static uint8_t notify_kind_of(int met)
{
	struct statx state;

	if (!notify_stat(met, "", &state))
		return NOTIFY_MET_UNKNOWN;
	if (!S_ISLNK(state.stx_mode))
		return NOTIFY_MET_OTHER;
	return notify_is_near(&state) ? NOTIFY_MET_LINK : NOTIFY_MET_UNKNOWN;
}

/* What is there of a name as the call comes, in the guest's own view: the record is judged later, when the guest may have put
 * something else in its place. Where that is known, the links of the name's directory are followed in `name` itself, and of a
 * link `says` is the length of what it says, which stands after the name. Telemetry: another thread of the guest may change
 * the name before its call goes on. `room` is that of each of both. */
SHARED uint8_t notify_met(const struct notify_call *c, char *name, size_t *length, size_t room, size_t *says)
{
	char own[NOTIFY_NAME], *last = strrchr(name, '/');
	int root;

	*says = 0;
	if (name[0] != '/' || !last[1] || !strcmp(last, "/.") || !strcmp(last, "/..") || !strncmp(name, "/proc/", 6) ||
	    strstr(name, "/../") || /* what it goes through is judged by the name as it was written */
	    (root = notify_root(c)) < 0)
		return NOTIFY_MET_UNKNOWN;
	*last = 0;
	int folder = notify_open_met(root, last == name ? "/" : name, O_DIRECTORY);
	*last = '/';
	if (folder < 0)
		return NOTIFY_MET_UNKNOWN;
	int met = notify_open_met(folder, last + 1, O_NOFOLLOW);
	uint8_t kind = met >= 0 ? notify_kind_of(met) : errno == ENOENT ? NOTIFY_MET_NOTHING : NOTIFY_MET_UNKNOWN;
	size_t above = notify_path_of(folder, own, sizeof own), tail = strlen(last);
	close(folder);
	if (!above || above + tail >= room)
		kind = NOTIFY_MET_UNKNOWN;
	if (kind != NOTIFY_MET_UNKNOWN) {
		above -= above == 1; /* "/" */
		memmove(name + above, last, tail + 1);
		memcpy(name, own, above);
		*length = above + tail;
	}
	ssize_t link = kind == NOTIFY_MET_LINK ? readlinkat(met, "", name + *length, room) : 0;
	if (met >= 0)
		close(met);
	*says = link > 0 ? (size_t)link : 0;
	return kind == NOTIFY_MET_LINK && link <= 0 ? NOTIFY_MET_UNKNOWN : kind;
}
