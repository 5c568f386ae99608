/* Looking at a name: stat, access, chdir, readlink, statfs, getxattr and their kin. Loaded into the zygote by LD_PRELOAD, after files.c, by
 * whose quiet address they are made; a cell's filter notifies the listener of all others (notify/look.c).
 *
 * What finds nothing, or is refused, is reported to the listener, by a call that nothing else makes: openat with a mark as its sixth argument
 * (notify/decide.c), which the listener answers without opening anything. Whether there is such a file outside is for the
 * host to find out, after that answer; no guest learns it. Where files are monitored, what is found is reported too. Nothing
 * is decided here: a guest that reports nothing, or what it did not look at, has its own events wrong and gains nothing.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "../marks.h"

#define EXPORT __attribute__((visibility("default")))
#define AT     ((long)AT_FDCWD)
#ifndef SYS_faccessat2
#define SYS_faccessat2 439 /* 5.8 */
#endif
#define P(pointer) ((long)(intptr_t)(pointer))

/* files.c; absent where that is not loaded, and then every look-up is notified. */
long pyisolate_quiet_call(long nr, long a, long b, long c, long d, long e) __attribute__((weak));
int pyisolate_quiet_tells_looks(void) __attribute__((weak));

/* "/./" begins what hooks look at for themselves (hooks/paths.py). */
static int is_hooks_own(const char *path)
{
	return path[0] == '/' && path[1] == '.' && path[2] == '/';
}

/* The kernel has read the name: it can be read. `flags` say whether a link itself was looked at, `mode` is access's. */
static void report(long nr, long at, const char *path, int flags, int mode)
{
	int error = errno;

	if (!*path || is_hooks_own(path))
		return;
	long opened = syscall(SYS_openat, at, P(path), (long)(O_PATH | O_NOFOLLOW | O_CLOEXEC),
			      (flags & AT_SYMLINK_NOFOLLOW) | (long)(mode & 07) << NOTIFY_LOOKED_MODE, nr,
			      (long)NOTIFY_LOOKED);
	if (opened >= 0) /* no policy decides: a cell that waits, the zygote */
		close((int)opened);
	errno = error;
}

/* The root view has no such name, or covers it: nothing can be looked at below a cover, nor a cover be used. */
static int is_hidden(long error)
{
	return error == ENOENT || error == ENOTDIR || error == EACCES;
}

/* Report what was looked at, as it went, and answer as the C library does. */
static long looked(long result, long nr, long at, const char *path, int flags, int mode)
{
	if (result < 0)
		errno = (int)-result;
	if (is_hidden(-result) ||
	    (result != -EFAULT && path && pyisolate_quiet_tells_looks())) /* EINVAL: it is no link */
		report(nr, at, path, flags, mode);
	return result < 0 ? -1 : result;
}

/* The kernel's struct stat is the C library's on both architectures (files.c): no copy is made. */
static int look(long nr, long at, const char *path, long c, long d, long e)
{
	if (!pyisolate_quiet_call)
		return (int)syscall(nr, at, P(path), c, d, e);
	return (int)looked(pyisolate_quiet_call(nr, at, P(path), c, d, e), nr, at, path,
			   (int)(nr == SYS_statx                                ? c
				 : nr == SYS_newfstatat || nr == SYS_faccessat2 ? d
										: 0),
			   nr == SYS_faccessat || nr == SYS_faccessat2 ? (int)c : 0);
}

/* Of calls that have no directory of their own before the name. */
static long look_from_here(long nr, const char *path, long b, long c, long d)
{
	if (!pyisolate_quiet_call)
		return syscall(nr, P(path), b, c, d);
	return looked(pyisolate_quiet_call(nr, P(path), b, c, d, 0), nr, AT, path, 0, 0);
}

EXPORT int stat(const char *path, struct stat *into)
{
	return look(SYS_newfstatat, AT, path, P(into), 0, 0);
}

