/* Loaded into the zygote by LD_PRELOAD, before the C library: file calls whose refusals the listener learns of, at the
 * price of the refused ones alone.
 *
 * A cell's filter (native/quiet.py) lets file calls pass that return to `pyisolate_quiet_return`, and notifies
 * the listener of all others. Each function here makes its call from there first; where the kernel refuses it, or finds
 * nothing (the root view shows only what is granted), the call is made once more from elsewhere, and the listener
 * records it. The second call has no other effect than the first: it failed. A file that is not there, and that the
 * broker has just granted to the hook of this very call, is not repeated: nothing refused it.
 *
 * Nothing is decided here. Guest code that jumps to the quiet call hides a refusal from the record and gains no right:
 * the kernel decides both calls alike, and the filter's conditions on modes hold at every address. Programs that a cell
 * executes do not load this file: the listener sees all of their file calls.
 *
 * Names that this file does not define (fopen with unusual modes, fts, glob ...) reach the C library, whose own calls
 * are notified. Cancellation points are lost: open(2) of a FIFO does not end at pthread_cancel(3).
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>
#include <utime.h>

#include "../allowed.h"
#include "../marks.h"
#include "own_descriptor.h"

#define EXPORT __attribute__((visibility("default")))

long pyisolate_quiet_call(long nr, long a, long b, long c, long d, long e);
extern const char pyisolate_quiet_return[];

/* seccomp_data.instruction_pointer is the address after the instruction that entered the kernel (seccomp(2)). */
#if defined(__x86_64__)
__asm__(".text\n"
	".globl pyisolate_quiet_call\n.type pyisolate_quiet_call,@function\n"
	".globl pyisolate_quiet_return\n.hidden pyisolate_quiet_return\n"
	"pyisolate_quiet_call:\n"
	"	mov %rdi,%rax\n	mov %rsi,%rdi\n	mov %rdx,%rsi\n	mov %rcx,%rdx\n	mov %r8,%r10\n	mov %r9,%r8\n"
	"	syscall\n"
	"pyisolate_quiet_return:\n"
	"	ret\n"
	".size pyisolate_quiet_call,.-pyisolate_quiet_call\n");
#elif defined(__aarch64__)
__asm__(".text\n"
	".globl pyisolate_quiet_call\n.type pyisolate_quiet_call,%function\n"
	".globl pyisolate_quiet_return\n.hidden pyisolate_quiet_return\n"
	"pyisolate_quiet_call:\n"
	"	mov x8,x0\n	mov x0,x1\n	mov x1,x2\n	mov x2,x3\n	mov x3,x4\n	mov x4,x5\n"
	"	svc #0\n"
	"pyisolate_quiet_return:\n"
	"	ret\n"
	".size pyisolate_quiet_call,.-pyisolate_quiet_call\n");
#else
#error "pyisolate knows the system calls of x86-64 and aarch64 only"
#endif

/* Where quiet calls return to: native/quiet.py asks for it by this name. */
EXPORT uintptr_t pyisolate_quiet_address(void)
{
	return (uintptr_t)pyisolate_quiet_return;
}

/* Set where a policy lets files pass and only records (monitor mode): what succeeds is to be recorded then. No filter lets
 * the calls here pass with telemetry="full", but for look-ups (lookups.c), which are no calls of this file. */
static int no_call_is_quiet, looks_are_reported, files_never_quiet;

EXPORT void pyisolate_quiet_tell_all(int all)
{
	__atomic_store_n(&looks_are_reported, all, __ATOMIC_RELAXED);
	__atomic_store_n(&no_call_is_quiet, all || files_never_quiet, __ATOMIC_RELAXED);
}

EXPORT void pyisolate_quiet_never_files(void)
{
	no_call_is_quiet = files_never_quiet = 1;
}

EXPORT int pyisolate_quiet_tells_looks(void)
{
	return __atomic_load_n(&looks_are_reported, __ATOMIC_RELAXED);
}

/* In the sixth argument, which no call here has: the listener's record then stands for two tries. Above it is what the
 * kernel said to the first one: by the time that the record is judged, the file may be gone. native/quiet.py */
#define PYISOLATE_AGAIN 0x70796973L
#define PYISOLATE_SAID  32

/* What a refusal looks like: Landlock and modes say EACCES, ownership EPERM, the root view EROFS, EXDEV or nothing. */
static int is_refusal(long result)
{
	return result == -EACCES || result == -EPERM || result == -ENOENT || result == -EROFS || result == -EXDEV;
}

