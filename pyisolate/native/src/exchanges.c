/* Exchanges of which all is known: requests and answers whose heads came before, byte by byte, and were judged then. The
 * tunnels' thread compares, counts and carries them, and gives the connection back at the first byte that is not known.
 *
 * Nothing is sent on but what stands in the place of a known head, and the bytes of a body whose length that head states. A
 * request is sent only where all of it came at once and nothing after it, where the host rests, and no answer is to come. Where
 * a sandbox has credentials an answer is sent on only where all of it came at once, and shows none of them.
 * What one side says out of turn stays in its socket. The sockets stay the caller's, who reads nothing of them then.
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

#include "tunnels.h"

struct exchanges_one {
	size_t request_count, answer_count;
	uint64_t kept_ms;
	int asked;            /* the request that was sent, -1: none */
	int begun, more;      /* its answer has begun; more came than that states */
	int deaf;             /* the guest says something before its turn: it is not watched */
	size_t left;          /* of the answer's body */
	unsigned char *body;  /* of the request */
	unsigned char *given; /* what is given back */
	size_t given_bytes;
	struct exchanges_hidden *hidden; /* none of these is in an answer's body */
	size_t hidden_count;
	struct exchanges_known known[]; /* requests, answers; then what is hidden, all their bytes, and the body */
};

/* Return which head `data` begins with, -1: none that is known. */
static int exchanges_find(const struct exchanges_known *known, size_t count, const unsigned char *data, size_t size)
{
	const unsigned char *end =
		memmem(data, size < EXCHANGES_HEAD_BYTES ? size : EXCHANGES_HEAD_BYTES, "\r\n\r\n", 4);

	if (!end)
		return -1;
	size_t head_bytes = (size_t)(end - data) + 4;
	for (size_t i = 0; i < count; i++)
		if (known[i].head_bytes == head_bytes && !memcmp(known[i].head, data, head_bytes))
			return (int)i;
	return -1;
}

/* Keep what is given back; return why, or -ENOMEM. */
static int exchanges_give(struct exchanges_one *x, const unsigned char *data, size_t size, int result)
{
	if (!size)
		return result;
	x->given = malloc(size);
	if (!x->given)
		return -ENOMEM;
	memcpy(x->given, data, size);
	x->given_bytes = size;
	return result;
}

/* Whether there is nothing to read of a host, and it has not ended. */
static int exchanges_host_rests(struct tunnels *all, struct tunnels_side *host)
{
	return host->tls.object ? over_tls_rests(host, all->raw) : sides_rests(host->fd);
}

/* As recv(2), of what is inside where there is TLS. */
static ssize_t exchanges_recv(struct tunnels *all, struct tunnels_side *side, unsigned char *data, size_t most)
{
	if (side->tls.object)
		return over_tls_recv(side, all->raw, most < TUNNELS_RAW_BYTES ? most : TUNNELS_RAW_BYTES, data);
	return recv(side->fd, data, most, MSG_DONTWAIT);
}

static int exchanges_send(struct tunnels_side *from, struct tunnels_side *to, const unsigned char *data, size_t size)
{
	return to->tls.object ? over_tls_send(from, to, data, size) : sides_send(from, to->fd, data, size);
}

