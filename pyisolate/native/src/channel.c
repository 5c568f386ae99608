/* A turn at the stream between host and cell in one call, without the interpreter's lock: wait, receive, and look what
 * was written to the pipes before. epoll(7), recv(2), recvmsg(2).
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "account.h"
#include "channel.h"
#include "channel.types.h"
#include "descriptors.h"
#include "msgpack.h"
#include "shared.h"

enum { CHANNEL_DESCRIPTORS = 8 };

/*
 * Note what can be read or written. Returns the number of ends, or -errno. The socket is looked at first: where a frame
 * is there, all that was written before it was sent is seen in the pipes, which are looked at after.
 */
static int channel_poll(struct channel *c, int timeout_ms)
{
	struct pollfd ends[] = {
		{.fd = c->peer, .events = (short)(c->queued ? POLLIN | POLLOUT : POLLIN)},
		{.fd = c->out, .events = POLLIN},
		{.fd = c->err, .events = POLLIN},
	};
	int count = poll(ends, 3, timeout_ms);

	if (count < 0)
		return -errno;
	c->ready |= ends[0].revents & POLLOUT ? CHANNEL_WRITABLE : 0;
	c->ready |= ends[0].revents & ~POLLOUT ? CHANNEL_READABLE : 0;
	c->ready |= ends[1].revents ? CHANNEL_OUT : 0;
	c->ready |= ends[2].revents ? CHANNEL_ERR : 0;
	return count;
}

/* Frames of several threads must not be mixed: one sends at a time, and is not long about it. */
static void channel_enter(struct channel *c)
{
	while (__atomic_exchange_n(&c->busy, 1, __ATOMIC_ACQUIRE))
		sched_yield();
}

static void channel_leave(struct channel *c)
{
	__atomic_store_n(&c->busy, 0, __ATOMIC_RELEASE);
}

/* True where the bytes are one frame and nothing else: a length in network order, and so many bytes. */
static int channel_is_one_frame(const unsigned char *data, ssize_t got)
{
	return got >= 4 && got - 4 == ((ssize_t)data[0] << 24 | data[1] << 16 | data[2] << 8 | data[3]);
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
	/* What was written before the answer is in the pipes by now, and was seen where the answer is all that came. Where
	 * more frames came than one, the first look was for the first of them. */
	if (!channel_is_one_frame(c->data, got))
		channel_poll(c, 0);
	c->ready &= ~(unsigned int)CHANNEL_READABLE;
	return (int)got;
}

/*
 * Send bytes, with descriptors. Returns how many were sent, or -errno. What the socket had no room for is the caller's to
 * queue, and `queued` is set; where there was none at all (-EAGAIN), descriptors cannot wait, and nothing is queued.
 */
SHARED int channel_send(struct channel *c, const unsigned char *data, size_t size, const int *descriptors, int count)
{
	DESCRIPTORS_ROOM(CHANNEL_DESCRIPTORS) control = {{0}};
	struct iovec part = {(void *)(uintptr_t)data, size};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};

	if (count > CHANNEL_DESCRIPTORS)
		return -EINVAL;
	if (count)
		descriptors_put(&message, control.bytes, descriptors, count);
	channel_enter(c);
	ssize_t sent = sendmsg(c->peer, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (sent < 0)
		sent = -errno;
	if (sent >= 0 ? (size_t)sent < size : sent == -EAGAIN && !count)
		c->queued = 1;
	channel_leave(c);
	return (int)sent;
}

/* Take these bytes, if they come next. */
static int channel_skip(const unsigned char **at, const unsigned char *end, const char *bytes, size_t size)
{
	if ((size_t)(end - *at) < size || memcmp(*at, bytes, size))
		return 0;
	*at += size;
	return 1;
}

/* Read a number of `width` bytes in network order, if so many are left. */
static int channel_number(const unsigned char **at, const unsigned char *end, int width, uint64_t *number)
{
	if (end - *at < width)
		return 0;
	for (*number = 0; width; width--)
		*number = *number << 8 | *(*at)++;
	return 1;
}

