/* A cell's init: process 1 of its pid namespace, parent of the guest.
 *
 * The caller (the zygote, single-threaded) makes the init with CLONE_VM: it shares the caller's memory and has one page
 * of its own, its slot, so that it costs 20 us and no page table. The init then forks the guest, which is a copy of the
 * caller: it goes on in cell_init_fork, on the caller's stack, which stands still because the caller waits there.
 *
 * Its namespaces are half of what a cell's making takes, so a caller can have an init made ahead (cell_init_prepare), which
 * waits for the word to fork.
 *
 * What an init does: it reaps whatever dies below it, writes down how the guest ended, and ends, which ends all that is
 * left in its pid namespace (pid_namespaces(7)). Signals from outside the namespace it hands to the guest. It makes raw
 * system calls only: the C library's `errno`, and the rest of the thread control block, are the caller's.
 */
#include <Python.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/futex.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cell_init.h"
#include "networks.h"
#include "result.h"
#include "shared.h"

#ifndef PR_GET_TID_ADDRESS /* linux/prctl.h, 3.5 */
#define PR_GET_TID_ADDRESS 40
#endif
#define CELL_INIT_CLOSE_UNSHARE 2 /* CLOSE_RANGE_UNSHARE, linux/close_range.h, 5.9 */

/* In this order, but that an init may end at any time. */
enum { CELL_INIT_ENDED, CELL_INIT_WAITS, CELL_INIT_FORKS, CELL_INIT_FORKED };

/* Lies at the top of the init's stack, in pages that are the caller's: no guest can write there. */
struct cell_init_slot {
	unsigned int state; /* futex; the kernel clears it when the init ends (CLONE_CHILD_CLEARTID) */
	int error, guest, guest_pidfd, status;
	long long max_rss_kb;
	void *context[5]; /* __builtin_setjmp */
	void *tid_address, *robust_list;
	size_t robust_size;
	sigset_t mask;
	int own_pid_namespace, own_user_namespace;
	/* the caller's: the init as it knows it, and what it was cloned with; a pidfd of the caller itself */
	int init, init_pidfd, caller_pidfd;
	unsigned long long flags, network; /* the ticket of its network namespace (networks.h), or 0 */
	struct cell_init_slot *next;
};

#define CELL_INIT_STACK_BYTES 8192

static struct cell_init_slot *cell_init_free_slots;
static struct cell_init_slot *cell_init_ready; /* NULL, or that of an init that waits */
static int cell_init_caller = -1;              /* a pidfd of `cell_init_caller_pid` */
static int cell_init_caller_pid;

/* --- the init: no library call that sets errno --------------------------------------------------------------------- */

static inline long cell_init_call(long number, long a, long b, long c, long d, long e)
{
#if defined(__x86_64__)
	long result;
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
			 : "rcx", "r11", "memory");
	return result;
#elif defined(__aarch64__)
	register long x8 __asm__("x8") = number;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	register long x4 __asm__("x4") = e;
	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4) : "memory");
	return x0;
#else
#error "pyisolate knows the system calls of x86-64 and aarch64 only"
#endif
}

#define CELL_INIT_CALL(number, a, b, c, d) cell_init_call((number), (long)(a), (long)(b), (long)(c), (long)(d), 0)

static void cell_init_set_state(struct cell_init_slot *slot, unsigned int state)
{
	__atomic_store_n(&slot->state, state, __ATOMIC_RELEASE);
	CELL_INIT_CALL(SYS_futex, &slot->state, FUTEX_WAKE, 1, 0);
}

/* Without a pid namespace nothing ends the others with the init: they are its children by now, or become them when
 * their parents end (PR_SET_CHILD_SUBREAPER). */