/* No filter lets such a mode pass at any address: tried from here, it would be refused and recorded twice. */
static int makes_set_id(long nr, long b, long c, long d)
{
	long mode = nr == SYS_openat ? d : nr == SYS_fchmodat ? c : nr == SYS_fchmod ? b : 0;

	return (mode & 06000) != 0;
}

/* The name that the broker has just granted to this thread's hook, for the open(2) that follows; 0: none (../allowed.h). */
static _Thread_local uint64_t allowed __attribute__((tls_model("initial-exec")));

EXPORT void pyisolate_quiet_allow(uint64_t name)
{
	allowed = name;
}

/* What the policy grants and is not there is no refusal: who asked knows of the grant, and the listener need not look. */
static int is_absence_alone(long nr, long result, uint64_t granted, long at, const char *path, long flags)
{
	return granted && result == -ENOENT && nr == SYS_openat && at == AT_FDCWD && !(flags & (O_CREAT | O_PATH)) &&
	       granted == allowed_name(path, strlen(path));
}

static int ask(long nr, long a, long b, long c, long d, long e)
{
	uint64_t granted = allowed;

	allowed = 0; /* for one call */
	if (makes_set_id(nr, b, c, d) || __atomic_load_n(&no_call_is_quiet, __ATOMIC_RELAXED)) {
		int made = (int)syscall(nr, a, b, c, d, e, 0L);

		return made < 0 && errno == EMFILE ? (int)syscall(nr, a, b, c, d, e, (long)NOTIFY_TABLE_FULL) : made;
	}
	long result = pyisolate_quiet_call(nr, a, b, c, d, e);

	if (is_refusal(result) && nr == SYS_openat &&
	    !(c & O_PATH)) { /* the kernel has read the name: it can be read */
		int number = named_descriptor((const char *)(intptr_t)b);
		int own = number < 0 ? -1 : open_own(number, (int)c);

		if (number >= 0 && (own >= 0 || errno != EACCES))
			return own; /* else the listener answers the same, and records it (notify/own.c) */
	}
	if (is_refusal(result) && !is_absence_alone(nr, result, granted, a, (const char *)(intptr_t)b, c)) {
		int again =
			(int)syscall(nr, a, b, c, d, e, PYISOLATE_AGAIN | -result << PYISOLATE_SAID); /* sets errno */
		if (again < 0 && errno == EEXIST &&
		    nr == SYS_openat) /* Landlock refuses to open a file that open(2) has made by then */
			errno = (int)-result;
		return again;
	}
	if (result == -EMFILE)
		return (int)syscall(nr, a, b, c, d, e, (long)NOTIFY_TABLE_FULL);
	if (result < 0) {
		errno = (int)-result;
		return -1;
	}
	return (int)result;
}

#define P(pointer) ((long)(intptr_t)(pointer))
#define AT         ((long)AT_FDCWD)

/* --- opening ---------------------------------------------------------------------------------------------------- */

