/* A zygote's loop: fork cells as they are ordered, hand them over, reap them, watch the host.
 *
 * Each fork shares all pages of the zygote again, and who writes one copies it: C writes few of them. So messages are
 * encoded ahead, and only numbers are put into them. What is rare is left to Python: other orders, and what to say of a
 * cell that could not be made.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "audit.h"
#include "cell_init.h"
#include "cell_start.h"
#include "channel.h"
#include "descriptors.h"
#include "networks.h"
#include "process.h"
#include "shared.h"
#include "zygote_loop.types.h"

/* What a cell and its supervisor talk by: those that the supervisor gets, in the order in which they are sent (the pidfd is
 * the init's), those that the cell keeps, and a pipe that tells the cell that its user is mapped. */
enum {
	ZYGOTE_HOSTS_CHANNEL,
	ZYGOTE_HOSTS_OUT,
	ZYGOTE_HOSTS_ERR,
	ZYGOTE_PIDFD,
	ZYGOTE_ASKED,
	ZYGOTE_HOSTS,
	ZYGOTE_CHANNEL = ZYGOTE_HOSTS,
	ZYGOTE_OUT,
	ZYGOTE_ERR,
	ZYGOTE_MAPPED,
	ZYGOTE_MAPPING,
	ZYGOTE_ENDS
};

static void zygote_loop_put(struct zygote_loop_frame *frame, int number, uint64_t value, int bytes)
{
	for (int i = 0; i < bytes; i++)
		frame->bytes[frame->at[number] + (unsigned int)i] = (unsigned char)(value >> 8 * (bytes - 1 - i));
}

static int zygote_loop_send(int control, const struct zygote_loop_frame *frame, const int *descriptors, int count)
{
	DESCRIPTORS_ROOM(ZYGOTE_HOSTS) given = {0};
	struct iovec part = {(void *)frame->bytes, frame->size};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};

	if (count > 0)
		descriptors_put(&message, given.bytes, descriptors, count);
	while (sendmsg(control, &message, MSG_NOSIGNAL) < 0)
		if (errno != EINTR)
			return -errno;
	return 0;
}

static int zygote_loop_is_gone(int error)
{
	return error == -EPIPE || error == -ECONNRESET;
}

/* --- a cell's making ------------------------------------------------------------------------------------------------ */

static int zygote_loop_pipe(int *ends, int reads, int writes)
{
	int made[2];

	if (pipe2(made, O_CLOEXEC) < 0)
		return -errno;
	ends[reads] = made[0];
	ends[writes] = made[1];
	return 0;
}

/* Room for another cell, before it is forked: each that is forked must be known when it ends. */
static int zygote_loop_make_room(struct zygote_loop *loop)
{
	if (loop->count < loop->room)
		return 0;
	int room = loop->room > 0 ? 2 * loop->room : 64;
	struct zygote_loop_cell *cells = realloc(loop->cells, (size_t)room * sizeof *cells);
	if (cells == NULL)
		return -ENOMEM;
	loop->cells = cells;
	loop->room = room;
	return 0;
}

static int zygote_loop_open(struct zygote_loop *loop, int *ends)
{
	int pair[2];
	int error = zygote_loop_make_room(loop);

	loop->step = ZYGOTE_LOOP_TABLE;
	if (error < 0)
		return error;
	loop->step = ZYGOTE_LOOP_SOCKETS;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	ends[ZYGOTE_HOSTS_CHANNEL] = pair[0];
	ends[ZYGOTE_CHANNEL] = pair[1];
	loop->step = ZYGOTE_LOOP_PIPES;
	error = zygote_loop_pipe(ends, ZYGOTE_HOSTS_OUT, ZYGOTE_OUT);
	if (error == 0)
		error = zygote_loop_pipe(ends, ZYGOTE_HOSTS_ERR, ZYGOTE_ERR);
	if (error == 0 && loop->maps)
		error = zygote_loop_pipe(ends, ZYGOTE_MAPPED, ZYGOTE_MAPPING);
	if (error < 0)
		return error;
	loop->step = ZYGOTE_LOOP_PAGE;
	ends[ZYGOTE_ASKED] = audit_make_asked();
	return ends[ZYGOTE_ASKED] < 0 ? ends[ZYGOTE_ASKED] : 0;
}

/* Make the cell's user, `uid` to itself, one outside: its own, where there is a range. Then let it go on. */
static int zygote_loop_map(struct zygote_loop *loop, struct zygote_loop_cell *cell, int mapping)
{
	loop->step = ZYGOTE_LOOP_USERS;
	if (loop->free_uids != NULL) {
		if (loop->free == 0)
			return -EAGAIN;
		cell->uid = loop->free_uids[loop->first_free];
		loop->first_free = (loop->first_free + 1) % loop->uids;
		loop->free--;
	}
	loop->step = ZYGOTE_LOOP_MAP;
	unsigned int outside = loop->free_uids != NULL ? cell->uid : loop->uid;
	int error = process_write_id_maps_of(cell->init, loop->uid, outside, loop->gid);
	return error < 0 || write(mapping, "1", 1) == 1 ? error : -EIO;
}

