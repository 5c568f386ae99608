/* A cell's init: process 1 of its pid namespace, parent of the guest.
 *
 * The caller (the zygote, single-threaded) makes the init with CLONE_VM: it shares the caller's memory and has one page
 * of its own, its slot, so that it costs 20 us and no page table. The init then forks the guest, which is a copy of the
 * caller: it goes on in cell_init_fork, on the caller's stack, which stands still because the caller waits there.
 *
 * Its namespaces are half of what a cell's making takes, so a caller can have an init made ahead (cell_init_prepare), which
 * waits for the word to fork.
 *
 * To move a process into a control group may wait for a grace period of RCU, 11 ms after a rest. So that no cell waits
 * for it, an init can have a maker (cell_init_divide): a child that shares the memory as it does itself, and forks the
 * guest in its place. The supervisor moves the maker while nothing else is to do, and the guest is born in that group. The
 * maker has ended, and is reaped, before the caller knows the guest: it counts as a task there, and a group that is out of
 * memory would else have a process to kill that shares the caller's.
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
#include "cell_init_slot.h"
#include "networks.h"
#include "raw_call.h"
#include "result.h"
#include "shared.h"

#ifndef PR_GET_TID_ADDRESS /* linux/prctl.h, 3.5 */
#define PR_GET_TID_ADDRESS 40
#endif

#define CELL_INIT_STACK_BYTES 12288 /* the last 4096 are a maker's */
#define CELL_INIT_MAKER_BYTES 4096
#define CELL_INIT_MAKER       3 /* its process id: 2 is the guest's, which its zygote makes ahead of */

static struct cell_init_slot *cell_init_free_slots;
static struct cell_init_slot *cell_init_ready; /* NULL, or that of an init that waits */
static int cell_init_caller = -1;              /* a pidfd of `cell_init_caller_pid` */
static int cell_init_caller_pid;

/* --- the init: no library call that sets errno --------------------------------------------------------------------- */

static void cell_init_set_state(struct cell_init_slot *slot, unsigned int state)
{
	__atomic_store_n(&slot->state, state, __ATOMIC_RELEASE);
	RAW_CALL(SYS_futex, &slot->state, FUTEX_WAKE, 1, 0);
}

static __attribute__((noinline, noreturn)) void cell_init_go_on(struct cell_init_slot *slot)
{
	__builtin_longjmp(slot->context, 1);
}

/* Until the caller has another word for it, or has ended: also where that was before this process asked to be ended with
 * it. Returns that word. */
static unsigned int cell_init_wait(struct cell_init_slot *slot)
{
	struct pollfd caller = {slot->caller_pidfd, POLLIN, 0};
	struct timespec now = {0};
	unsigned int state;

	if (raw_call(SYS_ppoll, (long)&caller, 1, (long)&now, 0, 0) > 0)
		RAW_CALL(SYS_exit_group, 1, 0, 0, 0);
	while ((state = __atomic_load_n(&slot->state, __ATOMIC_ACQUIRE)) == CELL_INIT_WAITS)
		RAW_CALL(SYS_futex, &slot->state, FUTEX_WAIT, CELL_INIT_WAITS, 0);
	return state;
}

/* `more`: CLONE_PARENT, or 0. A child of either kind sends SIGCHLD. */
static void cell_init_clone_guest(struct cell_init_slot *slot, long more)
{
	long flags = CLONE_PIDFD | SIGCHLD | more;

	/* Needs CONFIG_CHECKPOINT_RESTORE; without it the cached tid stays the caller's, which only PI mutexes notice. */
	if (slot->tid_address != NULL)
		flags |= CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID;
	/* clone(2), not clone3(2), which filters of containers refuse; the order of its last two arguments differs */
#if defined(__x86_64__)
	long guest = raw_call(SYS_clone, flags, 0, (long)&slot->guest_pidfd, (long)slot->tid_address, 0);
#else
	long guest = raw_call(SYS_clone, flags, 0, (long)&slot->guest_pidfd, 0, (long)slot->tid_address);
#endif
	if (guest == 0)
		cell_init_go_on(slot);
	if (guest < 0)
		slot->error = (int)-guest;
	else
		slot->guest = (int)guest;
}

