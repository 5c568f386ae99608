/* Empty network namespaces for cells, one after another: to make one and to take it apart is a third of what a cell costs.
 *
 * No two living cells are in one. A cell gets one that another has had only when all processes of that one have ended, and
 * no socket is left in it: then nothing is left of it. A guest can change nothing else there, for the namespace belongs to a
 * user namespace of the zygote's, above the cells' own, in which no cell has a capability (network_namespaces(7)).
 *
 * To put a cell into a namespace takes CAP_SYS_ADMIN in the user namespace that owns it and in one's own (setns(2)): so the
 * zygote goes into a user namespace that maps the users of its cells and no others. It has no capability outside of that.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "process.h"
#include "result.h"
#include "shared.h"

#include "networks.h"

/* So few that the zygote's table of descriptors, of which each cell gets a copy, needs no more than its 64 first places. */
#define NETWORKS_KEPT 24
/* That wait for a cell: each is 0.2 MB of the kernel's memory. */
#define NETWORKS_IDLE 8

struct networks_place {
	int fd;                    /* of the namespace; meaningless where there is no ticket */
	int idle;                  /* its cell has ended */
	unsigned long long ticket; /* that its last cell had; greater ones are younger. 0: none is here */
};

static struct networks_place networks_places[NETWORKS_KEPT];
static unsigned long long networks_tickets;
static int networks_home = -1; /* the zygote's own namespace, where no cell ever is */

static int networks_open(void)
{
	return result_of(open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC));
}

static void networks_drop(struct networks_place *place)
{
	if (place->ticket != 0)
		close(place->fd);
	*place = (struct networks_place){0};
}

/* In a copy of the process: what it has copies of is its maker's to give. */
SHARED void networks_forget(void)
{
	for (int i = 0; i < NETWORKS_KEPT; i++)
		networks_drop(&networks_places[i]);
}

/* 1 where the namespace that this process is in has no socket: a descriptor of one may be in flight, or the supervisor may have
 * it. Sockets of the kernel's own are not counted (sock_inuse_add, net/core/sock.c). */
static int networks_unused(void)
{
	static const char none[] = "sockets: used 0\n";
	char text[sizeof none] = "";
	int fd = open("/proc/self/net/sockstat", O_RDONLY | O_CLOEXEC);
	ssize_t got = fd < 0 ? -1 : read(fd, text, sizeof none - 1);

	if (fd >= 0)
		close(fd);
	return got == sizeof none - 1 && memcmp(text, none, sizeof none - 1) == 0;
}

/* Be in one that a cell has had. NULL where there is none. */
static struct networks_place *networks_enter_again(void)
{
	for (int i = 0; i < NETWORKS_KEPT; i++) {
		struct networks_place *place = &networks_places[i];
		if (!place->idle)
			continue;
		if (setns(place->fd, CLONE_NEWNET) == 0 && networks_unused())
			return place;
		networks_drop(place);
	}
	return NULL;
}

/* Be in a new one. A cell that has lived long gives its place up: its namespace goes with it. */
static int networks_enter_new(struct networks_place **entered)
{
	struct networks_place *place = networks_places;

	if (unshare(CLONE_NEWNET) < 0)
		return -errno;
	int fd = networks_open();
	if (fd < 0)
		return fd;
	for (int i = 1; i < NETWORKS_KEPT; i++)
		if (networks_places[i].ticket < place->ticket)
			place = &networks_places[i];
	networks_drop(place);
	place->fd = fd;
	*entered = place;
	return 0;
}

/* Be in a namespace that no other process is in, until networks_leave; 0 or -errno. */
SHARED int networks_enter(unsigned long long *ticket)
{
	if (networks_home < 0)
		return -ENOSYS;
	struct networks_place *place = networks_enter_again();
	int error = place != NULL ? 0 : networks_enter_new(&place);
	if (error < 0) {
		networks_leave();
		return error;
	}
	place->idle = 0;
	place->ticket = *ticket = ++networks_tickets;
	return 0;
}

/* Where the zygote cannot, its sockets would be in a cell's namespace: the next cells get new ones by clone(2), and this one's is
 * never used again. */
SHARED void networks_leave(void)
{
	if (setns(networks_home, CLONE_NEWNET) == 0)
		return;
	networks_forget();
	close(networks_home);
	networks_home = -1;
}

/* The cell with this ticket has ended, and with it all processes in its namespace. */
SHARED void networks_give(unsigned long long ticket)
{
	struct networks_place *given = NULL;
	int idle = 0;

	for (int i = 0; i < NETWORKS_KEPT && ticket != 0; i++) {
		idle += networks_places[i].idle;
		if (networks_places[i].ticket == ticket)
			given = &networks_places[i];
	}
	if (given != NULL && idle < NETWORKS_IDLE)
		given->idle = 1;
	else if (given != NULL)
		networks_drop(given);
}

