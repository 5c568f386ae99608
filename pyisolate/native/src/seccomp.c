/* Loading a seccomp filter. Compiling one is libseccomp's (see seccomp.py); loading is one system call, because
 * libseccomp's own loader rebuilds the program and is ten times dearer at hand-out. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "descriptors.h"
#include "process.h"
#include "seccomp.types.h"
#include "shared.h"

#ifndef SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
#define SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (1UL << 5) /* 5.19 */
#endif

#if defined(__x86_64__)
#define SECCOMP_AUDIT_ARCH 0xc000003eU /* AUDIT_ARCH_X86_64 */
#elif defined(__aarch64__)
#define SECCOMP_AUDIT_ARCH 0xc00000b7U /* AUDIT_ARCH_AARCH64 */
#else
#error "pyisolate knows the system calls of x86-64 and aarch64 only"
#endif

/* Returns the listener's descriptor (with NEW_LISTENER), 0, or -errno. */
SHARED int seccomp_install(const void *program, size_t length_bytes, unsigned long flags)
{
	struct sock_fprog prog = {
		.len = (unsigned short)(length_bytes / sizeof(struct sock_filter)),
		.filter = (struct sock_filter *)program,
	};

	if (length_bytes % sizeof(struct sock_filter) || length_bytes / sizeof(struct sock_filter) > BPF_MAXINSNS)
		return -EINVAL;
	long result = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &prog);
	return result < 0 ? -errno : (int)result;
}

/* PR_SET_NO_NEW_PRIVS, which an unprivileged filter needs; 0 or -errno. */
SHARED int seccomp_no_new_privs(void)
{
	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ? -errno : 0;
}

/* --- loading a filter and handing its listener over ---
 * Under the filter sendmsg is itself a notified call, so the task that loads it cannot send the listener away. A
 * second task, made before and hence not filtered, shares descriptors and memory, sends it and is gone before this
 * returns. It has no thread control block of its own: system calls only, and the first task sleeps until then. */
struct seccomp_courier {
	int ready; /* futex: 0 wait, 1 go, 2 give up */
	int listener, peer, error;
	pid_t owner;
	const void *data;
	size_t data_bytes;
};

static int seccomp_courier_run(void *argument)
{
	struct seccomp_courier *c = argument;

	/* A process of its own: without a pid namespace nothing else would end it when its owner is killed. */
	syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	if (syscall(SYS_getppid) != c->owner)
		syscall(SYS_exit, 0);
	while (__atomic_load_n(&c->ready, __ATOMIC_ACQUIRE) == 0)
		syscall(SYS_futex, &c->ready, FUTEX_WAIT, 0, NULL, NULL, 0);
	if (c->ready == 1) {
		DESCRIPTORS_ROOM(1) control = {0};
		struct iovec iov = {.iov_base = (void *)c->data, .iov_len = c->data_bytes};
		struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
		descriptors_put(&msg, control.bytes, &c->listener, 1);
		while (c->data_bytes) {
			long sent = syscall(SYS_sendmsg, c->peer, &msg, MSG_NOSIGNAL);
			if (sent < 0 && errno == EINTR)
				continue;
			if (sent <= 0) {
				c->error = sent < 0 ? errno : EPIPE;
				break;
			}
			iov.iov_base = (char *)iov.iov_base + sent;
			iov.iov_len = c->data_bytes -= (size_t)sent;
			msg.msg_control = NULL; /* the descriptor went with the first byte */
			msg.msg_controllen = 0;
		}
	}
	syscall(SYS_exit, 0);
	return 0;
}

static int seccomp_become(const struct seccomp_user *user)
{
	if (setresgid(user->gid, user->gid, user->gid) || setresuid(user->uid, user->uid, user->uid))
		return -errno;
	/* both are reset with the user (prctl(2)) */
	if (prctl(PR_SET_DUMPABLE, user->dumpable, 0, 0, 0) || prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0))
		return -errno;
	return process_set_capabilities(user->keep);
}

SHARED int seccomp_install_and_send(const void *program, size_t length_bytes, unsigned long flags, int peer,
				    const void *data, size_t data_bytes, const struct seccomp_user *user)
{
	_Alignas(16) char stack[16384];
	struct seccomp_courier courier = {.peer = peer, .owner = getpid(), .data = data, .data_bytes = data_bytes};
	sigset_t all, before;

	/* The courier shares no signal handlers and must not run Python's. */
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &before);
	int pid = clone(seccomp_courier_run, stack + sizeof stack, CLONE_VM | CLONE_FILES | CLONE_FS, &courier);
	if (pid < 0) {
		int error = errno;
		sigprocmask(SIG_SETMASK, &before, NULL);
		return -error;
	}
	courier.listener = user != NULL ? seccomp_become(user) : 0;
	if (courier.listener == 0)
		courier.listener = seccomp_install(program, length_bytes, flags);
	__atomic_store_n(&courier.ready, courier.listener < 0 ? 2 : 1, __ATOMIC_RELEASE);
	syscall(SYS_futex, &courier.ready, FUTEX_WAKE, 1, NULL, NULL, 0);
	while (waitpid(pid, NULL, (int)__WCLONE) < 0 && errno == EINTR)
		;
	sigprocmask(SIG_SETMASK, &before, NULL);
	if (courier.listener < 0)
		return courier.listener;
	close(courier.listener);
	return -courier.error;
}