EXPORT int stat64(const char *path, struct stat64 *into)
{
	return look(SYS_newfstatat, AT, path, P(into), 0, 0);
}

EXPORT int lstat(const char *path, struct stat *into)
{
	return look(SYS_newfstatat, AT, path, P(into), AT_SYMLINK_NOFOLLOW, 0);
}

EXPORT int lstat64(const char *path, struct stat64 *into)
{
	return look(SYS_newfstatat, AT, path, P(into), AT_SYMLINK_NOFOLLOW, 0);
}

EXPORT int fstatat(int at, const char *path, struct stat *into, int flags)
{
	return look(SYS_newfstatat, at, path, P(into), flags, 0);
}

EXPORT int fstatat64(int at, const char *path, struct stat64 *into, int flags)
{
	return look(SYS_newfstatat, at, path, P(into), flags, 0);
}

EXPORT int statx(int at, const char *restrict path, int flags, unsigned mask, struct statx *restrict into)
{
	return look(SYS_statx, at, path, flags, (long)mask, P(into));
}

EXPORT int access(const char *path, int mode)
{
	return look(SYS_faccessat, AT, path, mode, 0, 0);
}

EXPORT int faccessat(int at, const char *path, int mode, int flags)
{
	if (!flags)
		return look(SYS_faccessat, at, path, mode, 0, 0);
	int result = look(SYS_faccessat2, at, path, mode, flags, 0);

	if (result == 0 || errno != ENOSYS)
		return result;
	/* what the C library does before Linux 5.8 is notified */
	union {
		void *address;
		int (*call)(int, const char *, int, int);
	} real = {dlsym(RTLD_NEXT, "faccessat")};
	return real.call(at, path, mode, flags);
}

EXPORT int eaccess(const char *path, int mode)
{
	return faccessat(AT_FDCWD, path, mode, AT_EACCESS);
}

EXPORT int euidaccess(const char *path, int mode)
{
	return faccessat(AT_FDCWD, path, mode, AT_EACCESS);
}

EXPORT ssize_t readlink(const char *restrict path, char *restrict into, size_t room)
{
	return look(SYS_readlinkat, AT, path, P(into), (long)room, 0);
}

EXPORT ssize_t readlinkat(int at, const char *restrict path, char *restrict into, size_t room)
{
	return look(SYS_readlinkat, at, path, P(into), (long)room, 0);
}

EXPORT int statfs(const char *path, struct statfs *into)
{
	return (int)look_from_here(SYS_statfs, path, P(into), 0, 0);
}

EXPORT int statfs64(const char *path, struct statfs64 *into)
{
	return (int)look_from_here(SYS_statfs, path, P(into), 0, 0);
}

EXPORT ssize_t getxattr(const char *path, const char *name, void *value, size_t size)
{
	return look_from_here(SYS_getxattr, path, P(name), P(value), (long)size);
}

EXPORT ssize_t lgetxattr(const char *path, const char *name, void *value, size_t size)
{
	return look_from_here(SYS_lgetxattr, path, P(name), P(value), (long)size);
}

EXPORT ssize_t listxattr(const char *path, char *names, size_t size)
{
	return look_from_here(SYS_listxattr, path, P(names), (long)size, 0);
}

EXPORT ssize_t llistxattr(const char *path, char *names, size_t size)
{
	return look_from_here(SYS_llistxattr, path, P(names), (long)size, 0);
}

/* Where it succeeds, the name is none of the new directory's: it is not repeated, but made where it is notified. */
EXPORT int chdir(const char *path)
{
	if (!pyisolate_quiet_call || pyisolate_quiet_tells_looks())
		return (int)syscall(SYS_chdir, P(path));
	long result = pyisolate_quiet_call(SYS_chdir, P(path), 0, 0, 0, 0);

	if (result >= 0)
		return (int)result;
	errno = (int)-result;
	if (is_hidden(-result))
		report(SYS_chdir, AT, path, 0, 0);
	return -1;
}