static int has_mode(int flags)
{
	return (flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE;
}

static int open_at(int at, const char *path, int flags, mode_t mode)
{
	return ask(SYS_openat, at, P(path), flags, has_mode(flags) ? (long)mode : 0, 0);
}

#define MODE_OF(flags, mode)                                                                                           \
	mode_t mode = 0;                                                                                               \
	if (has_mode(flags)) {                                                                                         \
		va_list rest;                                                                                          \
		va_start(rest, flags);                                                                                 \
		mode = va_arg(rest, mode_t);                                                                           \
		va_end(rest);                                                                                          \
	}

EXPORT int open(const char *path, int flags, ...)
{
	MODE_OF(flags, mode)
	return open_at(AT_FDCWD, path, flags, mode);
}

EXPORT int open64(const char *path, int flags, ...)
{
	MODE_OF(flags, mode)
	return open_at(AT_FDCWD, path, flags | O_LARGEFILE, mode);
}

EXPORT int openat(int at, const char *path, int flags, ...)
{
	MODE_OF(flags, mode)
	return open_at(at, path, flags, mode);
}

EXPORT int openat64(int at, const char *path, int flags, ...)
{
	MODE_OF(flags, mode)
	return open_at(at, path, flags | O_LARGEFILE, mode);
}

/* What open becomes with _FORTIFY_SOURCE where no mode is given. */
int __open_2(const char *path, int flags);
int __open64_2(const char *path, int flags);
int __openat_2(int at, const char *path, int flags);
int __openat64_2(int at, const char *path, int flags);

EXPORT int __open_2(const char *path, int flags)
{
	return open_at(AT_FDCWD, path, flags, 0);
}

EXPORT int __open64_2(const char *path, int flags)
{
	return open_at(AT_FDCWD, path, flags | O_LARGEFILE, 0);
}

EXPORT int __openat_2(int at, const char *path, int flags)
{
	return open_at(at, path, flags, 0);
}

EXPORT int __openat64_2(int at, const char *path, int flags)
{
	return open_at(at, path, flags | O_LARGEFILE, 0);
}

EXPORT int creat(const char *path, mode_t mode)
{
	return open_at(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode);
}

EXPORT int creat64(const char *path, mode_t mode)
{
	return open_at(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC | O_LARGEFILE, mode);
}

EXPORT DIR *opendir(const char *path)
{
	int fd = open_at(AT_FDCWD, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NONBLOCK, 0);
	DIR *directory = fd < 0 ? NULL : fdopendir(fd);

	if (fd >= 0 && !directory) {
		int error = errno;
		close(fd);
		errno = error;
	}
	return directory;
}

/* The flags of fopen(3)'s mode, or -1 for one that the C library alone understands. */
static int flags_of(const char *mode)
{
	int flags = *mode == 'r'   ? O_RDONLY
		    : *mode == 'w' ? O_WRONLY | O_CREAT | O_TRUNC
		    : *mode == 'a' ? O_WRONLY | O_CREAT | O_APPEND
				   : -1;

	for (mode++; flags >= 0 && *mode; mode++)
		switch (*mode) {
		case '+':
			flags = (flags & ~O_ACCMODE) | O_RDWR;
			break;
		case 'e':
			flags |= O_CLOEXEC;
			break;
		case 'x':
			flags |= O_EXCL;
			break;
		case 'b':
			break;
		default:
			return -1;
		}
	return flags;
}

static FILE *open_stream(const char *path, const char *mode, int large, const char *name)
{
	int flags = flags_of(mode);

	if (flags < 0) {
		union {
			void *address;
			FILE *(*call)(const char *, const char *);
		} real = {dlsym(RTLD_NEXT, name)};
		return real.call(path, mode);
	}
	int fd = open_at(AT_FDCWD, path, flags | large, 0666);
	FILE *stream = fd < 0 ? NULL : fdopen(fd, mode);
	if (fd >= 0 && !stream) {
		int error = errno;
		close(fd);
		errno = error;
	}
	return stream;
}

EXPORT FILE *fopen(const char *path, const char *mode)
{
	return open_stream(path, mode, 0, "fopen");
}

EXPORT FILE *fopen64(const char *path, const char *mode)
{
	return open_stream(path, mode, O_LARGEFILE, "fopen64");
}

/* --- names ------------------------------------------------------------------------------------------------------ */

EXPORT int mkdir(const char *path, mode_t mode)
{
	return ask(SYS_mkdirat, AT, P(path), (long)mode, 0, 0);
}

EXPORT int mkdirat(int at, const char *path, mode_t mode)
{
	return ask(SYS_mkdirat, at, P(path), (long)mode, 0, 0);
}

EXPORT int rmdir(const char *path)
{
	return ask(SYS_unlinkat, AT, P(path), AT_REMOVEDIR, 0, 0);
}

EXPORT int unlink(const char *path)
{
	return ask(SYS_unlinkat, AT, P(path), 0, 0, 0);
}

EXPORT int unlinkat(int at, const char *path, int flags)
{
	return ask(SYS_unlinkat, at, P(path), flags, 0, 0);
}

EXPORT int rename(const char *from, const char *to)
{
	return ask(SYS_renameat2, AT, P(from), AT, P(to), 0);
}

EXPORT int renameat(int at, const char *from, int to_at, const char *to)
{
	return ask(SYS_renameat2, at, P(from), to_at, P(to), 0);
}

EXPORT int renameat2(int at, const char *from, int to_at, const char *to, unsigned flags)
{
	return ask(SYS_renameat2, at, P(from), to_at, P(to), (long)flags);
}

EXPORT int link(const char *from, const char *to)
{
	return ask(SYS_linkat, AT, P(from), AT, P(to), 0);
}

EXPORT int linkat(int at, const char *from, int to_at, const char *to, int flags)
{
	return ask(SYS_linkat, at, P(from), to_at, P(to), flags);
}

EXPORT int symlink(const char *to, const char *path)
{
	return ask(SYS_symlinkat, P(to), AT, P(path), 0, 0);
}

EXPORT int symlinkat(const char *to, int at, const char *path)
{
	return ask(SYS_symlinkat, P(to), at, P(path), 0, 0);
}

/* --- contents and metadata -------------------------------------------------------------------------------------- */

EXPORT int truncate(const char *path, off_t length)
{
	return ask(SYS_truncate, P(path), length, 0, 0, 0);
}

EXPORT int truncate64(const char *path, off64_t length)
{
	return ask(SYS_truncate, P(path), length, 0, 0, 0);
}

EXPORT int chmod(const char *path, mode_t mode)
{
	return ask(SYS_fchmodat, AT, P(path), (long)mode, 0, 0);
}

EXPORT int fchmod(int fd, mode_t mode)
{
	return ask(SYS_fchmod, fd, (long)mode, 0, 0, 0);
}

EXPORT int chown(const char *path, uid_t uid, gid_t gid)
{
	return ask(SYS_fchownat, AT, P(path), (long)uid, (long)gid, 0);
}

EXPORT int lchown(const char *path, uid_t uid, gid_t gid)
{
	return ask(SYS_fchownat, AT, P(path), (long)uid, (long)gid, AT_SYMLINK_NOFOLLOW);
}

EXPORT int fchown(int fd, uid_t uid, gid_t gid)
{
	return ask(SYS_fchown, fd, (long)uid, (long)gid, 0, 0);
}

EXPORT int fchownat(int at, const char *path, uid_t uid, gid_t gid, int flags)
{
	return ask(SYS_fchownat, at, P(path), (long)uid, (long)gid, flags);
}

EXPORT int utimensat(int at, const char *path, const struct timespec times[2], int flags)
{
	const char *volatile given = path; /* the header promises a name, callers may not keep the promise */

	if (!given) { /* as the C library answers; the system call would mean the descriptor */
		errno = EINVAL;
		return -1;
	}
	return ask(SYS_utimensat, at, P(path), P(times), flags, 0);
}

EXPORT int futimens(int fd, const struct timespec times[2])
{
	return ask(SYS_utimensat, fd, 0, P(times), 0, 0);
}

EXPORT int utimes(const char *path, const struct timeval times[2])
{
	struct timespec precise[2];

	for (int i = 0; times && i < 2; i++) {
		if (times[i].tv_usec < 0 || times[i].tv_usec >= 1000000) {
			errno = EINVAL;
			return -1;
		}
		precise[i] = (struct timespec){times[i].tv_sec, times[i].tv_usec * 1000};
	}
	return ask(SYS_utimensat, AT, P(path), P(times ? precise : NULL), 0, 0);
}

EXPORT int utime(const char *path, const struct utimbuf *times)
{
	struct timespec precise[2];

	if (times) {
		precise[0] = (struct timespec){times->actime, 0};
		precise[1] = (struct timespec){times->modtime, 0};
	}
	return ask(SYS_utimensat, AT, P(path), P(times ? precise : NULL), 0, 0);
}

EXPORT int setxattr(const char *path, const char *name, const void *value, size_t bytes, int flags)
{
	return ask(SYS_setxattr, P(path), P(name), P(value), (long)bytes, flags);
}

EXPORT int lsetxattr(const char *path, const char *name, const void *value, size_t bytes, int flags)
{
	return ask(SYS_lsetxattr, P(path), P(name), P(value), (long)bytes, flags);
}

EXPORT int fsetxattr(int fd, const char *name, const void *value, size_t bytes, int flags)
{
	return ask(SYS_fsetxattr, fd, P(name), P(value), (long)bytes, flags);
}

EXPORT int removexattr(const char *path, const char *name)
{
	return ask(SYS_removexattr, P(path), P(name), 0, 0, 0);
}

EXPORT int lremovexattr(const char *path, const char *name)
{
	return ask(SYS_lremovexattr, P(path), P(name), 0, 0, 0);
}

EXPORT int fremovexattr(int fd, const char *name)
{
	return ask(SYS_fremovexattr, fd, P(name), 0, 0, 0);
}
