/* What the Landlock probe saw: for landlock.c, and for Python by _build.py. */
#ifndef PYISOLATE_LANDLOCK_TYPES_H
#define PYISOLATE_LANDLOCK_TYPES_H

struct landlock_probe_result {
	int step;          /* the last step reached, see landlock.c; 0 = all passed */
	int error;         /* errno of that step, 0 where it should have failed and did not */
	int tcp_denied;    /* 1 seen denied, 0 not handled by this ABI or could not tell */
	int signal_denied; /* likewise */
};

#endif
