/* A tunnel, its two sides, and what carries all of them, from the ground up: sides.c, over_tls.c, exchanges.c, tunnels.c. */
#ifndef PYISOLATE_TUNNELS_H
#define PYISOLATE_TUNNELS_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "shared.h"
#include "tunnels.types.h"

/* Before what is read in a turn there is room for a head that goes on in the place of another. */
enum { TUNNELS_TURN_BYTES = 1 << 17, TUNNELS_ROOM_BYTES = 2 * EXCHANGES_HEAD_BYTES };
/* What is read of a side over TLS in a turn; of a record that OpenSSL has in part there may be as much more as one has inside
 * (RFC 8446, 5.1). */
enum { TUNNELS_RAW_BYTES = 1 << 16, SIDES_RECORD_BYTES = 1 << 14 };

struct tunnels_one;
struct exchanges_one;

/* One of its sockets, and what that one sends: `rest` is what the other has not taken yet. */
struct tunnels_side {
	struct tunnels_one *tunnel;
	struct tunnels_tls tls;   /* of exchanges alone */
	int fd, ended, tls_ended; /* it has met the end, or what it cannot read */
	uint32_t watched;
	unsigned char *rest;
	size_t at, left;
};

struct tunnels_one {
	struct tunnels_side sides[2]; /* the guest's, by TUNNELS_SENT, and the host's */
	struct tunnels_meter *meter;
	struct exchanges_one *exchange; /* NULL: bytes are carried unread, and the sockets are the tunnel's */
	uint64_t number, used_ms, policy;
	int over, unwanted, result;
	struct tunnels_one *next, *previous;
};

struct tunnels {
	pthread_t thread;
	pthread_mutex_t lock;
	int epoll, wake, stop, threaded;
	uint64_t idle_ms, looked_ms, pass;
	struct tunnels_one *open, *ended, *freed; /* `ended`: not asked for yet; `freed`: to be freed by the thread */
	unsigned char turn[TUNNELS_ROOM_BYTES + TUNNELS_TURN_BYTES];
	unsigned char raw[TUNNELS_RAW_BYTES];
};

SHARED uint64_t sides_now_ms(void);
SHARED int sides_count(struct tunnels_meter *meter, int way, uint64_t counted);
SHARED int sides_outdated(const struct tunnels_one *t);
SHARED int sides_rests(int fd);
SHARED void sides_watch(struct tunnels *all, struct tunnels_side *s, uint32_t wanted);
SHARED int sides_send(struct tunnels_side *from, int to, const unsigned char *data, size_t size);
SHARED int sides_send_rest(struct tunnels_side *from, int to);

SHARED ssize_t over_tls_recv(struct tunnels_side *s, unsigned char *raw, size_t most, unsigned char *data);
SHARED int over_tls_send(struct tunnels_side *from, const struct tunnels_side *to, const unsigned char *data,
			 size_t size);
SHARED int over_tls_rests(struct tunnels_side *s, unsigned char *raw);

/* Do what a socket is ready for: 0, or how the exchanges ended. */
SHARED int exchanges_serve(struct tunnels *all, struct tunnels_side *side, uint32_t events);
SHARED int exchanges_wait(const struct exchanges_one *x);
SHARED void exchanges_end(const struct exchanges_one *x, struct tunnels_end *end, unsigned char *given);
SHARED void exchanges_free(struct exchanges_one *x);

#endif
