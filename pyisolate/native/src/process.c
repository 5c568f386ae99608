/* Process set-up: clone3(2) as a Python-aware fork, and what a cell does to itself before it runs a guest.
 *
 * process_clone_cell: a fork with a pidfd and optionally straight into a cgroup.
 *
 * glibc's fork() cannot take CLONE_* flags, so what it does for the child is done here where it matters to us:
 *   - the cached thread id in the thread control block (CLONE_CHILD_SETTID at the address the kernel already knows),
 *   - the robust-futex list head (the kernel drops it on clone).
 * glibc's malloc locks are not taken: call this from a single-threaded process only (the zygote is one).
 */
#include <Python.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/sched.h>
#include <linux/securebits.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "result.h"
#include "process.h"
#include "shared.h"

#ifndef PR_GET_TID_ADDRESS /* linux/prctl.h, 3.5 */
#define PR_GET_TID_ADDRESS 40
#endif

/* linux/sched.h, struct clone_args: CLONE_ARGS_SIZE_VER2 (5.7, has cgroup) */
struct process_clone_args {
	uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size,
		cgroup;
};

SHARED int process_clone_cell(unsigned long long flags, int cgroup_fd, int *pidfd)
{
	struct process_clone_args args = {0};
	void *tid_address = NULL, *robust_list = NULL;
	size_t robust_size = 0;

	args.flags = flags | CLONE_PIDFD;
	args.pidfd = (uint64_t)(uintptr_t)pidfd;
	args.exit_signal = SIGCHLD;
	if (cgroup_fd >= 0) {
		args.flags |= 0x200000000ULL; /* CLONE_INTO_CGROUP, 5.7 */
		args.cgroup = (uint64_t)cgroup_fd;
	}
	/* Needs CONFIG_CHECKPOINT_RESTORE; without it the cached tid stays the parent's, which only PI mutexes notice. */
	if (prctl(PR_GET_TID_ADDRESS, &tid_address) == 0 && tid_address != NULL) {
		args.flags |= CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID;
		args.child_tid = (uint64_t)(uintptr_t)tid_address;
	}
	syscall(SYS_get_robust_list, 0, &robust_list, &robust_size);

	PyGILState_STATE gil = PyGILState_Ensure();
	PyOS_BeforeFork();
	long pid = syscall(SYS_clone3, &args, sizeof args);
	int error = errno;
	if (pid == 0) {
		if (robust_list != NULL)
			syscall(SYS_set_robust_list, robust_list, robust_size);
		PyOS_AfterFork_Child();
	} else {
		PyOS_AfterFork_Parent();
	}
	PyGILState_Release(gil);
	return pid < 0 ? -error : (int)pid;
}

SHARED int process_pidfd_getfd(int pidfd, int target_fd)
{
	return result_of(syscall(SYS_pidfd_getfd, pidfd, target_fd, 0)); /* pidfd_getfd(2), 5.6 */
}

SHARED int process_close_range(unsigned int first, unsigned int last)
{
	return result_of(syscall(SYS_close_range, first, last, 0)); /* close_range(2), 5.9 */
}

SHARED int process_prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d)
{
	return result_of(prctl(option, a, b, c, d));
}

static int process_wake_end = -1;

static void process_wake(int number)
{
	int before = errno;
	ssize_t sent = write(process_wake_end, "", 1); /* where the pipe is full its reader looks anyway */

	(void)number;
	(void)sent;
	errno = before;
}

/* The interpreter's own handlers would be its own state, which each forked child had to put back. */
SHARED int process_wake_on(int number, int pipe_end)
{
	struct sigaction action = {.sa_handler = pipe_end < 0 ? SIG_DFL : process_wake, .sa_flags = SA_RESTART};

	process_wake_end = pipe_end;
	sigemptyset(&action.sa_mask);
	return result_of(sigaction(number, &action, NULL));
}

SHARED int process_set_name(const char *name)
{
	return result_of(prctl(PR_SET_NAME, name, 0, 0, 0));
}