static void cell_init_end_children(void)
{
	char text[512];
	long self = CELL_INIT_CALL(SYS_getpid, 0, 0, 0, 0);
	char path[64] = "/proc/";
	char digits[16];
	int count = 0, length = 6;

	do
		digits[count++] = (char)('0' + self % 10);
	while ((self /= 10));
	for (int again = 0; again < 2; again++) { /* /proc/PID/task/PID/children */
		for (int i = count; i > 0;)
			path[length++] = digits[--i];
		const char *rest = again ? "/children" : "/task/";
		for (; *rest; rest++)
			path[length++] = *rest;
	}
	for (;;) {
		long fd = CELL_INIT_CALL(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
		long got = fd < 0 ? 0 : CELL_INIT_CALL(SYS_read, fd, text, sizeof text - 1, 0);
		if (fd >= 0)
			CELL_INIT_CALL(SYS_close, fd, 0, 0, 0);
		if (got <= 0)
			return;
		long child = 0;
		for (long i = 0; i < got; i++) {
			if (text[i] >= '0' && text[i] <= '9') {
				child = child * 10 + (text[i] - '0');
			} else if (child > 0) {
				CELL_INIT_CALL(SYS_kill, child, SIGKILL, 0, 0);
				child = 0;
			}
		}
		CELL_INIT_CALL(SYS_wait4, -1, 0, __WALL, 0);
	}
}

static void cell_init_finish(struct cell_init_slot *slot, int status)
{
	struct rusage usage = {0};

	if (!slot->own_pid_namespace)
		cell_init_end_children();
	CELL_INIT_CALL(SYS_getrusage, RUSAGE_CHILDREN, &usage, 0, 0);
	slot->max_rss_kb = usage.ru_maxrss;
	slot->status = status;
	CELL_INIT_CALL(SYS_exit_group, 0, 0, 0, 0);
}

static void cell_init_reap(struct cell_init_slot *slot)
{
	int status;
	long pid;

	while ((pid = CELL_INIT_CALL(SYS_wait4, -1, &status, WNOHANG | __WALL, 0)) > 0)
		if (pid == slot->guest)
			cell_init_finish(slot, status);
}

/* Sent on purpose, and by a process outside: the kernel gives the sender's pid as 0 to another pid namespace. Guests
 * signal each other by themselves, so handing on their signals to the init would give them nothing. */
static int cell_init_hands_on(const struct cell_init_slot *slot, const siginfo_t *info)
{
	return info->si_code <= 0 && (info->si_pid == 0 || !slot->own_pid_namespace);
}

static void cell_init_serve(struct cell_init_slot *slot)
{
	uint64_t all = ~0ULL;
	siginfo_t info;

	for (;;) {
		long number = CELL_INIT_CALL(SYS_rt_sigtimedwait, &all, &info, 0, sizeof all);
		if (number == SIGCHLD)
			cell_init_reap(slot);
		else if (number > 0 && cell_init_hands_on(slot, &info))
			CELL_INIT_CALL(SYS_kill, slot->guest, number, 0, 0);
	}
}

/* It holds nothing that a guest could want: no descriptor, and no capability outside the cell. */
static void cell_init_confine(const struct cell_init_slot *slot)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
	struct __user_cap_data_struct kept[2];

	kept[0] = kept[1] = (struct __user_cap_data_struct){0, 0, 0};
	if (slot->own_user_namespace) /* the guest may be another user: to hand signals on to it */
		kept[0].effective = kept[0].permitted = 1U << CAP_KILL;
	CELL_INIT_CALL(SYS_close_range, 0, ~0U, CELL_INIT_CLOSE_UNSHARE, 0);
	CELL_INIT_CALL(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0);
	CELL_INIT_CALL(SYS_capset, &header, kept, 0, 0);
}

static __attribute__((noinline, noreturn)) void cell_init_go_on(struct cell_init_slot *slot)
{
	__builtin_longjmp(slot->context, 1);
}

/* Until the caller says so, or has ended: also where that was before this process asked to be ended with it. */
static void cell_init_wait(struct cell_init_slot *slot)
{
	struct pollfd caller = {slot->caller_pidfd, POLLIN, 0};
	struct timespec now = {0};

	if (cell_init_call(SYS_ppoll, (long)&caller, 1, (long)&now, 0, 0) > 0)
		CELL_INIT_CALL(SYS_exit_group, 1, 0, 0, 0);
	while (__atomic_load_n(&slot->state, __ATOMIC_ACQUIRE) == CELL_INIT_WAITS)
		CELL_INIT_CALL(SYS_futex, &slot->state, FUTEX_WAIT, CELL_INIT_WAITS, 0);
}

static int cell_init_run(void *argument)
{
	struct cell_init_slot *slot = argument;
	long flags = CLONE_PIDFD | SIGCHLD;

	CELL_INIT_CALL(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0);
	CELL_INIT_CALL(SYS_prctl, PR_SET_NAME, "pyisolate-init", 0, 0);
	if (!slot->own_pid_namespace)
		CELL_INIT_CALL(SYS_prctl, PR_SET_CHILD_SUBREAPER, 1, 0, 0);
	cell_init_wait(slot);
	/* Needs CONFIG_CHECKPOINT_RESTORE; without it the cached tid stays the caller's, which only PI mutexes notice. */
	if (slot->tid_address != NULL)
		flags |= CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID;
	/* clone(2), not clone3(2), which filters of containers refuse; the order of its last two arguments differs */
#if defined(__x86_64__)
	long guest = cell_init_call(SYS_clone, flags, 0, (long)&slot->guest_pidfd, (long)slot->tid_address, 0);
#else
	long guest = cell_init_call(SYS_clone, flags, 0, (long)&slot->guest_pidfd, 0, (long)slot->tid_address);
#endif
	if (guest == 0)
		cell_init_go_on(slot);
	if (guest < 0) {
		slot->error = (int)-guest;
		CELL_INIT_CALL(SYS_exit_group, 1, 0, 0, 0);
	}
	slot->guest = (int)guest;
	cell_init_set_state(slot, CELL_INIT_FORKED);
	cell_init_confine(slot);
	cell_init_serve(slot);
	return 0;
}