static int zygote_loop_hand_over(struct zygote_loop *loop, const struct zygote_loop_cell *cell, const int *ends)
{
	struct zygote_loop_frame *frame = &loop->forked[loop->forks];

	loop->step = ZYGOTE_LOOP_SEND;
	zygote_loop_put(frame, 0, (uint64_t)cell->guest, 4);
	zygote_loop_put(frame, 1, (uint64_t)cell->init, 4);
	return zygote_loop_send(loop->control, frame, ends, ZYGOTE_HOSTS);
}

/* In a guest. Where it has no streams of its own yet, whatever it says must not go to the zygote's, which are the host's. */
static int zygote_loop_be_guest(struct zygote_loop *loop, const int *ends)
{
	if (ends[ZYGOTE_MAPPING] >= 0)
		close(ends[ZYGOTE_MAPPING]);
	loop->came = cell_start_run(loop->starts[loop->forks], ends[ZYGOTE_CHANNEL], ends[ZYGOTE_OUT], ends[ZYGOTE_ERR],
				    ends[ZYGOTE_ASKED], ends[ZYGOTE_MAPPED], loop->outcomes[loop->forks]);
	if (loop->came == CELL_START_BROKEN)
		dup2(ends[ZYGOTE_ERR], 2);
	return ZYGOTE_LOOP_GUEST;
}

static int zygote_loop_made(struct zygote_loop *loop, const struct cell_init_made *made, int *ends)
{
	struct zygote_loop_cell *cell = &loop->cells[loop->count++];

	*cell = (struct zygote_loop_cell){made->init_pid, made->guest_pid, 0, made->slot};
	ends[ZYGOTE_PIDFD] = made->init_pidfd;
	int error = loop->maps ? zygote_loop_map(loop, cell, ends[ZYGOTE_MAPPING]) : 0;
	if (error == 0)
		error = zygote_loop_hand_over(loop, cell, ends);
	if (error < 0) /* no supervisor would ever use it (unix(7), ETOOMANYREFS) */
		syscall(SYS_pidfd_send_signal, made->init_pidfd, SIGKILL, NULL, 0);
	return error;
}

/* Fork one cell and hand its ends to the supervisor. */
static int zygote_loop_fork(struct zygote_loop *loop)
{
	int ends[ZYGOTE_ENDS] = {-1, -1, -1, -1, -1, -1, -1, -1, -1, -1};
	struct cell_init_made made;
	int error = zygote_loop_open(loop, ends);

	if (error == 0) {
		loop->step = ZYGOTE_LOOP_FORK;
		error = cell_init_fork(loop->flags, &made);
		if (error == 0)
			return zygote_loop_be_guest(loop, ends);
		error = error > 0 ? zygote_loop_made(loop, &made, ends) : error;
	}
	for (int i = 0; i < ZYGOTE_ENDS; i++)
		if (ends[i] >= 0)
			close(ends[i]);
	loop->error = error;
	if (error == 0)
		return ZYGOTE_LOOP_DONE;
	return zygote_loop_is_gone(error) ? ZYGOTE_LOOP_GONE : ZYGOTE_LOOP_FAILED;
}

/* --- a cell's end --------------------------------------------------------------------------------------------------- */

static int zygote_loop_exited(struct zygote_loop *loop, struct zygote_loop_cell *cell, int status,
			      const struct rusage *usage)
{
	struct zygote_loop_frame *frame = &loop->exited;
	struct cell_init_end end;
	double used_s = (double)(usage->ru_utime.tv_sec + usage->ru_stime.tv_sec) +
			(double)(usage->ru_utime.tv_usec + usage->ru_stime.tv_usec) / 1e6;
	uint64_t used;

	cell_init_forget(cell->slot, &end);
	memcpy(&used, &used_s, sizeof used);
	zygote_loop_put(frame, 0, (uint64_t)cell->guest, 4);
	zygote_loop_put(frame, 1, (uint64_t)(end.status < 0 ? status : end.status), 4);
	zygote_loop_put(frame, 2, used, 8);
	zygote_loop_put(frame, 3, (uint64_t)end.max_rss_kb << 10, 8);
	if (cell->uid != 0)
		loop->free_uids[(loop->first_free + loop->free++) % loop->uids] = cell->uid;
	*cell = loop->cells[--loop->count];
	return zygote_loop_send(loop->control, frame, NULL, 0);
}