/* Make the permitted and effective sets equal to `keep`, the inheritable set empty, and see that they are. */
SHARED int process_set_capabilities(uint64_t keep)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
	struct __user_cap_data_struct wanted[2] = {{0}}, held[2];

	for (int word = 0; word < 2; word++)
		wanted[word].permitted = wanted[word].effective = (uint32_t)(keep >> (32 * word));
	if (syscall(SYS_capset, &header, wanted) < 0)
		return -errno;
	if (syscall(SYS_capget, &header, held) < 0)
		return -errno;
	if (memcmp(held, wanted, sizeof wanted) != 0)
		return -EPERM; /* never seen; refuse rather than run a guest with a capability */
	return 0;
}

SHARED int process_keep_capabilities(void)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
	struct __user_cap_data_struct held[2];

	if (syscall(SYS_capget, &header, held) < 0)
		return -errno;
	return process_set_capabilities(held[0].permitted | (uint64_t)held[1].permitted << 32);
}

/* Of the calling thread, what proc_pid_status(5) says in Cap*: inheritable, permitted, effective, bounding, ambient. */
static int process_read_capabilities(uint64_t *sets)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
	struct __user_cap_data_struct held[2];

	if (syscall(SYS_capget, &header, held) < 0)
		return -errno;
	sets[0] = held[0].inheritable | (uint64_t)held[1].inheritable << 32;
	sets[1] = held[0].permitted | (uint64_t)held[1].permitted << 32;
	sets[2] = held[0].effective | (uint64_t)held[1].effective << 32;
	sets[3] = sets[4] = 0;
	for (int capability = 0; capability < 64; capability++) {
		int bounding = prctl(PR_CAPBSET_READ, capability, 0, 0, 0);
		if (bounding < 0 && errno == EINVAL)
			break; /* the first that the kernel lacks */
		if (bounding < 0)
			return -errno;
		sets[3] |= (uint64_t)bounding << capability;
		if (!(sets[0] >> capability & 1))
			continue; /* one that is not inheritable is not ambient */
		int ambient = prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, capability, 0, 0);
		if (ambient < 0)
			return -errno;
		sets[4] |= (uint64_t)ambient << capability;
	}
	return 0;
}

enum { PROCESS_GROUPS = 64, PROCESS_WORDS = 17 + PROCESS_GROUPS };

/*
 * Say what confines the calling thread: users, groups, capabilities, no_new_privs, and the error of a mount(2) that changes
 * nothing, by which Landlock is known. Two threads with equal words are confined alike.
 *
 * Landlock refuses mounts before their flags are looked at, and two kinds of propagation at once are no flags. It may
 * confine a thread without no_new_privs only with CAP_SYS_ADMIN, without which the answer is always EPERM.
 *
 * Returns the number of words, or -errno: -ENOTSUP under a seccomp filter, because only /proc tells how many there are.
 */
SHARED int process_own_confinement(uint64_t *words, int room)
{
	uid_t users[3];
	gid_t groups[PROCESS_GROUPS];
	int count = 0;

	if (room < PROCESS_WORDS)
		return -EINVAL;
	int filtered = prctl(PR_GET_SECCOMP, 0, 0, 0, 0);
	if (filtered != 0)
		return filtered < 0 ? -errno : -ENOTSUP;
	if (getresuid(&users[0], &users[1], &users[2]) < 0)
		return -errno;
	for (int i = 0; i < 3; i++)
		words[count++] = users[i];
	words[count++] = (uint64_t)syscall(SYS_setfsuid, -1); /* no user: it changes nothing and says who it is */
	if (getresgid(&users[0], &users[1], &users[2]) < 0)
		return -errno;
	for (int i = 0; i < 3; i++)
		words[count++] = users[i];
	words[count++] = (uint64_t)syscall(SYS_setfsgid, -1);
	int error = process_read_capabilities(words + count);
	if (error < 0)
		return error;
	count += 5;
	int privileges = prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0);
	if (privileges < 0)
		return -errno;
	words[count++] = (uint64_t)privileges;
	words[count++] = mount(NULL, "/", NULL, MS_SHARED | MS_PRIVATE, NULL) < 0 ? (uint64_t)errno : 0;
	int belongs = getgroups(PROCESS_GROUPS, groups);
	if (belongs < 0)
		return -errno; /* EINVAL: more than there is room for */
	words[count++] = (uint64_t)belongs;
	for (int i = 0; i < belongs; i++)
		words[count++] = groups[i];
	return count;
}

