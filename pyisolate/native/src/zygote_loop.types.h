/* What a zygote's loop is given, and what it has to tell: for zygote_loop.c, and for Python by _build.py. */
#ifndef PYISOLATE_ZYGOTE_LOOP_TYPES_H
#define PYISOLATE_ZYGOTE_LOOP_TYPES_H

#include <stddef.h>
#include <stdint.h>

#include "cell_start.types.h"

enum { ZYGOTE_LOOP_FRAME = 128, ZYGOTE_LOOP_NUMBERS = 4, ZYGOTE_LOOP_ORDER = 4096, ZYGOTE_LOOP_DESCRIPTORS = 2 };

/* A message that was encoded ahead, and where its numbers stand in it (big-endian). */
struct zygote_loop_frame {
	unsigned char bytes[ZYGOTE_LOOP_FRAME];
	size_t size;
	unsigned int at[ZYGOTE_LOOP_NUMBERS];
};

struct zygote_loop_cell {
	int init, guest;  /* process ids */
	unsigned int uid; /* outside */
	void *slot;       /* for cell_init_forget */
};

/* How far a cell's making came: what `error` speaks of. */
enum {
	ZYGOTE_LOOP_TABLE,
	ZYGOTE_LOOP_SOCKETS,
	ZYGOTE_LOOP_PIPES,
	ZYGOTE_LOOP_PAGE,
	ZYGOTE_LOOP_FORK,
	ZYGOTE_LOOP_USERS,
	ZYGOTE_LOOP_MAP,
	ZYGOTE_LOOP_SEND
};

struct zygote_loop {
	int control, wake, host;  /* the supervisor's socket; a pipe that SIGCHLD writes to; the host's pidfd */
	unsigned long long flags; /* CLONE_NEW* of each cell */
	int maps;                 /* this process maps its cells' users */
	unsigned int uid, gid;    /* that a cell is to itself */
	unsigned int *free_uids;  /* that cells can be outside, the one freed first in front; NULL: all are `uid` */
	int uids, first_free, free;
	/* by whether a cell may fork without asking the listener */
	const struct cell_start_order *starts[2];
	struct cell_start_outcome *outcomes[2];
	struct zygote_loop_frame fork[2];   /* an order for some cells: their number */
	struct zygote_loop_frame forked[2]; /* the guest's process id, and its init's */
	struct zygote_loop_frame exited;    /* the guest's process id, its status, seconds, bytes */

	struct zygote_loop_cell *cells; /* those that are not reaped */
	int count, room;
	int left, forks; /* of the order in hand: cells still to be made, and of which kind */

	int came;        /* in a guest: how far it came (CELL_START_...) */
	int step, error; /* what a cell's making failed of */
	size_t received; /* an order for Python */
	int descriptors[ZYGOTE_LOOP_DESCRIPTORS], descriptor_count;
	unsigned char data[ZYGOTE_LOOP_ORDER];
};

/* Why the loop was left. */
enum {
	ZYGOTE_LOOP_GONE,   /* the host has ended, or closed the socket */
	ZYGOTE_LOOP_GUEST,  /* this process is a guest: `came` */
	ZYGOTE_LOOP_OTHER,  /* an order that is none for cells: `data`, `descriptors` */
	ZYGOTE_LOOP_FAILED, /* a cell could not be made: `step`, `error` */
	ZYGOTE_LOOP_DONE    /* within: go on */
};

#endif
