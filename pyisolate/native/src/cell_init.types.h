/* A cell's init as the zygote knows it: for cell_init.c, and for Python by _build.py. */
#ifndef PYISOLATE_CELL_INIT_TYPES_H
#define PYISOLATE_CELL_INIT_TYPES_H

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

#endif
