/* Look-ups: stat, access, chdir, readlink, statfs, getxattr and their kin. No right is asked for, so nothing is decided; what the guest does
 * not find is recorded, and the host finds out later whether there is such a file outside. Where files are monitored all is
 * recorded, for what is to be found there is not what enforcing would show.
 *
 * A record of a look-up never waits for a drain, which takes longer where there is such a file: it has places of its own in
 * the ring, and is counted where they are taken. In monitor mode, where the guest sees it for itself, it waits as others do.
 */
#include "calls.h"

#define NOTIFY_FACCESSAT2 439

static void notify_tell_look(const struct notify_call *c)
{
	struct notify_sandbox *s = c->sandbox;

	if (c->policy->flags & NOTIFY_MONITOR_FILES || notify_ring_looks(s) < NOTIFY_LOOKS) {
		notify_tell(c, PYI_FS_LOOKUP, NOTIFY_ALLOW, 0, NULL, NULL);
	} else { /* in this order: who reads the second finds it in the first */
		__atomic_add_fetch(&s->lost, 1, __ATOMIC_SEQ_CST);
		__atomic_add_fetch(&s->unlooked, 1, __ATOMIC_SEQ_CST);
	}
}

/* The call has no directory of its own before the name. */
static int notify_names_first(uint64_t nr)
{
	return nr == SYS_chdir || nr == SYS_statfs || nr == SYS_getxattr || nr == SYS_lgetxattr ||
	       nr == SYS_listxattr || nr == SYS_llistxattr;
}

/* A look-up as the guest's C library reports it (preload/lookups.c), its flags in the fourth argument, the call in the fifth. */
SHARED void notify_do_look(const struct notify_call *c)
{
	struct notify_call looked = *c;
	uint64_t nr = c->args[4];

	looked.nr = notify_names_first(nr) || nr == SYS_faccessat || nr == NOTIFY_FACCESSAT2 || nr == SYS_readlinkat ||
				    nr == SYS_statx
			    ? (int)nr
			    : SYS_newfstatat;
	if (notify_names_first(nr))
		looked.args[0] = c->args[1];
	if (looked.nr == SYS_faccessat || looked.nr == NOTIFY_FACCESSAT2)
		looked.args[2] = c->args[3] >> NOTIFY_LOOKED_MODE;
	if (looked.nr == SYS_statx)
		looked.args[2] = c->args[3]; /* where the call itself has its flags; the others have them there */
	if (c->policy->flags & NOTIFY_FULL)
		notify_tell_look(&looked);
	notify_result(c, -ENOENT);
}

/* The call is about a link itself, not about what it leads to. */
static int notify_looks_at_link(const struct notify_call *c)
{
	switch (c->nr) {
#ifdef SYS_lstat
	case SYS_lstat:
	case SYS_readlink:
#endif
	case SYS_readlinkat:
	case SYS_lgetxattr:
	case SYS_llistxattr:
		return 1;
	case SYS_newfstatat:
	case NOTIFY_FACCESSAT2:
		return (c->args[3] & AT_SYMLINK_NOFOLLOW) != 0;
	case SYS_statx:
		return (c->args[2] & AT_SYMLINK_NOFOLLOW) != 0;
	default:
		return 0;
	}
}

/* The call also asks to enter or to use what it finds: KernelRecord.uses. */
static int notify_look_uses(const struct notify_call *c)
{
	switch (c->nr) {
	case SYS_chdir:
		return 1;
#ifdef SYS_access
	case SYS_access:
		return c->args[1] & 07;
#endif
	case SYS_faccessat:
	case NOTIFY_FACCESSAT2:
		return c->args[2] & 07;
	default:
		return 0;
	}
}

/* What covers a denied name in the root view (kernel/rootview/build.py), or the guest's own file that looks alike. */
static int notify_is_cover(int found)
{
	struct statx state;

	return notify_stat(found, "", &state) && !(state.stx_mode & 0777);
}

/* Is there something of this name where the guest looks, which it can use as the call says? It could be another name by the time that it does: then its own
 * event is wrong. -1 where only a disk or a server could tell, for which this thread does not wait. */
static int notify_finds(const struct notify_call *c, const char *name)
{
	struct open_how how = {
		.flags = O_PATH | O_CLOEXEC | (notify_looks_at_link(c) ? O_NOFOLLOW : 0),
		.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | RESOLVE_CACHED,
	};
	int root = notify_root(c);
	int found = root < 0 ? -1 : (int)syscall(SYS_openat2, root, name, &how, sizeof how);

	if (found >= 0) {
		int useless = notify_look_uses(c) && notify_is_cover(found);

		close(found);
		return !useless;
	}
	return root >= 0 && (errno == ENOENT || errno == ENOTDIR) ? 0 : -1;
}

/* A look-up that goes on: of a program, or of code that went round the C library. "/./" begins the names by which hooks
 * look for themselves (hooks/paths.py). */
SHARED void notify_watch_look(const struct notify_call *c)
{
	char name[NOTIFY_NAME];
	size_t length;

	if (!(c->policy->flags & NOTIFY_FULL))
		return;
	length = notify_read_path(c, c->l->path_argument[c->nr], name, sizeof name - 1);
	if (!length || !strncmp(name, "/./", 3))
		return;
	name[length] = 0;
	if (c->policy->flags & NOTIFY_MONITOR_FILES || c->policy->shadow || notify_finds(c, name) != 1)
		notify_tell_look(c);
}
