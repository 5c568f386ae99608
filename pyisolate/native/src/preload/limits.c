/* Limits that the kernel keeps and a guest may meet without a word: descriptors that are no opened files (files.c has those),
 * the size of a file, and room in the workspace for what is to be allocated at once: what a write fills up is seen to be full, but
 * tmpfs takes back what a failed fallocate(2) had. Loaded into the zygote by LD_PRELOAD, as lookups.c is, and reported the same way: by an openat
 * with a mark, which the listener answers without opening anything (notify/decide.c).
 *
 * That the table of descriptors is full the listener sees for itself. That a write met the size, or found no room, it cannot
 * see: there the event says that the guest reports it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../marks.h"

#define EXPORT __attribute__((visibility("default")))

static void report(long nr, long mark)
{
	int error = errno;
	long opened = syscall(SYS_openat, (long)AT_FDCWD, "", (long)(O_PATH | O_CLOEXEC), 0L, nr, mark);

	if (opened >= 0)
		close((int)opened);
	errno = error;
}

static int made(long nr, int result)
{
	if (result < 0 && errno == EMFILE)
		report(nr, (long)NOTIFY_TABLE_FULL);
	return result;
}

#define CALL(nr, ...) made(nr, (int)syscall(nr, __VA_ARGS__))

EXPORT int dup(int fd)
{
	return CALL(SYS_dup, fd);
}

typedef int (*control)(int, int, ...);

static int control_file(const char *name, void **found, int fd, int command, void *argument)
{
	if (command == F_DUPFD || command == F_DUPFD_CLOEXEC) /* a dup, in what it does; fcntl's own limit is another */
		return made(SYS_dup, (int)syscall(SYS_fcntl, fd, command, argument));
	union {
		void *address;
		control call;
	} real = {__atomic_load_n(found, __ATOMIC_RELAXED)};
	if (!real.address) {
		real.address = dlsym(RTLD_NEXT, name);
		__atomic_store_n(found, real.address, __ATOMIC_RELAXED);
	}
	return real.call(fd, command, argument);
}

EXPORT int fcntl(int fd, int command, ...)
{
	static void *real;
	va_list rest;

	va_start(rest, command);
	void *argument = va_arg(rest, void *);
	va_end(rest);
	return control_file("fcntl", &real, fd, command, argument);
}

EXPORT int fcntl64(int fd, int command, ...)
{
	static void *real;
	va_list rest;

	va_start(rest, command);
	void *argument = va_arg(rest, void *);
	va_end(rest);
	return control_file("fcntl64", &real, fd, command, argument);
}

EXPORT int pipe(int ends[2])
{
	return CALL(SYS_pipe2, ends, 0);
}

EXPORT int pipe2(int ends[2], int flags)
{
	return CALL(SYS_pipe2, ends, flags);
}

EXPORT int socket(int domain, int kind, int protocol)
{
	return CALL(SYS_socket, domain, kind, protocol);
}

EXPORT int socketpair(int domain, int kind, int protocol, int ends[2])
{
	return CALL(SYS_socketpair, domain, kind, protocol, ends);
}

EXPORT int epoll_create1(int flags)
{
	return CALL(SYS_epoll_create1, flags);
}

EXPORT int eventfd(unsigned count, int flags)
{
	return CALL(SYS_eventfd2, count, flags);
}

/* A limit that the guest has lowered itself is its own doing. */
static void met_size(int number)
{
	struct rlimit size;

	(void)number;
	if (!syscall(SYS_prlimit64, 0L, (long)RLIMIT_FSIZE, 0L, &size) && size.rlim_cur == size.rlim_max)
		report(SYS_write, (long)NOTIFY_FILE_SIZE);
}

/* The kernel sends SIGXFSZ with every EFBIG of the limit (setrlimit(2)). The interpreter ignores it; this does, and reports. */
EXPORT void pyisolate_report_sizes(void)
{
	struct sigaction action = {.sa_handler = met_size, .sa_flags = SA_RESTART | SA_ONSTACK};

	sigaction(SIGXFSZ, &action, NULL);
}

/* A program that does not handle the signal ends by it: who waits for the program sees that, and reports. */
static void ended_by(int number)
{
	if (number == SIGXFSZ)
		met_size(number);
}

EXPORT pid_t wait4(pid_t pid, int *status, int options, struct rusage *usage)
{
	int own = 0;
	pid_t found = (pid_t)syscall(SYS_wait4, pid, &own, options, usage);

	if (found > 0 && status)
		*status = own;
	if (found > 0 && WIFSIGNALED(own))
		ended_by(WTERMSIG(own));
	return found;
}

EXPORT pid_t waitpid(pid_t pid, int *status, int options)
{
	return wait4(pid, status, options, NULL);
}

EXPORT pid_t wait3(int *status, int options, struct rusage *usage)
{
	return wait4(-1, status, options, usage);
}

EXPORT pid_t wait(int *status)
{
	return wait4(-1, status, 0, NULL);
}

EXPORT int waitid(idtype_t of, id_t id, siginfo_t *into, int options)
{
	siginfo_t own = {0};
	int result = (int)syscall(SYS_waitid, of, id, &own, options, NULL);

	if (!result && into)
		*into = own;
	if (!result && own.si_pid && !(options & WNOWAIT) && own.si_code != CLD_EXITED)
		ended_by(own.si_status);
	return result;
}

/* Not of another file system, which may be full as well: that is no limit of the policy's. */
static void met_no_space(int fd)
{
	struct stat file, workspace;
	int error = errno;

	if (!syscall(SYS_fstat, fd, &file) &&
	    !syscall(SYS_newfstatat, (long)AT_FDCWD, "/./sandbox/workspace", &workspace, 0L) &&
	    file.st_dev == workspace.st_dev)
		report(SYS_fallocate, (long)NOTIFY_NO_SPACE);
	errno = error;
}

EXPORT int fallocate(int fd, int mode, off_t offset, off_t bytes)
{
	int result = (int)syscall(SYS_fallocate, fd, mode, offset, bytes);

	if (result < 0 && errno == ENOSPC)
		met_no_space(fd);
	return result;
}

EXPORT int fallocate64(int fd, int mode, off64_t offset, off64_t bytes)
{
	return fallocate(fd, mode, offset, bytes);
}

/* Answers with the error, and leaves errno alone (posix_fallocate(3)). */
static int allocate(const char *name, void **found, int fd, off_t offset, off_t bytes)
{
	union {
		void *address;
		int (*call)(int, off_t, off_t);
	} real = {__atomic_load_n(found, __ATOMIC_RELAXED)};
	if (!real.address) {
		real.address = dlsym(RTLD_NEXT, name);
		__atomic_store_n(found, real.address, __ATOMIC_RELAXED);
	}
	int error = real.call(fd, offset, bytes);

	if (error == ENOSPC)
		met_no_space(fd);
	return error;
}

EXPORT int posix_fallocate(int fd, off_t offset, off_t bytes)
{
	static void *real;

	return allocate("posix_fallocate", &real, fd, offset, bytes);
}

EXPORT int posix_fallocate64(int fd, off64_t offset, off64_t bytes)
{
	static void *real;

	return allocate("posix_fallocate64", &real, fd, offset, bytes);
}
