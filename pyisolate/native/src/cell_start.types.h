/* What a policy zygote tells its cells to do, and what they met: for cell_start.c, and for Python by _build.py. */
#ifndef PYISOLATE_CELL_START_TYPES_H
#define PYISOLATE_CELL_START_TYPES_H

#include <stddef.h>
#include <stdint.h>

#include "cell_confine.types.h"
#include "seccomp.types.h"

enum { CELL_START_BYTES = 2048, CELL_START_DESCRIPTORS = 8, CELL_START_ENTROPY = 32 };

/* Steps of a hand-out: cell_start_confine takes them in this order, which is that of HAND_OUT in cell/confine.py. */
enum {
	CELL_START_ROOT,
	CELL_START_DIRECTORY,
	CELL_START_LIMITS,
	CELL_START_CAPABILITIES,
	CELL_START_LANDLOCK,
	CELL_START_STEPS
};
struct cell_start_order {
	const struct cell_confine_order *confine;
	int pid;             /* the guest's in a pid namespace of its own; 0: it has none */
	int null, channel;   /* channel: the number that its end gets, which the zygote has reserved */
	const void *program; /* the filter */
	size_t program_bytes;
	const struct seccomp_user *user; /* what the cell becomes with its filter; NULL: no other user */
	unsigned long flags[2];          /* of the filter: the second where the kernel does not know the first */
	const void *warm, *init, *ready; /* frames: its report, the hand-out that is foreseen, and what answers it */
	size_t warm_bytes, init_bytes, ready_bytes; /* init_bytes 0: none is foreseen */
	int descriptors, root_view, landlock;       /* how many come with the hand-out; which is which, -1 for none */
	const char *directory, *name;
	const struct cell_confine_limit *limits;
	int limit_count;
};

/* How far a cell came. */
enum {
	CELL_START_BROKEN,   /* it has no streams, page or randomness: `error` */
	CELL_START_CONFINE,  /* a step of cell_confine_run failed: `confined` */
	CELL_START_FILTER,   /* the filter is not in force, and nothing was reported: `error` */
	CELL_START_REPORTED, /* reported; no hand-out is foreseen */
	CELL_START_OTHER,    /* reported; what came is another frame, or part of one: `data`, `descriptors` */
	CELL_START_GONE,     /* reported; the host is gone */
	CELL_START_HAND_OUT, /* a step of the hand-out failed, and it is not answered: `handed_out` */
	CELL_START_DONE      /* handed out and answered */
};
struct cell_start_outcome {
	int error;
	int confined[CELL_CONFINE_STEPS], handed_out[CELL_START_STEPS];
	unsigned char entropy[CELL_START_ENTROPY];
	size_t received;
	int count, descriptors[CELL_START_DESCRIPTORS];
	unsigned char data[CELL_START_BYTES];
};

#endif
