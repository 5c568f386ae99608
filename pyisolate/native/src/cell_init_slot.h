/* What a cell's init and its caller share. */
#ifndef PYISOLATE_CELL_INIT_SLOT_H
#define PYISOLATE_CELL_INIT_SLOT_H

#include <signal.h>
#include <stddef.h>

#include "shared.h"

/* In this order, but that an init may end at any time, and waits again once it has a maker. */
enum { CELL_INIT_ENDED, CELL_INIT_WAITS, CELL_INIT_DIVIDES, CELL_INIT_FORKS, CELL_INIT_FORKED };

/* Lies at the top of the init's stack, in pages that are the caller's: no guest can write there. */
struct cell_init_slot {
	unsigned int state; /* futex; the kernel clears it when the init ends (CLONE_CHILD_CLEARTID) */
	unsigned int go;    /* futex: the maker forks */
	int maker, maker_pidfd;
	int error, guest, guest_pidfd, status;
	long long max_rss_kb;
	void *context[5]; /* __builtin_setjmp */
	void *tid_address, *robust_list;
	size_t robust_size;
	sigset_t mask;
	int own_pid_namespace, own_user_namespace;
	/* the caller's: the init as it knows it, and what it was cloned with; a pidfd of the caller itself */
	int init, init_pidfd, caller_pidfd;
	unsigned long long flags, network; /* the ticket of its network namespace (networks.h), or 0 */
	struct cell_init_slot *next;
};

/* Be the init of a guest that is made, until it has ended. Returns never. */
SHARED void cell_init_serve(struct cell_init_slot *slot);

#endif
