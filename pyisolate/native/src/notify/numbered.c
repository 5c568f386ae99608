/* Calls on a task by its number, and those that would put one before others on the processor. */
#include "calls.h"
#include <limits.h>

/* linux/ioprio.h, which older headers lack */
enum { NOTIFY_WHO_PROCESS = 1, NOTIFY_WHO_GROUP = 2, NOTIFY_CLASS_SHIFT = 13, NOTIFY_CLASS_RT = 1 };

/* Which argument of a call is the number of a process or thread that it acts on; -1: none. */
SHARED int notify_number_argument(const struct notify_call *c)
{
	switch (c->nr) {
	case SYS_kill:
	case SYS_tkill:
	case SYS_tgkill:
	case SYS_rt_sigqueueinfo:
	case SYS_rt_tgsigqueueinfo:
	case SYS_pidfd_open:
	case SYS_sched_setaffinity:
	case SYS_sched_setscheduler:
	case SYS_sched_setparam:
	case SYS_sched_setattr:
		return 0;
	case SYS_setpriority: /* PRIO_USER names no process */
		return c->args[0] <= 1 ? 1 : -1;
	case SYS_ioprio_set: /* nor does IOPRIO_WHO_USER */
	case SYS_ioprio_get:
		return (int)c->args[0] == NOTIFY_WHO_PROCESS || (int)c->args[0] == NOTIFY_WHO_GROUP ? 1 : -1;
	default:
		return -1;
	}
}

/* The number names no task of the cell: whom it names outside, if anyone, cannot be reached. Unknown before 6.11. */
static int notify_names_none(const struct notify_call *c, int argument)
{
	char path[40];
	int number = (int)c->args[argument];

	snprintf(path, sizeof path, "/proc/%d/ns/pid", c->tid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	int none = ioctl(fd, NOTIFY_PID_FROM_NAMESPACE, number < 0 ? -number : number) < 0 && errno == ESRCH;
	close(fd);
	return none && notify_valid(c);
}

/* A group, or everybody: kill(-1) reaches all but the caller and the init. */
static int notify_names_group(const struct notify_call *c, int argument)
{
	int io = c->nr == SYS_ioprio_set || c->nr == SYS_ioprio_get;

	return (int)c->args[argument] < 0 || (c->nr == SYS_setpriority && c->args[0] == PRIO_PGRP) ||
	       (io && (int)c->args[0] == NOTIFY_WHO_GROUP);
}

/* No process is in that group, which may have outlived the process whose number it has. */
static int notify_group_is_empty(const struct notify_call *c, int argument)
{
	int number = (int)c->args[argument], all = c->nr == SYS_kill && number == -1;

	if (c->policy->acts[PYI_PROCESS_FORK] == NOTIFY_ACT_DENY) /* who makes no process is known to have no other */
		return all || (number && notify_names_none(c, argument));
	return number && number != INT_MIN && !notify_reaches(c, all ? 0 : number < 0 ? -number : number);
}

/* Process 1 is the cell's init, which no guest may touch. */
static int notify_names_init(const struct notify_call *c, int argument)
{
	int pid, tid;

	return (int)c->args[argument] == 1 && (notify_own_ids(c->tid, &pid, &tid) || pid != 1);
}

/* Calls on a task by its number. */
SHARED void notify_do_numbered(const struct notify_call *c, int argument)
{
	int group = notify_names_group(c, argument), number = (int)c->args[argument];

	if (notify_names_init(c, argument))
		notify_refuse_floor(c, c->l->capability[c->nr], EPERM);
	else if (group ? notify_group_is_empty(c, argument) : number && notify_names_none(c, argument))
		notify_refuse_floor(c, c->l->capability[c->nr], ESRCH);
	else if (c->l->capability[c->nr] == PYI_PRIORITY_IO) /* of its own tasks; by value, so it may go on */
		notify_by_capability(c, PYI_PRIORITY_IO, 1);
	else
		notify_continue(c);
}

/* struct sched_attr, linux/sched/types.h: what is read of it */
struct notify_sched {
	uint32_t size, policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
};
#define NOTIFY_KEEP_ALL 0x18 /* SCHED_FLAG_KEEP_POLICY, SCHED_FLAG_KEEP_PARAMS */

static int notify_is_realtime(uint64_t policy)
{
	policy &= ~(uint64_t)SCHED_RESET_ON_FORK;
	return policy == SCHED_FIFO || policy == SCHED_RR || policy == 6; /* SCHED_DEADLINE */
}

static int notify_is_nicer(const struct notify_call *c, int wanted)
{
	errno = 0;
	int now = getpriority(PRIO_PROCESS, (id_t)c->tid);
	return !errno && wanted < now && notify_valid(c);
}

/* The caller would come before others on the processor, which takes CAP_SYS_NICE: what errno the kernel answers with, or
 * 0. The kernel judges all that goes on, so a guest gains nothing by changing its memory. */
SHARED int notify_raises(const struct notify_call *c)
{
	struct notify_sched wanted;

	switch (c->nr) {
	case SYS_setpriority: /* of another user's tasks, or of others of the cell: compared with the caller */
		return c->args[1] != 1 && notify_is_nicer(c, (int)c->args[2]) ? EACCES : 0;
	case SYS_sched_setscheduler:
		return notify_is_realtime((uint32_t)c->args[1]) ? EPERM : 0;
	case SYS_ioprio_set:
		return ((uint32_t)c->args[2] >> NOTIFY_CLASS_SHIFT & 7) == NOTIFY_CLASS_RT ? EPERM : 0;
	case SYS_sched_setattr:
		if (notify_read(c, c->args[1], &wanted, sizeof wanted) || !notify_valid(c) ||
		    wanted.flags & NOTIFY_KEEP_ALL)
			return 0;
		return notify_is_realtime(wanted.policy) ||
				       (wanted.policy == SCHED_OTHER && notify_is_nicer(c, wanted.nice))
			       ? EPERM
			       : 0;
	default:
		return 0;
	}
}
