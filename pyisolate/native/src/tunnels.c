/* Tunnels of the egress proxy: bytes both ways between two sockets, unread, by one thread for all tunnels that never takes
 * the interpreter's lock. epoll(7), recv(2), shutdown(2). Of known exchanges heads are compared (exchanges.c). Those over TLS
 * take that lock (over_tls.c): they are carried by the thread of the loop, while that waits for what is its own.
 *
 * What one side sends is read only while the other has taken all that came before, so a tunnel holds no more than one
 * turn's bytes, and none while it rests. A tunnel's memory is freed by the thread between two waits: an event of the last
 * wait may still name it.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "tunnels.h"

/* Turns of one tunnel before another's, and between two looks for tunnels that rest. */
enum { TUNNELS_EVENTS = 32, TUNNELS_TURNS = 2, TUNNELS_LOOK_MS = 5000 };

/* What this thread has used of a processor. */
static uint64_t tunnels_used_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static void tunnels_push(struct tunnels_one **list, struct tunnels_one *t)
{
	t->previous = NULL;
	t->next = *list;
	if (*list)
		(*list)->previous = t;
	*list = t;
}

static void tunnels_take(struct tunnels_one **list, struct tunnels_one *t)
{
	if (t->previous)
		t->previous->next = t->next;
	else
		*list = t->next;
	if (t->next)
		t->next->previous = t->previous;
}

/* Close a tunnel; `list` keeps it. */
static void tunnels_end(struct tunnels *all, struct tunnels_one *t, int result, struct tunnels_one **list)
{
	t->over = 1;
	t->result = result;
	for (int i = 0; i < 2; i++) {
		sides_watch(all, &t->sides[i],
			    0); /* a copy of the descriptor is elsewhere: closing it would leave the watch */
		if (!t->exchange)
			close(t->sides[i].fd);
		free(t->sides[i].rest);
		t->sides[i].rest = NULL;
	}
	tunnels_take(&all->open, t);
	tunnels_push(list, t);
}

/* End a tunnel that does so by itself. */
static void tunnels_over(struct tunnels *all, struct tunnels_one *t, int result)
{
	uint64_t one = 1;

	tunnels_end(all, t, result, &all->ended);
	if (write(all->wake, &one, sizeof one) < 0)
		return; /* it is readable already */
}

/* Carry what has come one way. Returns 0, -errno, or the limit that it went over. */
static int tunnels_move(struct tunnels *all, struct tunnels_one *t, int way)
{
	struct tunnels_side *from = &t->sides[way];
	int to = t->sides[!way].fd, error;

	for (int turn = 0; turn < TUNNELS_TURNS && !from->left; turn++) {
		ssize_t got = recv(from->fd, all->turn, TUNNELS_TURN_BYTES, MSG_DONTWAIT);
		if (got < 0)
			return errno == EAGAIN || errno == EINTR ? 0 : -errno;
		if (!got) {
			from->ended = 1;
			shutdown(to, SHUT_WR);
			return 0;
		}
		if (sides_outdated(t))
			return -ECONNABORTED;
		if (!sides_count(t->meter, way, (uint64_t)got))
			return way == TUNNELS_SENT ? TUNNELS_OVER_SENT : TUNNELS_OVER_RECEIVED;
		error = sides_send(from, to, all->turn, (size_t)got);
		if (error || got < TUNNELS_TURN_BYTES)
			return error;
	}
	return 0;
}

/* Do what a tunnel's socket is ready for: 0, -errno, or how the tunnel ended. Errors and ends of a socket come unwatched:
 * reading or writing meets them. */
static int tunnels_carry(struct tunnels *all, struct tunnels_side *side, uint32_t events)
{
	struct tunnels_one *t = side->tunnel;
	int way = side == &t->sides[1], result = 0;

	t->used_ms = sides_now_ms();
	if (t->sides[!way].left && events & ~(uint32_t)EPOLLIN)
		result = sides_send_rest(&t->sides[!way], side->fd);
	if (!result && !side->left && !side->ended && events & ~(uint32_t)EPOLLOUT)
		result = tunnels_move(all, t, way);
	for (int i = 0; !result && i < 2; i++) {
		uint32_t reads = !t->sides[i].ended && !t->sides[i].left ? EPOLLIN : 0;
		sides_watch(all, &t->sides[i], reads | (t->sides[!i].left ? EPOLLOUT : 0));
	}
	return result;
}

static void tunnels_serve(struct tunnels *all, struct tunnels_side *side, uint32_t events)
{
	struct tunnels_one *t = side->tunnel;
	int result = t->exchange ? exchanges_serve(all, side, events) : tunnels_carry(all, side, events);

	if (result || (t->sides[0].ended && t->sides[1].ended))
		tunnels_over(all, t, result);
}

/* Free what nothing names any more. */
static void tunnels_free_one(struct tunnels_one *t)
{
	exchanges_free(t->exchange);
	free(t);
}

