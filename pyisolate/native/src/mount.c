/* mount(2) and the descriptor-based mount calls (open_tree, move_mount, fsopen: 5.2; openat2: 5.6;
 * mount_setattr: 5.12). By number, not by glibc's wrappers, which came with 2.36. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "result.h"
#include "shared.h"

/* asm-generic/unistd.h: the same numbers on every architecture */
enum {
	MOUNT_NR_OPEN_TREE = 428,
	MOUNT_NR_MOVE_MOUNT = 429,
	MOUNT_NR_FSOPEN = 430,
	MOUNT_NR_FSCONFIG = 431,
	MOUNT_NR_FSMOUNT = 432,
	MOUNT_NR_OPENAT2 = 437,
	MOUNT_NR_SETATTR = 442,
};

/* linux/mount.h */
enum { MOUNT_FSOPEN_CLOEXEC = 1, MOUNT_FSMOUNT_CLOEXEC = 1, MOUNT_SET_STRING = 1, MOUNT_CMD_CREATE = 6 };
struct mount_attributes {
	uint64_t set, clear, propagation, userns_fd;
};

/* linux/openat2.h */
struct mount_open_how {
	uint64_t flags, mode, resolve;
};

SHARED int mount_open_tree(int dirfd, const char *path, unsigned int flags)
{
	return result_of(syscall(MOUNT_NR_OPEN_TREE, dirfd, path, flags));
}

SHARED int mount_move(int from_dirfd, const char *from_path, int to_dirfd, const char *to_path, unsigned int flags)
{
	return result_of(syscall(MOUNT_NR_MOVE_MOUNT, from_dirfd, from_path, to_dirfd, to_path, flags));
}

SHARED int mount_setattr_(int dirfd, const char *path, unsigned int flags, unsigned long long attr_set,
			  unsigned long long attr_clr, unsigned long long propagation)
{
	struct mount_attributes attr = {attr_set, attr_clr, propagation, 0};
	return result_of(syscall(MOUNT_NR_SETATTR, dirfd, path, flags, &attr, sizeof attr));
}

/* fsopen, fsconfig..., fsmount in one: a detached tmpfs, so that no path on the host is needed to stage it. */
SHARED int mount_new_tmpfs(const char **keys, const char **values, int count, unsigned int attributes)
{
	int context = result_of(syscall(MOUNT_NR_FSOPEN, "tmpfs", MOUNT_FSOPEN_CLOEXEC));
	if (context < 0)
		return context;
	int result = 0;
	for (int i = 0; i < count && result >= 0; i++)
		result = result_of(syscall(MOUNT_NR_FSCONFIG, context, MOUNT_SET_STRING, keys[i], values[i], 0));
	if (result >= 0)
		result = result_of(syscall(MOUNT_NR_FSCONFIG, context, MOUNT_CMD_CREATE, NULL, NULL, 0));
	if (result >= 0)
		result = result_of(syscall(MOUNT_NR_FSMOUNT, context, MOUNT_FSMOUNT_CLOEXEC, attributes));
	close(context);
	return result;
}

SHARED int mount_mount(const char *source, const char *target, const char *type, unsigned long flags, const char *data)
{
	return result_of(mount(source, target, type, flags, data));
}

SHARED int mount_umount2(const char *target, int flags)
{
	return result_of(umount2(target, flags));
}

SHARED int mount_unshare(int flags)
{
	return result_of(unshare(flags));
}

SHARED int mount_openat2(int dirfd, const char *path, unsigned long long flags, unsigned long long resolve)
{
	struct mount_open_how how = {flags, 0, resolve};
	return result_of(syscall(MOUNT_NR_OPENAT2, dirfd, path, &how, sizeof how));
}

/* glibc has it since 2.28 */
SHARED int mount_renameat2(int from, const char *name, int to, const char *new_name, unsigned int flags)
{
	return result_of(syscall(SYS_renameat2, from, name, to, new_name, flags));
}

/* Of what a descriptor is about, a link itself included. */
SHARED int mount_chown(int fd, unsigned int uid, unsigned int gid)
{
	return result_of(fchownat(fd, "", uid, gid, AT_EMPTY_PATH));
}

/* One C call on the hand-out path: 4 us in all. */
SHARED int mount_enter_root(int tree_fd)
{
	if (fchdir(tree_fd) < 0 || chroot(".") < 0 || chdir("/") < 0)
		return -errno;
	return 0;
}