/* --- the zygote's user namespace -------------------------------------------------------------------------------------- */

struct networks_users {
	unsigned long long flags, keep; /* CLONE_NEW* of cells; capabilities of the zygote */
	const char *uid_map, *gid_map;
	int maps; /* the zygote maps its cells' users */
	unsigned int uid, gid;
};

static long networks_clone(unsigned long long flags)
{
	return syscall(SYS_clone, flags, 0, 0, 0, 0); /* as fork(2), without a signal at its end */
}

/* Wait for a child; 0, or an errno as the child's status says it. */
static int networks_status(pid_t pid)
{
	int status = 0;

	while (waitpid(pid, &status, __WALL) < 0)
		if (errno != EINTR)
			return errno;
	return WIFEXITED(status) ? WEXITSTATUS(status) : EIO;
}

/* The helper's part: it is where the zygote was, and maps the zygote's users once a byte comes. */
static int networks_map(int pipe_end, const char *zygote, const struct networks_users *users)
{
	const char *const names[] = {"setgroups", "uid_map", "gid_map"};
	const char *const texts[] = {"deny", users->uid_map, users->gid_map};
	char path[64], byte;

	if (read(pipe_end, &byte, 1) != 1)
		return EPIPE;
	for (int i = 0; i < 3; i++) {
		snprintf(path, sizeof path, "/proc/%s/%s", zygote, names[i]);
		int error = process_write_file(path, texts[i], strlen(texts[i]));
		if (error < 0)
			return -error;
	}
	return 0;
}

/* Be in a user namespace of one's own; 0 or an errno. */
static int networks_own_users(const struct networks_users *users)
{
	char self[16] = "";
	int ends[2], error = 0;

	if (readlink("/proc/self", self, sizeof self - 1) < 0 || pipe2(ends, O_CLOEXEC) < 0)
		return errno;
	pid_t helper = (pid_t)networks_clone(0);
	if (helper == 0) {
		close(ends[1]);
		_exit(networks_map(ends[0], self, users));
	}
	if (helper < 0 || unshare(CLONE_NEWUSER) < 0)
		error = errno;
	if (error == 0 && write(ends[1], "", 1) != 1)
		error = EPIPE;
	close(ends[0]);
	close(ends[1]);
	int mapped = helper < 0 ? 0 : networks_status(helper);
	return error ? error : mapped;
}

/* Be in a user and a network namespace of one's own, with no more capabilities than that takes; 0 or an errno. */
static int networks_move(const struct networks_users *users)
{
	int error = networks_own_users(users);

	if (error == 0 && unshare(CLONE_NEWNET) < 0)
		error = errno;
	return error ? error : -process_set_capabilities(users->keep);
}

/* A child's part: whether such a zygote could make a cell; 0 or an errno. */
static int networks_try(const struct networks_users *users)
{
	int ends[2], home, error = networks_move(users);

	if (error)
		return error;
	home = networks_open();
	if (home < 0 || unshare(CLONE_NEWNET) < 0 || !networks_unused() || setns(home, CLONE_NEWNET) < 0 ||
	    pipe2(ends, O_CLOEXEC) < 0)
		return errno ? errno : ENOSYS;
	pid_t cell = (pid_t)networks_clone(users->flags & ~(unsigned long long)CLONE_NEWNET);
	if (cell == 0) {
		char byte;
		close(ends[1]);
		if (!users->maps)
			_exit(-process_write_id_maps(users->uid, users->gid));
		_exit(read(ends[0], &byte, 1) < 0 ? errno : 0);
	}
	if (cell < 0)
		return errno;
	if (users->maps) /* by the number that this process knows, as the zygote does */
		error = -process_write_id_maps_of(cell, users->uid, users->uid, users->gid);
	close(ends[1]);
	int made = networks_status(cell);
	return error ? error : made;
}

/* 0; an errno where this process stays as it was, because a child could not do the same; or -errno where it was half moved. */
SHARED int networks_begin(unsigned long long flags, const char *uid_map, const char *gid_map, unsigned long long keep,
			  int maps, unsigned int uid, unsigned int gid)
{
	const struct networks_users users = {flags, keep, uid_map, gid_map, maps, uid, gid};

	pid_t child = (pid_t)networks_clone(0);
	if (child == 0)
		_exit(networks_try(&users));
	int error = child < 0 ? errno : networks_status(child);
	if (error)
		return error;
	error = networks_move(&users);
	if (error == 0)
		networks_home = networks_open();
	return error ? -error : networks_home < 0 ? networks_home : 0;
}