/* End what has rested for too long, and free what nothing names any more. */
static void tunnels_look(struct tunnels *all)
{
	uint64_t now = sides_now_ms();

	while (all->freed) {
		struct tunnels_one *t = all->freed;
		tunnels_take(&all->freed, t);
		tunnels_free_one(t);
	}
	if (now - all->looked_ms < TUNNELS_LOOK_MS && now - all->looked_ms < all->idle_ms)
		return;
	all->looked_ms = now;
	for (struct tunnels_one *t = all->open, *next; t; t = next) {
		next = t->next;
		if (now - t->used_ms >= all->idle_ms)
			tunnels_over(all, t, TUNNELS_IDLE);
	}
}

/* Wait for what sockets are ready for, and do that. Returns whether anything else that is watched is ready, or -1 at the
 * end of that time and for a signal; `before` is what the thread had used. */
static int tunnels_pass(struct tunnels *all, int wait_ms, uint64_t *before)
{
	struct epoll_event events[TUNNELS_EVENTS];
	int others = 0, count = epoll_wait(all->epoll, events, TUNNELS_EVENTS, wait_ms);

	all->pass++;
	for (int i = 0; i < count; i++) {
		struct tunnels_side *side = events[i].data.ptr;
		if (!side)
			others = 1;
		pthread_mutex_lock(&all->lock); /* for each: who adds or ends one waits for no more than a turn */
		if (side && !side->tunnel->over) {
			struct tunnels_meter *meter = side->tunnel->meter; /* there while locked */
			tunnels_serve(all, side, events[i].events);
			uint64_t now = tunnels_used_ns(); /* the wait that found it is its own, too */
			__atomic_add_fetch(&meter->spent_ns, now - *before, __ATOMIC_RELAXED);
			*before = now;
		}
		pthread_mutex_unlock(&all->lock);
	}
	return count > 0 ? others : -1;
}

/* Free and end what is to be, and tell whether the thread is to stop. */
static int tunnels_tidy(struct tunnels *all)
{
	pthread_mutex_lock(&all->lock);
	tunnels_look(all);
	int stop = all->stop;
	pthread_mutex_unlock(&all->lock);
	return stop;
}

/* Carry, without a thread, until what else is watched is ready (1), or for so long, and maybe a tick of the coarse clock
 * more; below 0: for ever. */
SHARED int tunnels_turn(struct tunnels *all, int wait_ms)
{
	uint64_t before = tunnels_used_ns(), began = sides_now_ms(), spent = 0;
	int others;

	do {
		tunnels_tidy(all);
		others = tunnels_pass(all, wait_ms < 0 ? -1 : wait_ms - (int)spent, &before);
		spent = sides_now_ms() - began;
	} while (!others && (wait_ms < 0 || spent < (uint64_t)wait_ms));
	return others > 0;
}

static void *tunnels_loop(void *given)
{
	struct tunnels *all = given;
	prctl(PR_SET_NAME, "egress-tunnels");
	uint64_t before = tunnels_used_ns();
	int wait_ms = all->idle_ms < TUNNELS_LOOK_MS ? (int)all->idle_ms : TUNNELS_LOOK_MS;

	while (!tunnels_tidy(all))
		tunnels_pass(all, wait_ms, &before);
	return NULL;
}

/* Free all of it; its thread has ended, or was never started. */
static void tunnels_free(struct tunnels *all)
{
	struct tunnels_one **lists[] = {&all->ended, &all->freed};

	while (all->open)
		tunnels_end(all, all->open, TUNNELS_DONE, &all->freed);
	for (int i = 0; i < 2; i++)
		while (*lists[i]) {
			struct tunnels_one *t = *lists[i];
			tunnels_take(lists[i], t);
			tunnels_free_one(t);
		}
	if (all->epoll >= 0)
		close(all->epoll);
	if (all->wake >= 0)
		close(all->wake);
	pthread_mutex_destroy(&all->lock);
	free(all);
}

/* Start the thread. Returns 0 or an error number. */
static int tunnels_start_thread(struct tunnels *all)
{
	sigset_t every, before;

	sigfillset(&every); /* signals are for the process's other threads */
	pthread_sigmask(SIG_SETMASK, &every, &before);
	int error = pthread_create(&all->thread, NULL, tunnels_loop, all);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	all->threaded = !error;
	return error;
}

/* Have tunnels carried by a thread of their own; or, where `others` is a descriptor, by who calls `tunnels_turn`, which
 * watches that, too. Returns NULL with errno. */
SHARED struct tunnels *tunnels_start(unsigned int idle_s, int others)
{
	struct tunnels *all = calloc(1, sizeof *all);
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
	int error = 0;

	if (!all) {
		errno = ENOMEM;
		return NULL;
	}
	pthread_mutex_init(&all->lock, NULL);
	all->epoll = epoll_create1(EPOLL_CLOEXEC);
	all->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	all->idle_ms = (uint64_t)idle_s * 1000;
	all->looked_ms = sides_now_ms();
	if (all->epoll < 0 || all->wake < 0)
		error = errno;
	else if (others < 0)
		error = tunnels_start_thread(all);
	else if (epoll_ctl(all->epoll, EPOLL_CTL_ADD, others, &event) < 0)
		error = errno;
	if (error) {
		tunnels_free(all);
		errno = error;
		return NULL;
	}
	return all;
}