/* --- the caller ---------------------------------------------------------------------------------------------------- */

static struct cell_init_slot *cell_init_take_slot(void)
{
	struct cell_init_slot *slot = cell_init_free_slots;

	if (slot != NULL) {
		cell_init_free_slots = slot->next;
	} else {
		char *pages =
			mmap(NULL, CELL_INIT_STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (pages == MAP_FAILED)
			return NULL;
		slot = (struct cell_init_slot *)(pages + CELL_INIT_STACK_BYTES - sizeof *slot);
	}
	memset(slot, 0, sizeof *slot);
	slot->state = CELL_INIT_WAITS;
	slot->status = -1;
	return slot;
}

static void cell_init_give_slot(struct cell_init_slot *slot)
{
	slot->next = cell_init_free_slots;
	cell_init_free_slots = slot;
}

/* Its init is reaped, or there never was one: no process of the cell is left. */
static void cell_init_end_slot(struct cell_init_slot *slot)
{
	networks_give(slot->network);
	cell_init_give_slot(slot);
}

/* Returns the process that a pidfd names as the mounted /proc numbers it (proc(5), fdinfo), or -errno. */
static int cell_init_pid_of(int pidfd)
{
	char path[48], text[256];

	snprintf(path, sizeof path, "/proc/self/fdinfo/%d", pidfd);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	ssize_t got = read(fd, text, sizeof text - 1);
	close(fd);
	text[got > 0 ? got : 0] = 0;
	const char *line = strstr(text, "Pid:");
	int pid = line != NULL ? atoi(line + strlen("Pid:")) : 0;
	return pid > 0 ? pid : -ESRCH;
}

/* Waits until the guest is made, or the init has ended; returns 0 or -errno. The caller's stack must stand still. */
static int cell_init_wait_forked(struct cell_init_slot *slot)
{
	unsigned int state;

	while ((state = __atomic_load_n(&slot->state, __ATOMIC_ACQUIRE)) == CELL_INIT_FORKS)
		syscall(SYS_futex, &slot->state, FUTEX_WAIT, CELL_INIT_FORKS, NULL, NULL, 0);
	if (state == CELL_INIT_FORKED || slot->guest > 0) /* the guest, and its init after it, may have ended by now */
		return 0;
	return slot->error ? -slot->error : -ESRCH;
}

/* One that may not be killed (a filter of the host's) ends with the caller, and keeps its slot, which is its stack. */
static void cell_init_drop(struct cell_init_slot *slot)
{
	close(slot->init_pidfd);
	if (kill(slot->init, SIGKILL) < 0)
		return;
	while (waitpid(slot->init, NULL, 0) < 0 && errno == EINTR)
		;
	cell_init_end_slot(slot);
}

/* Returns a pidfd of this process, in a forked child another one. */
static int cell_init_own_pidfd(void)
{
	if (cell_init_caller_pid != getpid()) {
		if (cell_init_caller >= 0)
			close(cell_init_caller);
		cell_init_caller = (int)syscall(SYS_pidfd_open, getpid(), 0);
		cell_init_caller_pid = cell_init_caller < 0 ? 0 : getpid();
	}
	return cell_init_caller;
}

/* Clone an init that waits; 0 or -errno. */
static int cell_init_make(unsigned long long flags, struct cell_init_slot **made)
{
	sigset_t all, before;
	int own = cell_init_own_pidfd();
	struct cell_init_slot *slot = own < 0 ? NULL : cell_init_take_slot();

	if (slot == NULL)
		return -errno;
	slot->own_pid_namespace = (flags & CLONE_NEWPID) != 0;
	slot->own_user_namespace = (flags & CLONE_NEWUSER) != 0;
	slot->flags = flags;
	slot->caller_pidfd = own;
	if (prctl(PR_GET_TID_ADDRESS, &slot->tid_address) < 0)
		slot->tid_address = NULL;
	/* An init takes signals by rt_sigtimedwait alone: the interpreter's handlers must never run in it. */
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &before);
	if (flags & CLONE_NEWPID && flags & CLONE_NEWNET && networks_enter(&slot->network) == 0)
		flags &= ~(unsigned long long)CLONE_NEWNET;
	int kept = (int)(flags | CLONE_VM | CLONE_FILES | CLONE_PIDFD | CLONE_CHILD_CLEARTID | SIGCHLD);
	char *stack = (char *)((uintptr_t)slot & ~(uintptr_t)15);
	int pid = clone(cell_init_run, stack, kept, slot, &slot->init_pidfd, NULL, &slot->state);
	int error = pid < 0 ? -errno : 0;
	if (slot->network != 0)
		networks_leave();
	sigprocmask(SIG_SETMASK, &before, NULL);
	slot->init = pid;
	if (error < 0)
		cell_init_end_slot(slot);
	else
		*made = slot;
	return error;
}

