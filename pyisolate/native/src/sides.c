/* What tunnels and known exchanges do with a socket: watch it, send on, keep what is not taken; and what is counted of a
 * sandbox. epoll(7), send(2).
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>

#include "tunnels.h"

SHARED uint64_t sides_now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* Count what is about to go on: 0 where that is more than the limit. */
SHARED int sides_count(struct tunnels_meter *meter, int way, uint64_t counted)
{
	uint64_t used = __atomic_add_fetch(&meter->used[way], counted, __ATOMIC_RELAXED);

	if (used > __atomic_load_n(&meter->most[way], __ATOMIC_RELAXED))
		return 0;
	__atomic_add_fetch(&meter->carried[way], counted, __ATOMIC_RELAXED);
	return 1;
}

/* Another policy is in force, or none: what began under one before carries nothing any more. */
SHARED void sides_renew(struct tunnels_meter *meter)
{
	__atomic_add_fetch(&meter->policy, 1, __ATOMIC_SEQ_CST);
}

/* Whether that has happened. To be asked after what is to go on was read: what comes later than the policy is stopped. */
SHARED int sides_outdated(const struct tunnels_one *t)
{
	return __atomic_load_n(&t->meter->policy, __ATOMIC_SEQ_CST) != t->policy;
}

/* Whether there is nothing to read of a socket, and it has not ended. */
SHARED int sides_rests(int fd)
{
	unsigned char one;

	return recv(fd, &one, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && (errno == EAGAIN || errno == EINTR);
}

/* Watch a socket for what can be done with it; for nothing, not even its end, where nothing can. */
SHARED void sides_watch(struct tunnels *all, struct tunnels_side *s, uint32_t wanted)
{
	struct epoll_event event = {.events = wanted, .data.ptr = s};

	if (wanted == s->watched)
		return;
	if (!wanted)
		epoll_ctl(all->epoll, EPOLL_CTL_DEL, s->fd, NULL);
	else if (epoll_ctl(all->epoll, s->watched ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, s->fd, &event) < 0)
		return; /* no memory: found by the look for tunnels that rest */
	s->watched = wanted;
}

/* Send on; keep what is not taken. Returns 0 or -errno. */
SHARED int sides_send(struct tunnels_side *from, int to, const unsigned char *data, size_t size)
{
	ssize_t sent = send(to, data, size, MSG_DONTWAIT | MSG_NOSIGNAL);

	if (sent < 0 && errno != EAGAIN && errno != EINTR)
		return -errno;
	size_t taken = sent < 0 ? 0 : (size_t)sent;
	if (taken == size)
		return 0;
	from->rest = malloc(size - taken);
	if (!from->rest)
		return -ENOMEM;
	memcpy(from->rest, data + taken, size - taken);
	from->at = 0;
	from->left = size - taken;
	return 0;
}

/* Send what was kept. Returns 0 or -errno. */
SHARED int sides_send_rest(struct tunnels_side *from, int to)
{
	ssize_t sent = send(to, from->rest + from->at, from->left, MSG_DONTWAIT | MSG_NOSIGNAL);

	if (sent < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	from->at += (size_t)sent;
	from->left -= (size_t)sent;
	if (!from->left) {
		free(from->rest);
		from->rest = NULL;
	}
	return 0;
}
