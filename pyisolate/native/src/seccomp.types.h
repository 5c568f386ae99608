/* Who a task becomes that loads a filter: for seccomp.c, and for Python by _build.py. */
#ifndef PYISOLATE_SECCOMP_TYPES_H
#define PYISOLATE_SECCOMP_TYPES_H

#include <stdint.h>

/* Whom the task that loads the filter becomes first; its courier stays who it was, and so does the count of the
 * descriptor that it sends, which the kernel keeps by user (unix(7), ETOOMANYREFS). `keep`: capabilities left. */
struct seccomp_user {
	unsigned int uid, gid;
	int dumpable;
	uint64_t keep;
};

#endif