/* Have an init made ahead, if none is; 0 or -errno. */
SHARED int cell_init_prepare(unsigned long long flags)
{
	return cell_init_ready != NULL ? 0 : cell_init_make(flags, &cell_init_ready);
}

/* Have none made ahead any more: end it, or, in a forked child of the caller, whose init it is not, forget it. */
SHARED void cell_init_leave_ready(int ends)
{
	struct cell_init_slot *slot = cell_init_ready;

	cell_init_ready = NULL;
	if (slot != NULL && ends) {
		cell_init_drop(slot);
	} else if (slot != NULL) {
		close(slot->init_pidfd);
		cell_init_give_slot(slot);
	}
}

/* Returns the one that waits, where it has these flags and lives. One that has ended is reaped, or will be. */
static struct cell_init_slot *cell_init_take_ready(unsigned long long flags)
{
	struct cell_init_slot *slot = cell_init_ready;

	if (slot == NULL || slot->flags != flags)
		return NULL;
	cell_init_ready = NULL;
	if (__atomic_load_n(&slot->state, __ATOMIC_ACQUIRE) == CELL_INIT_WAITS)
		return slot;
	close(slot->init_pidfd);
	cell_init_give_slot(slot);
	return NULL;
}

/* What fork(3) does for a child, where it matters here: see process.c. */
static int cell_init_become_guest(struct cell_init_slot *slot, PyGILState_STATE gil)
{
	if (slot->robust_list != NULL)
		syscall(SYS_set_robust_list, slot->robust_list, slot->robust_size);
	PyOS_AfterFork_Child();
	sigprocmask(SIG_SETMASK, &slot->mask, NULL);
	PyGILState_Release(gil);
	return 0;
}

/* Have an init fork its guest; 0 in the guest, 1 in the caller, or -errno. noinline: a guest returns from here with what this
 * frame has kept of its caller's registers. */
static __attribute__((noinline)) int cell_init_fork_guest(struct cell_init_slot *slot)
{
	sigset_t all;

	syscall(SYS_get_robust_list, 0, &slot->robust_list, &slot->robust_size);

	PyGILState_STATE gil = PyGILState_Ensure();
	PyOS_BeforeFork();
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &slot->mask);
	if (__builtin_setjmp(slot->context))
		return cell_init_become_guest(slot, gil);

	unsigned int waits = CELL_INIT_WAITS; /* it may have ended */
	__atomic_compare_exchange_n(&slot->state, &waits, CELL_INIT_FORKS, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
	syscall(SYS_futex, &slot->state, FUTEX_WAKE, 1, NULL, NULL, 0);
	int error = cell_init_wait_forked(slot);
	PyOS_AfterFork_Parent();
	sigprocmask(SIG_SETMASK, &slot->mask, NULL);
	PyGILState_Release(gil);
	return error < 0 ? error : 1;
}

SHARED int cell_init_fork(unsigned long long flags, struct cell_init_made *made)
{
	struct cell_init_slot *slot = cell_init_take_ready(flags);
	int error = slot != NULL ? 0 : cell_init_make(flags, &slot);

	if (error < 0)
		return error;
	error = cell_init_fork_guest(slot);
	if (error == 0)
		return 0;
	int guest = error;
	if (error > 0) {
		guest = cell_init_pid_of(slot->guest_pidfd);
		close(slot->guest_pidfd);
		if (guest == -ESRCH && !slot->own_pid_namespace)
			guest = slot->guest; /* it has ended, and is reaped: here its init knows it by the same number */
	}
	if (guest < 0) {
		cell_init_drop(slot);
		return guest;
	}
	*made = (struct cell_init_made){slot->init, slot->init_pidfd, guest, slot};
	return 1;
}

SHARED void cell_init_forget(void *given, struct cell_init_end *end)
{
	struct cell_init_slot *slot = given;

	end->status = slot->status;
	end->max_rss_kb = slot->max_rss_kb;
	cell_init_end_slot(slot);
}
