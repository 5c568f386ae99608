/* What a fresh cell does to itself before anything else, in one call.
 *
 * The order matters: the identity maps need the capabilities of the new user namespace, and the parent-death signal is
 * cleared by credential changes (prctl(2)), so it comes after them.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cell_confine.types.h"
#include "process.h"
#include "result.h"
#include "shared.h"

static int cell_confine_user(const struct cell_confine_order *order, int mapped)
{
	char byte;
	ssize_t got;

	if (mapped < 0)
		return order->namespaces & CLONE_NEWUSER ? process_write_id_maps(order->uid, order->gid) : 0;
	while ((got = read(mapped, &byte, 1)) < 0 && errno == EINTR)
		;
	return got == 1 ? 0 : got < 0 ? -errno : -EPERM; /* the zygote closed it: it could not map the user */
}

static int cell_confine_descriptors(int channel)
{
	int error = channel > 3 ? process_close_range(3, (unsigned int)channel - 1) : 0;
	int rest = process_close_range((unsigned int)channel + 1, ~0U);

	return error < 0 ? error : rest;
}

/* A hard limit of the host's that is lower holds, and a cell may not raise it. */
static int cell_confine_limit(const struct cell_confine_limit *limit)
{
	struct rlimit present;

	if (getrlimit(limit->which, &present) < 0)
		return -errno;
	rlim_t hard =
		limit->hard < present.rlim_max ? limit->hard : present.rlim_max; /* RLIM_INFINITY is the greatest */
	struct rlimit wanted = {limit->soft < hard ? limit->soft : hard, hard};
	if (limit->which == RLIMIT_CPU && limit->soft >= hard && hard > 1)
		wanted.rlim_cur = hard - 1; /* SIGXCPU a second before SIGKILL, which does not say why */
	if (wanted.rlim_cur == present.rlim_cur && wanted.rlim_max == present.rlim_max)
		return 0; /* the listener is asked about each change */
	return result_of(setrlimit(limit->which, &wanted));
}

SHARED int cell_confine_limits(const struct cell_confine_limit *limits, int count)
{
	int error = 0;

	for (int i = 0; i < count && error == 0; i++)
		error = cell_confine_limit(&limits[i]);
	return error;
}

SHARED int cell_confine_run(const struct cell_confine_order *order, int channel, int mapped, int *results)
{
	static const char name[] = "sandbox";
	int failed = 0;

	results[CELL_CONFINE_USER] = cell_confine_user(order, mapped);
	results[CELL_CONFINE_SESSION] = result_of(setsid());
	results[CELL_CONFINE_DESCRIPTORS] = cell_confine_descriptors(channel);
	results[CELL_CONFINE_HOST_NAME] =
		order->namespaces & CLONE_NEWUTS ? process_set_hostname(name, sizeof name - 1) : 0;
	results[CELL_CONFINE_NO_NEW_PRIVS] = process_prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	results[CELL_CONFINE_DUMPABLE] = process_prctl(PR_SET_DUMPABLE, (unsigned long)order->dumpable, 0, 0, 0);
	results[CELL_CONFINE_LIMITS] = cell_confine_limits(order->limits, order->limit_count);
	results[CELL_CONFINE_CAPABILITIES] = process_limit_capabilities(order->keep);
	results[CELL_CONFINE_DEATH_SIGNAL] = process_prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	umask(077);
	for (int step = 0; step < CELL_CONFINE_STEPS; step++)
		failed += results[step] < 0;
	return failed;
}