/* Returns 0, or -errno. What is no cell is a policy zygote, which the supervisor misses by itself. */
static int zygote_loop_reap(struct zygote_loop *loop)
{
	char bytes[4096];
	struct rusage usage;
	int status, error = 0;

	if (read(loop->wake, bytes, sizeof bytes) < 0 && errno != EAGAIN && errno != EINTR)
		return -errno;
	for (int pid; error == 0 && (pid = wait4(-1, &status, WNOHANG, &usage)) > 0;)
		for (int i = 0; i < loop->count; i++)
			if (loop->cells[i].init == pid) {
				error = zygote_loop_exited(loop, &loop->cells[i], status, &usage);
				break;
			}
	return error;
}

/* --- the loop ------------------------------------------------------------------------------------------------------- */

/* Returns the number in an order for cells, 0 where it is another order. */
static int zygote_loop_number(const struct zygote_loop_frame *frame, const unsigned char *data, size_t size)
{
	size_t at = frame->at[0];

	if (size != frame->size || memcmp(data, frame->bytes, at) != 0 ||
	    memcmp(data + at + 1, frame->bytes + at + 1, size - at - 1) != 0)
		return 0;
	return data[at] < 128 ? data[at] : 0; /* msgpack's positive fixint */
}

static int zygote_loop_receive(struct zygote_loop *loop)
{
	int got = channel_receive(loop->control, loop->data, sizeof loop->data, loop->descriptors,
				  ZYGOTE_LOOP_DESCRIPTORS, &loop->descriptor_count);

	if (got == -EINTR)
		return ZYGOTE_LOOP_DONE;
	if (got <= 0)
		return got == 0 || zygote_loop_is_gone(got) ? ZYGOTE_LOOP_GONE : got;
	loop->received = (size_t)got;
	for (int forks = 0; forks < 2 && loop->descriptor_count == 0; forks++) {
		loop->left = zygote_loop_number(&loop->fork[forks], loop->data, loop->received);
		loop->forks = forks;
		if (loop->left > 0)
			return ZYGOTE_LOOP_DONE;
	}
	return ZYGOTE_LOOP_OTHER;
}

static int zygote_loop_wait(struct zygote_loop *loop)
{
	struct pollfd awaited[] = {
		{loop->host, POLLIN, 0},
		{loop->wake, POLLIN, 0},
		{loop->control, POLLIN, 0},
	};

	int ready = poll(awaited, sizeof awaited / sizeof *awaited, 0);
	if (ready == 0) { /* where that fails, the next cell's making says why */
		cell_init_prepare(loop->flags);
		ready = poll(awaited, sizeof awaited / sizeof *awaited, -1);
	}
	if (ready < 0)
		return errno == EINTR ? ZYGOTE_LOOP_DONE : -errno;
	if (awaited[0].revents)
		return ZYGOTE_LOOP_GONE;
	int error = awaited[1].revents ? zygote_loop_reap(loop) : 0;
	if (error < 0)
		return zygote_loop_is_gone(error) ? ZYGOTE_LOOP_GONE : error;
	return awaited[2].revents ? zygote_loop_receive(loop) : ZYGOTE_LOOP_DONE;
}

SHARED int zygote_loop_run(struct zygote_loop *loop)
{
	int why = ZYGOTE_LOOP_DONE;

	while (why == ZYGOTE_LOOP_DONE) {
		if (loop->left > 0) {
			loop->left--;
			why = zygote_loop_fork(loop);
		} else {
			why = zygote_loop_wait(loop);
		}
	}
	return why;
}

SHARED void zygote_loop_signal(const struct zygote_loop *loop, int guest, int number)
{
	for (int i = 0; i < loop->count; i++)
		if (loop->cells[i].guest == guest)
			kill(loop->cells[i].init,
			     number); /* a child, whose number no other process gets before it is reaped */
}

SHARED void zygote_loop_end_cells(struct zygote_loop *loop)
{
	int killed = 0;

	for (int i = 0; i < loop->count; i++) /* who may not be killed is not waited for: it ends with this process */
		if (kill(loop->cells[i].init, SIGKILL) == 0)
			loop->cells[killed++] = loop->cells[i];
	for (int i = 0; i < killed; i++)
		while (waitpid(loop->cells[i].init, NULL, 0) < 0 && errno == EINTR)
			;
	loop->count = 0;
	cell_init_leave_ready(1);
}

SHARED void zygote_loop_forget(struct zygote_loop *loop)
{
	cell_init_leave_ready(0);
	networks_forget();
	free(loop->cells);
	loop->cells = NULL;
	loop->count = loop->room = loop->left = 0;
}