/* Read what the guest asks, and send it on where it is known. Returns 0, or how the exchanges end. */
static int exchanges_ask(struct tunnels *all, struct tunnels_one *t)
{
	struct exchanges_one *x = t->exchange;
	struct tunnels_side *guest = &t->sides[0], *host = &t->sides[1];
	unsigned char *data = all->turn + TUNNELS_ROOM_BYTES;

	if (t->meter->turn == all->pass)
		return 0; /* one request of a sandbox in each pass: it is found ready in the next */
	ssize_t got = exchanges_recv(all, guest, data, EXCHANGES_BODY_BYTES);
	if (got < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : EXCHANGES_GUEST;
	if (!got)
		return EXCHANGES_GUEST;
	size_t size = (size_t)got;
	int asked = exchanges_find(x->known, x->request_count, data, size);
	const struct exchanges_known *known = &x->known[asked < 0 ? 0 : asked];
	if (asked < 0 || size - known->head_bytes != known->body_bytes || sides_outdated(t) || guest->tls_ended ||
	    sides_now_ms() - t->used_ms >= x->kept_ms)
		return exchanges_give(x, data, size, EXCHANGES_REQUEST);
	if (!exchanges_host_rests(all, host) || guest->left)
		return exchanges_give(x, data, size, EXCHANGES_HOST);
	t->meter->turn = all->pass;
	if (!sides_count(t->meter, TUNNELS_REQUESTS, 1))
		return TUNNELS_OVER_REQUESTS;
	if (!sides_count(t->meter, TUNNELS_SENT, known->onward_bytes + known->body_bytes))
		return TUNNELS_OVER_SENT;
	x->asked = asked;
	t->used_ms = sides_now_ms();
	data += known->head_bytes;
	memcpy(x->body, data, known->body_bytes);
	data -= known->onward_bytes; /* there is room before the turn's bytes */
	memcpy(data, known->onward, known->onward_bytes);
	/* that it has ended is met by who reads its answer */
	return exchanges_send(guest, host, data, known->onward_bytes + known->body_bytes) ? EXCHANGES_ANSWER : 0;
}

/* Whether an answer can go on uncovered, of which so much has come. */
static int exchanges_shows_nothing(const struct exchanges_one *x, const struct exchanges_known *known,
				   const unsigned char *answer, size_t size)
{
	if (x->hidden_count && size - known->head_bytes < known->body_bytes)
		return 0; /* a credential may be cut in two */
	for (size_t i = 0; i < x->hidden_count; i++)
		if (memmem(answer + known->head_bytes, known->body_bytes, x->hidden[i].text, x->hidden[i].bytes))
			return 0;
	return 1;
}

/* Read an answer, or a part of it, and send it on. Returns 0, or how the exchanges end. */
static int exchanges_answer(struct tunnels *all, struct tunnels_one *t)
{
	struct exchanges_one *x = t->exchange;
	struct tunnels_side *guest = &t->sides[0], *host = &t->sides[1];
	unsigned char *data = all->turn + TUNNELS_ROOM_BYTES;
	const struct exchanges_known *known = NULL;
	ssize_t got = exchanges_recv(all, host, data, TUNNELS_TURN_BYTES);

	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	size_t size = got < 0 ? 0 : (size_t)got; /* it has ended, or broken: the same to its guest */
	if (sides_outdated(t))
		return -ECONNABORTED;
	if (x->begun && !size)
		return -ECONNABORTED;
	if (!x->begun) {
		int found = exchanges_find(x->known + x->request_count, x->answer_count, data, size);
		if (found >= 0)
			known = &x->known[x->request_count + (size_t)found];
		/* who reads it sends no rest of the request */
		if (!known || !exchanges_shows_nothing(x, known, data, size))
			return guest->left ? -ECONNABORTED : exchanges_give(x, data, size, EXCHANGES_ANSWER);
		x->left = known->body_bytes;
		data += known->head_bytes;
		size -= known->head_bytes;
	}
	x->more = size > x->left;
	size_t body_bytes = x->more ? x->left : size, onward_bytes = known ? known->onward_bytes : 0;
	if (!sides_count(t->meter, TUNNELS_RECEIVED, onward_bytes + body_bytes))
		return TUNNELS_OVER_RECEIVED;
	if (known)
		memcpy(data - onward_bytes, known->onward, onward_bytes);
	x->begun = 1;
	x->left -= body_bytes;
	t->used_ms = sides_now_ms();
	int result = exchanges_send(host, guest, data - onward_bytes, onward_bytes + body_bytes);
	return !result && x->left && host->tls_ended ? -ECONNABORTED : result; /* no more comes of it */
}

/* Do what a socket is ready for: 0, or how the exchanges ended. */
SHARED int exchanges_serve(struct tunnels *all, struct tunnels_side *side, uint32_t events)
{
	struct tunnels_one *t = side->tunnel;
	struct exchanges_one *x = t->exchange;
	struct tunnels_side *guest = &t->sides[0], *host = &t->sides[1], *other = side == guest ? host : guest;
	int result = 0;

	if (other->left && events & ~(uint32_t)EPOLLIN)
		result = sides_send_rest(other, side->fd);
	if (!result && events & ~(uint32_t)EPOLLOUT) {
		if (side == guest && x->asked >= 0)
			x->deaf = 1;
		else if (side == guest)
			result = exchanges_ask(all, t);
		else if (x->asked < 0)
			result = exchanges_host_rests(all, host) ? 0 : EXCHANGES_HOST;
		else if (!host->left && !(x->begun && !x->left))
			result = exchanges_answer(all, t);
	}
	if (!result && x->begun && !x->left && !host->left) {
		x->asked = -1;
		x->begun = x->deaf = 0;
		/* more than it stated, or not after all of the request */
		if (x->more || guest->left || host->tls_ended)
			result = EXCHANGES_HOST;
	}
	if (result)
		return result;
	sides_watch(all, guest, (x->deaf ? 0 : EPOLLIN) | (host->left ? EPOLLOUT : 0));
	sides_watch(all, host, (host->left ? 0 : EPOLLIN) | (guest->left ? EPOLLOUT : 0));
	return 0;
}

/* Whether an answer is to come, or the rest of one. */
SHARED int exchanges_wait(const struct exchanges_one *x)
{
	return x->asked >= 0;
}

/* Tell how exchanges ended; `given` has room for a body and what else is given back. */
SHARED void exchanges_end(const struct exchanges_one *x, struct tunnels_end *end, unsigned char *given)
{
	end->asked = x->asked;
	end->begun = x->begun;
	if (x->asked >= 0) {
		end->body_bytes = x->known[x->asked].body_bytes;
		memcpy(given, x->body, end->body_bytes);
	}
	if (x->given_bytes) {
		end->given_bytes = x->given_bytes;
		memcpy(given + end->body_bytes, x->given, x->given_bytes);
	}
}

SHARED void exchanges_free(struct exchanges_one *x)
{
	if (!x)
		return;
	free(x->given);
	free(x);
}

/* Copy what is known to `at`, and return where the next goes. */
static unsigned char *exchanges_copy(struct exchanges_known *to, const struct exchanges_known *from, unsigned char *at)
{
	*to = *from;
	to->head = memcpy(at, from->head, from->head_bytes);
	at += from->head_bytes;
	to->onward = memcpy(at, from->onward, from->onward_bytes);
	return at + from->onward_bytes;
}

/* Copy what is known, for a tunnel that carries it alone. No head is longer than EXCHANGES_HEAD_BYTES, what goes on in its
 * place than twice that, no body than EXCHANGES_BODY_BYTES. `kept_ms`: a host that rested for longer is not asked. `hidden`: an
 * answer that shows one is not known. Returns NULL with errno. */
SHARED struct exchanges_one *exchanges_new(const struct exchanges_known *requests, size_t request_count,
					   const struct exchanges_known *answers, size_t answer_count,
					   unsigned int kept_ms, const struct exchanges_hidden *hidden,
					   size_t hidden_count)
{
	size_t count = request_count + answer_count, bytes = 0, body_bytes = 0;

	for (size_t i = 0; i < count; i++) {
		const struct exchanges_known *known = i < request_count ? &requests[i] : &answers[i - request_count];
		if (known->head_bytes > EXCHANGES_HEAD_BYTES || known->body_bytes > EXCHANGES_BODY_BYTES ||
		    known->onward_bytes > TUNNELS_ROOM_BYTES) {
			errno = EMSGSIZE;
			return NULL;
		}
		bytes += known->head_bytes + known->onward_bytes;
		if (i < request_count && known->body_bytes > body_bytes)
			body_bytes = known->body_bytes;
	}
	for (size_t i = 0; i < hidden_count; i++)
		bytes += sizeof *hidden + hidden[i].bytes;
	struct exchanges_one *x = calloc(1, sizeof *x + count * sizeof x->known[0] + bytes + body_bytes);
	if (!x) {
		errno = ENOMEM;
		return NULL;
	}
	x->hidden = (struct exchanges_hidden *)&x->known[count];
	x->hidden_count = hidden_count;
	unsigned char *at = (unsigned char *)&x->hidden[hidden_count];
	for (size_t i = 0; i < hidden_count; i++) {
		x->hidden[i].bytes = hidden[i].bytes;
		x->hidden[i].text = memcpy(at, hidden[i].text, hidden[i].bytes);
		at += hidden[i].bytes;
	}
	for (size_t i = 0; i < count; i++)
		at = exchanges_copy(&x->known[i], i < request_count ? &requests[i] : &answers[i - request_count], at);
	x->body = at;
	x->request_count = request_count;
	x->answer_count = answer_count;
	x->kept_ms = kept_ms;
	x->asked = -1;
	return x;
}