/* Readable once a tunnel has ended by itself. */
SHARED int tunnels_ended_fd(const struct tunnels *all)
{
	return all->wake;
}

/* Carry between two sockets: all that comes, and the sockets are closed with the tunnel; or `exchange` alone, which the
 * tunnel has from now on, and they stay open. `tls`: of both sides, the guest's first, or NULL. `meter` stays until it has
 * ended, or is removed. Returns NULL with errno, and then the sockets are the caller's. */
SHARED void *tunnels_add(struct tunnels *all, uint64_t number, int guest, int host, struct tunnels_meter *meter,
			 struct exchanges_one *exchange, const struct tunnels_tls *tls)
{
	struct tunnels_one *t = calloc(1, sizeof *t);

	if (!t) {
		exchanges_free(exchange);
		return NULL;
	}
	t->number = number;
	t->meter = meter;
	t->exchange = exchange;
	t->used_ms = sides_now_ms();
	t->policy = __atomic_load_n(&meter->policy, __ATOMIC_SEQ_CST);
	t->sides[0].fd = guest;
	t->sides[1].fd = host;
	pthread_mutex_lock(&all->lock);
	tunnels_push(&all->open, t);
	for (int i = 0; i < 2; i++) {
		t->sides[i].tunnel = t;
		if (tls)
			t->sides[i].tls = tls[i];
		sides_watch(all, &t->sides[i], EPOLLIN);
	}
	if (!t->sides[0].watched || !t->sides[1].watched) {
		int error = errno;
		for (int i = 0; i < 2; i++)
			sides_watch(all, &t->sides[i], 0);
		t->over = 1;
		tunnels_take(&all->open, t);
		tunnels_push(&all->freed, t);
		pthread_mutex_unlock(&all->lock);
		errno = error;
		return NULL;
	}
	pthread_mutex_unlock(&all->lock);
	return t;
}

/* End known exchanges in which nothing went on for so long, while the guest was to ask or an answer to come. Returns how
 * long they have left (ms), 0 where they have ended. */
SHARED uint64_t tunnels_expire(struct tunnels *all, void *tunnel, uint64_t ask_ms, uint64_t answer_ms)
{
	struct tunnels_one *t = tunnel;
	uint64_t left_ms = 0;

	pthread_mutex_lock(&all->lock);
	if (!t->over && t->exchange) {
		uint64_t most_ms = exchanges_wait(t->exchange) ? answer_ms : ask_ms;
		uint64_t rested_ms = sides_now_ms() - t->used_ms;
		left_ms = rested_ms < most_ms ? most_ms - rested_ms : 0;
		if (!left_ms)
			tunnels_over(all, t, TUNNELS_IDLE);
	}
	pthread_mutex_unlock(&all->lock);
	return left_ms;
}

/* End a tunnel that `tunnels_next_ended` has not named; it does not from now on. */
SHARED void tunnels_remove(struct tunnels *all, void *tunnel)
{
	struct tunnels_one *t = tunnel;

	pthread_mutex_lock(&all->lock);
	if (t->over)
		t->unwanted = 1;
	else
		tunnels_end(all, t, TUNNELS_DONE, &all->freed);
	pthread_mutex_unlock(&all->lock);
}

/* Tell of a tunnel that has ended by itself: 0 where there is none, and nothing to read any more. `given` has room for a
 * request's body and what else is given back. */
SHARED int tunnels_next_ended(struct tunnels *all, struct tunnels_end *end, unsigned char *given)
{
	int found = 0;
	uint64_t ignored;

	pthread_mutex_lock(&all->lock);
	while (!found && all->ended) {
		struct tunnels_one *t = all->ended;
		tunnels_take(&all->ended, t);
		tunnels_push(&all->freed, t);
		*end = (struct tunnels_end){.number = t->number,
					    .rested_ms = sides_now_ms() - t->used_ms,
					    .result = t->result,
					    .asked = -1,
					    .tls_ended = t->sides[0].tls_ended | t->sides[1].tls_ended << 1};
		found = !t->unwanted;
		if (found && t->exchange)
			exchanges_end(t->exchange, end, given);
	}
	if (!all->ended && read(all->wake, &ignored, sizeof ignored) < 0)
		errno = 0; /* there was nothing */
	pthread_mutex_unlock(&all->lock);
	return found;
}

/* End the thread and all tunnels. */
SHARED void tunnels_stop(struct tunnels *all)
{
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
	uint64_t one = 1;

	pthread_mutex_lock(&all->lock);
	all->stop = 1;
	pthread_mutex_unlock(&all->lock);
	if (all->threaded) {
		if (write(all->wake, &one, sizeof one) >= 0)
			epoll_ctl(all->epoll, EPOLL_CTL_ADD, all->wake,
				  &event); /* what wakes the other side wakes the thread now */
		pthread_join(all->thread, NULL);
	}
	tunnels_free(all);
}
