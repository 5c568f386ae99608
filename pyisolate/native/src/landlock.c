/* landlock(7): the three system calls, and a live probe that runs in a child of raw system calls only.
 *
 * The structs are spelt out here, not taken from linux/landlock.h: Debian 12's header knows ABI 2, this kernel ABI 7.
 * All-zero tails are accepted by kernels that do not know them (copy_struct_from_user), so one size serves all ABIs.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "landlock.types.h"
#include "result.h"
#include "shared.h"

/* asm-generic/unistd.h, 5.13: the same numbers on every architecture */
enum { LANDLOCK_NR_CREATE = 444, LANDLOCK_NR_ADD = 445, LANDLOCK_NR_RESTRICT = 446 };

/* linux/landlock.h */
enum { LANDLOCK_ATTR_VERSION = 1 << 0, LANDLOCK_ATTR_ERRATA = 1 << 1 };
enum { LANDLOCK_TYPE_PATH = 1, LANDLOCK_TYPE_PORT = 2 };
struct landlock_ruleset {
	uint64_t fs, net, scoped;
}; /* fs: ABI 1, net: 4, scoped: 6 */
struct landlock_path {
	uint64_t allowed;
	int32_t parent_fd;
} __attribute__((packed));
struct landlock_port {
	uint64_t allowed, port;
}; /* port in host byte order, ABI 4 */

SHARED int landlock_abi_version(void)
{
	return result_of(syscall(LANDLOCK_NR_CREATE, NULL, 0, LANDLOCK_ATTR_VERSION));
}

SHARED int landlock_errata(void)
{
	return result_of(syscall(LANDLOCK_NR_CREATE, NULL, 0, LANDLOCK_ATTR_ERRATA)); /* 6.15; EINVAL before */
}

SHARED int landlock_create(unsigned long long handled_fs, unsigned long long handled_net, unsigned long long scoped)
{
	struct landlock_ruleset attr = {handled_fs, handled_net, scoped};
	return result_of(syscall(LANDLOCK_NR_CREATE, &attr, sizeof attr, 0)); /* the descriptor is close-on-exec */
}

SHARED int landlock_add_path(int ruleset_fd, unsigned long long allowed, int path_fd)
{
	struct landlock_path rule = {allowed, path_fd};
	return result_of(syscall(LANDLOCK_NR_ADD, ruleset_fd, LANDLOCK_TYPE_PATH, &rule, 0));
}

SHARED int landlock_add_port(int ruleset_fd, unsigned long long allowed, unsigned long long port)
{
	struct landlock_port rule = {allowed, port};
	return result_of(syscall(LANDLOCK_NR_ADD, ruleset_fd, LANDLOCK_TYPE_PORT, &rule, 0));
}

SHARED int landlock_restrict(int ruleset_fd, unsigned int flags)
{
	return result_of(syscall(LANDLOCK_NR_RESTRICT, ruleset_fd, flags));
}

static int landlock_try_open(const char *path)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return errno;
	close(fd);
	return 0;
}

/* connect() to the discard port of loopback: Landlock answers EACCES before any packet leaves. */
static int landlock_try_connect(void)
{
	struct sockaddr_in address = {
		.sin_family = AF_INET, .sin_port = htons(9), .sin_addr = {htonl(INADDR_LOOPBACK)}};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return errno;
	int error = connect(fd, (struct sockaddr *)&address, sizeof address) < 0 ? errno : 0;
	close(fd);
	return error;
}

/* Steps: what the reader of a failed probe needs to know, in order. */
enum {
	LANDLOCK_STEP_CONTROL = 1, /* before restriction both directories must open, else the probe proves nothing */
	LANDLOCK_STEP_CREATE,
	LANDLOCK_STEP_RULE,
	LANDLOCK_STEP_NO_NEW_PRIVS,
	LANDLOCK_STEP_RESTRICT,
	LANDLOCK_STEP_ALLOWED, /* the granted directory must still open */
	LANDLOCK_STEP_DENIED,  /* the other must not, and with EACCES */
};

/* Runs in the child. No Python, no malloc, no stdio: other threads' locks may be held for ever here. */
static void landlock_probe_child(const char *granted, const char *outside, unsigned long long handled_fs,
				 unsigned long long granted_fs, unsigned long long handled_net,
				 unsigned long long scoped, pid_t parent, struct landlock_probe_result *result)
{
	int tcp_before, signal_before, fd, ruleset, error;

	result->step = LANDLOCK_STEP_CONTROL;
	if ((result->error = landlock_try_open(granted)) || (result->error = landlock_try_open(outside)))
		return;
	tcp_before = landlock_try_connect();
	signal_before = kill(parent, 0) < 0 ? errno : 0;

	result->step = LANDLOCK_STEP_CREATE;
	ruleset = landlock_create(handled_fs, handled_net, scoped);
	if (ruleset < 0) {
		result->error = -ruleset;
		return;
	}
	result->step = LANDLOCK_STEP_RULE;
	fd = open(granted, O_PATH | O_CLOEXEC);
	error = fd < 0 ? -errno : landlock_add_path(ruleset, granted_fs, fd);
	if (error < 0) {
		result->error = -error;
		return;
	}
	result->step = LANDLOCK_STEP_NO_NEW_PRIVS;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) {
		result->error = errno;
		return;
	}
	result->step = LANDLOCK_STEP_RESTRICT;
	error = landlock_restrict(ruleset, 0);
	if (error < 0) {
		result->error = -error;
		return;
	}
	result->step = LANDLOCK_STEP_ALLOWED;
	if ((result->error = landlock_try_open(granted)))
		return;
	result->step = LANDLOCK_STEP_DENIED;
	result->error = landlock_try_open(outside);
	if (result->error != EACCES)
		return;
	result->tcp_denied = handled_net != 0 && tcp_before != EACCES && landlock_try_connect() == EACCES;
	result->signal_denied = scoped != 0 && signal_before == 0 && kill(parent, 0) < 0 && errno == EPERM;
	result->step = 0;
	result->error = 0;
}

SHARED int landlock_probe(const char *granted, const char *outside, unsigned long long handled_fs,
			  unsigned long long granted_fs, unsigned long long handled_net, unsigned long long scoped,
			  struct landlock_probe_result *result)
{
	struct landlock_probe_result *shared =
		mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED)
		return -errno;
	pid_t parent = getpid();
	/* Exit signal 0, not SIGCHLD: the host's own SIGCHLD handlers and wait() calls never see this child. */
	long pid = syscall(SYS_clone, 0, NULL, NULL, NULL, 0);
	if (pid == 0) {
		landlock_probe_child(granted, outside, handled_fs, granted_fs, handled_net, scoped, parent, shared);
		syscall(SYS_exit_group, 0);
	}
	int error = pid < 0 ? -errno : 0;
	while (pid > 0 && waitpid((pid_t)pid, NULL, __WALL) < 0 && errno == EINTR)
		;
	*result = *shared;
	munmap(shared, sizeof *shared);
	return error;
}