static void cell_init_run_maker(void *argument)
{
	struct cell_init_slot *slot = argument;

	while (!__atomic_load_n(&slot->go, __ATOMIC_ACQUIRE))
		RAW_CALL(SYS_futex, &slot->go, FUTEX_WAIT, 0, 0);
	cell_init_clone_guest(slot, CLONE_PARENT); /* the init's child */
	RAW_CALL(SYS_exit_group, 0, 0, 0, 0);
}

/* Have a maker. Returns 1 once it has ended, 0 where none could be made: clone3(2) is refused, or older than 5.5. */
static int cell_init_have_maker(struct cell_init_slot *slot)
{
	static const pid_t number = CELL_INIT_MAKER; /* the kernel counts on from the last that it chose itself */
	struct clone_args arguments = {
		.flags = CLONE_VM | CLONE_FILES | CLONE_PIDFD,
		.pidfd = (uintptr_t)&slot->maker_pidfd,
		.exit_signal = SIGCHLD,
		.stack = (uintptr_t)(slot + 1) - CELL_INIT_STACK_BYTES,
		.stack_size = CELL_INIT_MAKER_BYTES,
		.set_tid = (uintptr_t)&number,
		.set_tid_size = 1,
	};
	long maker = raw_clone3(&arguments, cell_init_run_maker, slot);

	slot->maker = (int)maker;
	cell_init_set_state(slot, CELL_INIT_WAITS);
	if (maker < 0)
		return 0;
	RAW_CALL(SYS_wait4, maker, 0, __WALL, 0);
	return 1;
}

/* As the caller says: by a maker, or by itself. */
static void cell_init_have_guest(struct cell_init_slot *slot)
{
	while (cell_init_wait(slot) == CELL_INIT_DIVIDES)
		if (cell_init_have_maker(slot))
			return;
	cell_init_clone_guest(slot, 0);
}

static int cell_init_run(void *argument)
{
	struct cell_init_slot *slot = argument;

	RAW_CALL(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0);
	RAW_CALL(SYS_prctl, PR_SET_NAME, "pyisolate-init", 0, 0);
	if (!slot->own_pid_namespace)
		RAW_CALL(SYS_prctl, PR_SET_CHILD_SUBREAPER, 1, 0, 0);
	cell_init_have_guest(slot);
	if (slot->guest == 0)
		RAW_CALL(SYS_exit_group, 1, 0, 0, 0);
	cell_init_set_state(slot, CELL_INIT_FORKED);
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

/* Returns the state that follows. */
static unsigned int cell_init_wait_while(struct cell_init_slot *slot, unsigned int state)
{
	unsigned int now;

	while ((now = __atomic_load_n(&slot->state, __ATOMIC_ACQUIRE)) == state)
		syscall(SYS_futex, &slot->state, FUTEX_WAIT, state, NULL, NULL, 0);
	return now;
}

/* Waits until the guest is made, or the init has ended; returns 0 or -errno. The caller's stack must stand still. */
static int cell_init_wait_forked(struct cell_init_slot *slot)
{
	unsigned int state = cell_init_wait_while(slot, CELL_INIT_FORKS);

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

/* Have the init made ahead have a maker; returns its process id, and the init's by `init`, or -errno. Only a pid namespace
 * ends a maker with its init. */
SHARED int cell_init_divide(int *init)
{
	struct cell_init_slot *slot = cell_init_ready;
	unsigned int waits = CELL_INIT_WAITS; /* it may have ended */

	if (slot == NULL || !slot->own_pid_namespace || slot->maker > 0 ||
	    !__atomic_compare_exchange_n(&slot->state, &waits, CELL_INIT_DIVIDES, 0, __ATOMIC_ACQ_REL,
					 __ATOMIC_ACQUIRE))
		return -ESRCH;
	syscall(SYS_futex, &slot->state, FUTEX_WAKE, 1, NULL, NULL, 0);
	cell_init_wait_while(slot, CELL_INIT_DIVIDES);
	if (slot->maker <= 0)
		return -EAGAIN;
	int maker = cell_init_pid_of(slot->maker_pidfd);
	close(slot->maker_pidfd);
	*init = slot->init;
	return maker;
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
	__atomic_store_n(&slot->go, 1, __ATOMIC_RELEASE);
	syscall(SYS_futex, slot->maker > 0 ? &slot->go : &slot->state, FUTEX_WAKE, 1, NULL, NULL, 0);
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
