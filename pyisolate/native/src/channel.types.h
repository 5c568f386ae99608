/* A channel's end as the host waits at it: for channel.c, and for Python by _build.py. */
#ifndef PYISOLATE_CHANNEL_TYPES_H
#define PYISOLATE_CHANNEL_TYPES_H

/* One end of the stream between host and cell. */
struct channel {
	int peer;           /* the socket */
	int out, err;       /* reading ends of the pipes of output; -1: it has ended */
	int most;           /* bytes that `data` has room for; 0: `channel_wait` receives nothing */
	int taken;          /* bytes of the stream are in `data`, or were: handled, it is put back to 0 */
	int queued;         /* the host keeps bytes that must be sent before any others */
	int sent;           /* `channel_ask` has sent its frame */
	int busy;           /* a thread sends */
	unsigned int ready; /* CHANNEL_... */
	unsigned char *data;
	int depth; /* of a value, at most */
	int plain; /* `channel_ask` has read the answer: where in `data` its value is, its bytes, and its duration */
	size_t value, value_size;
	double duration_s;
	struct account *account; /* notes such an answer; NULL: none does */
};

enum { CHANNEL_OUT = 1, CHANNEL_ERR = 2, CHANNEL_WRITABLE = 4, CHANNEL_READABLE = 8 };

#endif
