/* Tunnels as the egress proxy has them: for tunnels.c and exchanges.c, and for Python by _build.py. */
#ifndef PYISOLATE_TUNNELS_TYPES_H
#define PYISOLATE_TUNNELS_TYPES_H

/* What is counted of one sandbox: bytes that it sent and received, requests. Any thread adds to them. */
enum { TUNNELS_SENT = 0, TUNNELS_RECEIVED = 1, TUNNELS_REQUESTS = 2, TUNNELS_COUNTED = 3 };

/* One sandbox's counts, and what its tunnels took. */
struct tunnels_meter {
	uint64_t used[3];    /* what was asked for, what went over the limit included */
	uint64_t carried[3]; /* what was not refused */
	uint64_t most[3];
	uint64_t spent_ns; /* processor time of the tunnels' thread */
	uint64_t policy;   /* grows with each policy: what began under another one carries nothing any more */
	uint64_t turn;     /* when it last began a request: the thread's alone */
};

/* How a tunnel ended, besides -errno: by its sides, for lack of bytes, or by a limit. An exchange also by what is not
 * known, which is given back: a request, how an answer begins, an end of the guest's, anything of a host that rests. */
enum {
	TUNNELS_DONE = 0,
	TUNNELS_IDLE = 1,
	TUNNELS_OVER_SENT = 2,
	TUNNELS_OVER_RECEIVED = 3,
	TUNNELS_OVER_REQUESTS = 4,
	EXCHANGES_REQUEST = 5,
	EXCHANGES_ANSWER = 6,
	EXCHANGES_GUEST = 7,
	EXCHANGES_HOST = 8
};

/* A tunnel that ended, and how long nothing had gone on. Of an exchange: the request that waits for its answer (-1: none),
 * with how many bytes of body, whether the answer has begun, how many bytes are given back, and whose TLS has met its end
 * (1: the guest's, 2: the host's). */
struct tunnels_end {
	uint64_t number, rested_ms;
	int result, asked, begun, tls_ended;
	size_t body_bytes, given_bytes;
};

/* TLS of one side: the addresses of an ssl.SSLObject and of its two ssl.MemoryBIO; 0: there is none. */
struct tunnels_tls {
	uintptr_t object, incoming, outgoing;
};

/* A head that is known, and what is sent on in its place, before so many bytes of body. */
struct exchanges_known {
	const unsigned char *head, *onward;
	size_t head_bytes, onward_bytes, body_bytes;
};

/* What no answer may show: who covers it is given the answer. */
struct exchanges_hidden {
	const unsigned char *text;
	size_t bytes;
};

/* A longer head is not known; a longer body is not carried so, and no more is given back of one side. */
enum { EXCHANGES_HEAD_BYTES = 4096, EXCHANGES_BODY_BYTES = 65536, EXCHANGES_GIVEN_BYTES = 131072 };

#endif
