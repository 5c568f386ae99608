/* A cell, from its fork to its report or, where a policy zygote forked it, to the answer of its hand-out, in one call.
 *
 * An interpreter writes where it reads, and in a fresh cell each page that is written is copied first: the same steps in
 * Python wrote most of a cell's pages (docs/benchmarks.md counts them). What is sent was encoded in the zygote. What
 * comes is compared with the hand-out that the supervisor has foreseen; anything else is left to Python, as it came,
 * and so is a step that failed.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cell_start.h"
#include "channel.h"
#include "process.h"
#include "result.h"
#include "shared.h"

/* Of other files. */
SHARED int audit_set_asked(int fd);
SHARED int cell_confine_limits(const struct cell_confine_limit *limits, int count);
SHARED int cell_confine_run(const struct cell_confine_order *order, int channel, int mapped, int *results);
SHARED int landlock_restrict(int ruleset_fd, unsigned int flags);
SHARED int mount_enter_root(int tree_fd);
SHARED int seccomp_install_and_send(const void *program, size_t length_bytes, unsigned long flags, int peer,
				    const void *data, size_t data_bytes, const struct seccomp_user *user);

/* Signals as they are by default, standard streams, the channel at its number, the page in which hooks ask, and
 * randomness while no filter asks for it. The descriptor of the page is closed with all others, so that no guest can write
 * code into that file and map it executable. */
static int cell_start_begin(const struct cell_start_order *order, int channel, int out, int err, int asked,
			    struct cell_start_outcome *o)
{
	if (order->pid > 0 && getpid() != order->pid)
		return -ESRCH; /* the zygote was wrong about who a guest is in its pid namespace */
	if (process_wake_on(SIGCHLD, -1) < 0 || dup2(order->null, 0) < 0 || dup2(out, 1) < 0 || dup2(err, 2) < 0 ||
	    dup3(channel, order->channel, O_CLOEXEC) < 0)
		return -errno;
	if (syscall(SYS_getrandom, o->entropy, sizeof o->entropy, 0) != sizeof o->entropy)
		return -EIO;
	return audit_set_asked(asked);
}

/*
 * Set the limits of the foreseen hand-out while no filter asks the listener about each: a round trip, and a change of
 * process on either side. It is no step: the hand-out sets what is not set, and that is what is reported. That of open
 * files waits: who sends a descriptor may have no more under way in all, of all processes of its user, than it says
 * (too_many_unix_fds, net/core/scm.c), and the filter's listener is sent.
 */
static void cell_start_limits_ahead(const struct cell_start_order *order)
{
	for (int i = 0; i < order->limit_count; i++)
		if (order->limits[i].which != RLIMIT_NOFILE)
			cell_confine_limits(&order->limits[i], 1);
}

static int cell_start_filter(const struct cell_start_order *order)
{
	int result = order->program_bytes > 0 ? -EINVAL : -ENOSYS; /* none could be made */

	for (int i = 0; i < 2 && result == -EINVAL; i++)
		result = seccomp_install_and_send(order->program, order->program_bytes, order->flags[i], order->channel,
						  order->warm, order->warm_bytes, order->user);
	return result;
}

/* Returns CELL_START_DONE once exactly the foreseen hand-out has come. */
static int cell_start_receive(const struct cell_start_order *order, struct cell_start_outcome *o)
{
	o->received = 0;
	o->count = 0;
	while (o->received < order->init_bytes) {
		int count = 0;
		int got = channel_receive(order->channel, o->data + o->received, sizeof o->data - o->received,
					  o->descriptors + o->count, CELL_START_DESCRIPTORS - o->count, &count);
		if (got == -EINTR)
			continue;
		if (got <= 0)
			return CELL_START_GONE;
		o->received += (size_t)got;
		o->count += count;
		if (o->received > order->init_bytes || memcmp(o->data, order->init, o->received) != 0)
			return CELL_START_OTHER;
	}
	return o->count == order->descriptors ? CELL_START_DONE : CELL_START_OTHER;
}

static int cell_start_directory(const char *directory)
{
	int result = result_of(chdir(directory));

	return result < 0 && chdir("/") < 0 ? -errno : result;
}

static int cell_start_step(const struct cell_start_order *order, const int *descriptors, int step)
{
	switch (step) {
	case CELL_START_ROOT:
		return order->root_view < 0 ? 0 : mount_enter_root(descriptors[order->root_view]);
	case CELL_START_DIRECTORY:
		return cell_start_directory(order->directory);
	case CELL_START_LIMITS:
		return cell_confine_limits(order->limits, order->limit_count);
	case CELL_START_CAPABILITIES:
		return process_set_capabilities(0);
	case CELL_START_LANDLOCK:
		return order->landlock < 0 ? 0 : landlock_restrict(descriptors[order->landlock], 0);
	default:
		return -ENOSYS;
	}
}

/* Every step, in the order of their numbers, also after one that failed. */
static int cell_start_confine(const struct cell_start_order *order, struct cell_start_outcome *o)
{
	int failed = 0;

	for (int step = 0; step < CELL_START_STEPS; step++) {
		o->handed_out[step] = cell_start_step(order, o->descriptors, step);
		failed += o->handed_out[step] < 0;
	}
	for (int i = 0; i < o->count; i++)
		close(o->descriptors[i]);
	return failed;
}

static int cell_start_send(int channel, const char *data, size_t size)
{
	while (size > 0) {
		ssize_t sent = send(channel, data, size, MSG_NOSIGNAL);
		if (sent < 0 && errno != EINTR)
			return -errno;
		data += sent > 0 ? sent : 0;
		size -= sent > 0 ? (size_t)sent : 0;
	}
	return 0;
}

SHARED int cell_start_run(const struct cell_start_order *order, int channel, int out, int err, int asked, int mapped,
			  struct cell_start_outcome *outcome)
{
	outcome->error = cell_start_begin(order, channel, out, err, asked, outcome);
	if (outcome->error < 0)
		return CELL_START_BROKEN;
	if (cell_confine_run(order->confine, order->channel, mapped, outcome->confined) != 0)
		return CELL_START_CONFINE;
	if (order->init_bytes > 0)
		cell_start_limits_ahead(order);
	outcome->error = cell_start_filter(order);
	if (outcome->error < 0)
		return CELL_START_FILTER;
	if (order->init_bytes == 0)
		return CELL_START_REPORTED;
	int came = cell_start_receive(order, outcome);
	if (came != CELL_START_DONE)
		return came;
	prctl(PR_SET_NAME, order->name, 0, 0, 0);
	if (cell_start_confine(order, outcome) != 0)
		return CELL_START_HAND_OUT;
	return cell_start_send(order->channel, order->ready, order->ready_bytes) < 0 ? CELL_START_GONE
										     : CELL_START_DONE;
}
