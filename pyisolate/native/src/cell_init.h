/* A cell's init as a zygote's loop knows it. */
#ifndef PYISOLATE_CELL_INIT_H
#define PYISOLATE_CELL_INIT_H

#include "shared.h"

/* One cell: its init, as this process knows it, and what the init wrote down. Made by cell_init_fork. */
struct cell_init_made {
	int init_pid; /* child of the caller, and process 1 of a new pid namespace */
	int init_pidfd;
	int guest_pid; /* child of the init */
	void *slot;    /* for cell_init_forget */
};
struct cell_init_end {
	int status;           /* of the guest as wait(2) gives it; -1 where its init did not live to see its end */
	long long max_rss_kb; /* of the largest process that the init reaped */
};

/* Fork a cell into new namespaces; CLONE_NEW* bits. Without CLONE_NEWPID its init ends what is left of it. For a process of
 * one thread that does not ignore SIGCHLD. Returns 0 in the guest, 1 in the caller, or -errno. */
SHARED int cell_init_fork(unsigned long long flags, struct cell_init_made *made);
/* Have an init made ahead for the next cell with these flags; 0 or -errno. */
SHARED int cell_init_prepare(unsigned long long flags);
/* Let go of the one made ahead: it ends (1), or is another process's (0). */
SHARED void cell_init_leave_ready(int ends);
/* Once the init is reaped: how its guest ended. Gives the slot back. */
SHARED void cell_init_forget(void *given, struct cell_init_end *end);

#endif
