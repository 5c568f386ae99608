/* Looking at a name: stat, access, chdir, readlink and their kin. Loaded into the zygote by LD_PRELOAD, beside files.c; the
 * filter lets all of these calls pass, for they can only find what the root view shows.
 *
 * What finds nothing is reported to the listener, by a call that nothing else makes: openat with a mark as its sixth argument
 * (notify/decide.c), which the listener answers without opening anything. Whether there is such a file outside is for the
 * host to find out, after that answer; no guest learns it. Nothing is decided here: a guest that reports nothing, or
 * what it did not look at, has its own events wrong and gains nothing.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../marks.h"

#define EXPORT     __attribute__((visibility("default")))
#define AT         ((long)AT_FDCWD)
#define P(pointer) ((long)(intptr_t)(pointer))

/* "/./" begins what hooks look at for themselves (hooks/paths.py). */
static int is_hooks_own(const char *path)
{
	return path[0] == '/' && path[1] == '.' && path[2] == '/';
}

/* Only absolute names: where the interpreter searches for modules from is no matter of the guest's, and what a relative
 * name leads to is a granted directory nearly always. */
static void report(long nr, const char *path)
{
	int error = errno;

	if ((error != ENOENT && error != ENOTDIR) || *path != '/' || is_hooks_own(path))
		return;
	long opened =
		syscall(SYS_openat, AT, P(path), (long)(O_PATH | O_NOFOLLOW | O_CLOEXEC), 0L, nr, (long)NOTIFY_LOOKED);
	if (opened >= 0) /* no policy decides: a cell that waits, the zygote */
		close((int)opened);
	errno = error;
}

/* The kernel's struct stat is the C library's on both architectures (files.c): no copy is made. */
static int look(long nr, long a, const char *path, long c, long d, long e)
{
	int result = (int)syscall(nr, a, P(path), c, d, e);

	if (result < 0)
		report(nr, path);
	return result;
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
	/* by faccessat2, or by what the C library does before Linux 5.8 */
	union {
		void *address;
		int (*call)(int, const char *, int, int);
	} real = {dlsym(RTLD_NEXT, "faccessat")};
	int result = real.call(at, path, mode, flags);

	if (result < 0)
		report(SYS_faccessat, path);
	return result;
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

EXPORT int chdir(const char *path)
{
	int result = (int)syscall(SYS_chdir, P(path));

	if (result < 0)
		report(SYS_chdir, path);
	return result;
}
