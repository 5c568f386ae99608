/* What a cell's init does once its guest is made: it reaps, hands on signals, and ends with its guest. See cell_init.c. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <fcntl.h>
#include <linux/capability.h>
#include <signal.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "cell_init_slot.h"
#include "raw_call.h"

#define CELL_INIT_CLOSE_UNSHARE 2 /* CLOSE_RANGE_UNSHARE, linux/close_range.h, 5.9 */

/* Without a pid namespace nothing ends the others with the init: they are its children by now, or become them when
 * their parents end (PR_SET_CHILD_SUBREAPER). */
static void cell_init_end_children(void)
{
	char text[512];
	long self = RAW_CALL(SYS_getpid, 0, 0, 0, 0);
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
		long fd = RAW_CALL(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
		long got = fd < 0 ? 0 : RAW_CALL(SYS_read, fd, text, sizeof text - 1, 0);
		if (fd >= 0)
			RAW_CALL(SYS_close, fd, 0, 0, 0);
		if (got <= 0)
			return;
		long child = 0;
		for (long i = 0; i < got; i++) {
			if (text[i] >= '0' && text[i] <= '9') {
				child = child * 10 + (text[i] - '0');
			} else if (child > 0) {
				RAW_CALL(SYS_kill, child, SIGKILL, 0, 0);
				child = 0;
			}
		}
		RAW_CALL(SYS_wait4, -1, 0, __WALL, 0);
	}
}

static void cell_init_finish(struct cell_init_slot *slot, int status)
{
	struct rusage usage = {0};

	if (!slot->own_pid_namespace)
		cell_init_end_children();
	RAW_CALL(SYS_getrusage, RUSAGE_CHILDREN, &usage, 0, 0);
	slot->max_rss_kb = usage.ru_maxrss;
	slot->status = status;
	RAW_CALL(SYS_exit_group, 0, 0, 0, 0);
}

static void cell_init_reap(struct cell_init_slot *slot)
{
	int status;
	long pid;

	while ((pid = RAW_CALL(SYS_wait4, -1, &status, WNOHANG | __WALL, 0)) > 0)
		if (pid == slot->guest)
			cell_init_finish(slot, status);
}

/* Sent on purpose, and by a process outside: the kernel gives the sender's pid as 0 to another pid namespace. Guests
 * signal each other by themselves, so handing on their signals to the init would give them nothing. */
static int cell_init_hands_on(const struct cell_init_slot *slot, const siginfo_t *info)
{
	return info->si_code <= 0 && (info->si_pid == 0 || !slot->own_pid_namespace);
}

/* It holds nothing that a guest could want: no descriptor, and no capability outside the cell. */
static void cell_init_confine(const struct cell_init_slot *slot)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
	struct __user_cap_data_struct kept[2];

	kept[0] = kept[1] = (struct __user_cap_data_struct){0, 0, 0};
	if (slot->own_user_namespace) /* the guest may be another user: to hand signals on to it */
		kept[0].effective = kept[0].permitted = 1U << CAP_KILL;
	RAW_CALL(SYS_close_range, 0, ~0U, CELL_INIT_CLOSE_UNSHARE, 0);
	RAW_CALL(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0);
	RAW_CALL(SYS_capset, &header, kept, 0, 0);
}

SHARED void cell_init_serve(struct cell_init_slot *slot)
{
	uint64_t all = ~0ULL;
	siginfo_t info;

	cell_init_confine(slot);
	for (;;) {
		long number = RAW_CALL(SYS_rt_sigtimedwait, &all, &info, 0, sizeof all);
		if (number == SIGCHLD)
			cell_init_reap(slot);
		else if (number > 0 && cell_init_hands_on(slot, &info))
			RAW_CALL(SYS_kill, slot->guest, number, 0, 0);
	}
}