/* capabilities(7). The order matters: the bounding set and securebits need CAP_SETPCAP, which capset() gives up. */
SHARED int process_limit_capabilities(uint64_t keep)
{
	int bounding_empty = 1;

	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0 && errno != EINVAL)
		return -errno;
	/* 64: capset(2)'s version 3 has two 32-bit words; EINVAL marks the first capability that the kernel lacks. */
	for (int capability = 0; capability < 64; capability++) {
		if (prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == 0)
			continue;
		if (errno == EINVAL)
			break;
		if (prctl(PR_CAPBSET_READ, capability, 0, 0, 0) == 1)
			bounding_empty =
				0; /* EPERM: no CAP_SETPCAP here. no_new_privs then keeps the set out of reach. */
	}
	/* So that a later uid 0 (a cell's user namespace maps none, but a host thread's may) gains nothing by exec. */
	prctl(PR_SET_SECUREBITS, SECBIT_NOROOT | SECBIT_NO_CAP_AMBIENT_RAISE | SECURE_ALL_LOCKS, 0, 0, 0);

	int error = process_set_capabilities(keep);
	return error < 0 ? error : bounding_empty;
}

SHARED int process_write_file(const char *path, const char *text, size_t length)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	ssize_t written = write(fd, text, length);
	int error = written == (ssize_t)length ? 0 : written < 0 ? -errno : -EIO;
	close(fd);
	return error;
}

/* user_namespaces(7): setgroups must be "deny" before an unprivileged gid_map is accepted. */
SHARED int process_write_id_maps(unsigned int uid, unsigned int gid)
{
	char map[48];
	int error = process_write_file("/proc/self/setgroups", "deny", 4);
	if (error < 0)
		return error;
	error = process_write_file("/proc/self/uid_map", map, (size_t)snprintf(map, sizeof map, "%u %u 1", uid, uid));
	if (error < 0)
		return error;
	return process_write_file("/proc/self/gid_map", map, (size_t)snprintf(map, sizeof map, "%u %u 1", gid, gid));
}

/* Map one user and one group of the user namespace that `pid` is in, which the caller has made; deny it setgroups. An id
 * outside that is not the caller's own needs CAP_SETUID or CAP_SETGID (user_namespaces(7)). */
SHARED int process_write_id_maps_of(int pid, unsigned int inside, unsigned int outside, unsigned int gid)
{
	const char *const names[] = {"setgroups", "uid_map", "gid_map"};
	char path[48], texts[3][48] = {"deny"};
	int error = 0;

	snprintf(texts[1], sizeof texts[1], "%u %u 1", inside, outside);
	snprintf(texts[2], sizeof texts[2], "%u %u 1", gid, gid);
	for (int i = 0; i < 3 && error == 0; i++) {
		snprintf(path, sizeof path, "/proc/%d/%s", pid, names[i]);
		error = process_write_file(path, texts[i], strlen(texts[i]));
	}
	return error;
}

SHARED int process_set_hostname(const char *name, size_t length)
{
	return result_of(sethostname(name, length));
}

/* netdevice(7): a fresh network namespace has `lo`, down. */
SHARED int process_bring_up_loopback(void)
{
	struct ifreq request = {0};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	strcpy(request.ifr_name, "lo");
	request.ifr_flags = IFF_UP | IFF_RUNNING;
	int result = result_of(ioctl(fd, SIOCSIFFLAGS, &request));
	close(fd);
	return result;
}
