/* A channel's end as the host waits at it: for channel.c, and for Python by _build.py. */
#ifndef PYISOLATE_CHANNEL_TYPES_H
#define PYISOLATE_CHANNEL_TYPES_H

/* One end of the stream between host and cell. */
struct channel {
	int peer;           /* the socket */
	int poller;         /* an epoll descriptor over the socket and the pipes of output */
	int out, err;       /* reading ends of the pipes */
	int most;           /* bytes that `data` has room for; 0: `channel_wait` receives nothing */
	int taken;          /* bytes of the stream are in `data`, or were: handled, it is put back to 0 */
	unsigned int ready; /* CHANNEL_... */
	unsigned char *data;
};

enum { CHANNEL_OUT = 1, CHANNEL_ERR = 2, CHANNEL_WRITABLE = 4, CHANNEL_READABLE = 8 };

#endif
