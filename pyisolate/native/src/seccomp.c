/* Loading a seccomp filter. Compiling one is libseccomp's (see seccomp.py); loading is one system call, because
 * libseccomp's own loader rebuilds the program and is ten times dearer at hand-out. */
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

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
static int seccomp_install(const void *program, size_t length_bytes, unsigned long flags)
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
static int seccomp_no_new_privs(void)
{
	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ? -errno : 0;
}
