/* A turn at the stream between host and cell in one call, without the interpreter's lock: wait, receive, and look what
 * was written to the pipes before. epoll(7), recv(2), recvmsg(2).
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "channel.types.h"
#include "shared.h"

enum { CHANNEL_EVENTS = 4, CHANNEL_DESCRIPTORS = 8 };

/* Note what can be read or written. Returns the number of events, or -errno. */
static int channel_poll(struct channel *c, int timeout_ms)
{
	struct epoll_event events[CHANNEL_EVENTS];
	int count = epoll_wait(c->poller, events, CHANNEL_EVENTS, timeout_ms);

	if (count < 0)
		return -errno;
	for (int i = 0; i < count; i++) {
		if (events[i].data.fd == c->out)
			c->ready |= CHANNEL_OUT;
		else if (events[i].data.fd == c->err)
			c->ready |= CHANNEL_ERR;
		else if (events[i].data.fd == c->peer) {
			c->ready |= events[i].events & EPOLLOUT ? CHANNEL_WRITABLE : 0;
			c->ready |= events[i].events & ~(unsigned int)EPOLLOUT ? CHANNEL_READABLE : 0;
		}
	}
	return count;
}

/*
 * Wait for events, and receive up to `most` bytes into `data` where there are some. Returns how many; `ready` says what
 * else there is to do. CHANNEL_READABLE is left set where nothing was received though something, or an error, is there.
 * Returns -errno where the wait failed: -EINTR for a signal.
 */
SHARED int channel_wait(struct channel *c, int timeout_ms)
{
	c->ready = 0;
	int count = channel_poll(c, timeout_ms);
	if (count <= 0 || !(c->ready & CHANNEL_READABLE) || !c->most)
		return count < 0 ? count : 0;
	c->taken = 1; /* before the bytes leave the socket: a signal's exception comes as soon as this returns */
	/* recv, not recvmsg: descriptors that a guest sends are dropped by the kernel, never installed here */
	ssize_t got = recv(c->peer, c->data, (size_t)c->most, MSG_DONTWAIT);
	if (got <= 0) {
		c->taken = 0;
		return 0;
	}
	c->ready &= ~(unsigned int)CHANNEL_READABLE;
	/* What was written before the answer is in the pipes by now; the first look may have been for an earlier frame. */
	channel_poll(c, 0);
	c->ready &= ~(unsigned int)CHANNEL_READABLE;
	return (int)got;
}

/*
 * Block until something comes, and take it with up to `most` descriptors, close-on-exec from the first moment. Returns
 * the number of bytes, 0 at the end of the stream, or -errno.
 */
SHARED int channel_receive(int peer, unsigned char *data, size_t size, int *descriptors, int most, int *count)
{
	union {
		char bytes[CMSG_SPACE(CHANNEL_DESCRIPTORS * sizeof(int))];
		struct cmsghdr aligned;
	} control;
	struct iovec part = {data, size};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control.bytes};

	if (most > CHANNEL_DESCRIPTORS)
		return -EINVAL;
	message.msg_controllen = CMSG_LEN((size_t)most * sizeof(int));
	*count = 0;
	ssize_t got = recvmsg(peer, &message, MSG_CMSG_CLOEXEC);
	if (got < 0)
		return -errno;
	struct cmsghdr *head = message.msg_controllen >= sizeof *head ? CMSG_FIRSTHDR(&message) : NULL;
	if (head && head->cmsg_level == SOL_SOCKET && head->cmsg_type == SCM_RIGHTS) {
		*count = (int)((head->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		memcpy(descriptors, CMSG_DATA(head), (size_t)*count * sizeof(int));
	}
	return (int)got;
}

/* The number that the next descriptor would get, -1 where there is none left. */
SHARED int channel_lowest_free(void)
{
	/* not by the C library, which reports a full table (preload/limits.c): it is no call of the guest's */
	int number = (int)syscall(SYS_fcntl, 0, F_DUPFD_CLOEXEC, 0);

	if (number >= 0)
		close(number);
	return number;
}