#define CHANNEL_SKIP(at, end, text) channel_skip(at, end, text, sizeof(text) - 1)

/*
 * Read the answer that nearly all requests get: one frame and nothing else, `wire.Done` of this id, as msgspec encodes it,
 * with a value in plain form (or None, which is left out), that is exactly one and not too deep; it cannot be too large, in
 * so few bytes. Whatever else a cell sends, and it may send anything, is not read here: Python reads it, and says what is
 * wrong with it.
 */
static int channel_read_plain(struct channel *c, ssize_t got, uint64_t id)
{
	const unsigned char *at = c->data + 4, *end = c->data + got;
	uint64_t said, size = 0, bits;

	if (c->ready || !channel_is_one_frame(c->data, got))
		return 0;
	int has_value = CHANNEL_SKIP(&at, end, "\x84");
	if (!has_value && !CHANNEL_SKIP(&at, end, "\x83"))
		return 0;
	/* octal, because a letter after \xa4 may be a digit of it */
	if (!CHANNEL_SKIP(&at, end, "\241t\244done\242id\317") || !channel_number(&at, end, 8, &said) || said != id)
		return 0;
	c->value_size = 0;
	if (has_value) {
		if (!CHANNEL_SKIP(&at, end, "\247encoded"))
			return 0;
		int width = CHANNEL_SKIP(&at, end, "\xc4") ? 1 : CHANNEL_SKIP(&at, end, "\xc5") ? 2 : 0;
		if (!width || !channel_number(&at, end, width, &size) || size > (uint64_t)(end - at))
			return 0;
		c->value = (size_t)(at - c->data);
		c->value_size = (size_t)size;
		if (msgpack_measure(at, c->value_size, c->depth, INT64_MAX) < 0)
			return 0;
		at += size;
	}
	if (!CHANNEL_SKIP(&at, end, "\252duration_s\313") || !channel_number(&at, end, 8, &bits) || at != end)
		return 0;
	memcpy(&c->duration_s, &bits, sizeof bits);
	return 1;
}

/* Wait as `channel_wait` does, and return the same; `plain` says whether it was the answer to `id`, and was read. */
SHARED int channel_answer(struct channel *c, int timeout_ms, uint64_t id)
{
	int got = channel_wait(c, timeout_ms);

	c->plain = got > 0 && channel_read_plain(c, got, id);
	if (c->plain && c->account)
		account_served(c->account, 0);
	return got;
}

/*
 * Send a frame and wait as `channel_answer` does. `sent` says whether it was sent: it is not where other bytes are queued
 * before it, or the socket has no room; the caller then sends it otherwise. A frame of a few pages is sent whole or not
 * at all (unix_stream_sendmsg).
 */
SHARED int channel_ask(struct channel *c, const unsigned char *data, size_t size, int timeout_ms, uint64_t id)
{
	c->ready = 0;
	c->plain = 0;
	channel_enter(c);
	c->sent = !c->queued && send(c->peer, data, size, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)size;
	channel_leave(c);
	return c->sent ? channel_answer(c, timeout_ms, id) : 0;
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

/* True where no descriptor has this number. */
SHARED int channel_is_free(int number)
{
	return fcntl(number, F_GETFD) < 0;
}

/* Descriptors are given out from the lowest number: so wide a gap has nothing above it that `open` made. */
#define WIDEST_GAP 32

/* The first descriptor from this number on that is open for writing, -1 for none. */
SHARED int channel_next_writer(int first)
{
	for (int number = first, closed = 0; closed < WIDEST_GAP; number++) {
		int flags = fcntl(number, F_GETFL);
		if (flags < 0)
			closed++;
		else if ((flags & O_ACCMODE) != O_RDONLY)
			return number;
		else
			closed = 0;
	}
	return -1;
}
