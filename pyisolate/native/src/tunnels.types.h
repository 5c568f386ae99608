/* Tunnels as the egress proxy has them: for tunnels.c, and for Python by _build.py. */
#ifndef PYISOLATE_TUNNELS_TYPES_H
#define PYISOLATE_TUNNELS_TYPES_H

/* Bytes of one sandbox, by way: TUNNELS_SENT or TUNNELS_RECEIVED, and what its tunnels took. Any thread adds to them. */
struct tunnels_meter {
	uint64_t used[2];    /* what was asked for, what went over the limit included */
	uint64_t carried[2]; /* what was not refused */
	uint64_t most[2];
	uint64_t spent_ns; /* processor time of the tunnels' thread */
};

enum { TUNNELS_SENT = 0, TUNNELS_RECEIVED = 1 };
/* How a tunnel ended, besides -errno: by its sides, for lack of bytes, or by a limit. */
enum { TUNNELS_DONE = 0, TUNNELS_IDLE = 1, TUNNELS_OVER_SENT = 2, TUNNELS_OVER_RECEIVED = 3 };

#endif
