/* What a zygote tells its cells to do to themselves: for cell_confine.c, and for Python by _build.py. */
#ifndef PYISOLATE_CELL_CONFINE_TYPES_H
#define PYISOLATE_CELL_CONFINE_TYPES_H

#include <stdint.h>

struct cell_confine_limit {
	int which;
	uint64_t soft, hard;
};
struct cell_confine_order {
	unsigned long long namespaces; /* CLONE_NEW* that it is in */
	unsigned int uid, gid;         /* mapped to themselves, where it maps them and not its zygote */
	int dumpable;
	uint64_t keep; /* bits of linux/capability.h */
	const struct cell_confine_limit *limits;
	int limit_count;
};
enum {
	CELL_CONFINE_USER,
	CELL_CONFINE_SESSION,
	CELL_CONFINE_DESCRIPTORS,
	CELL_CONFINE_HOST_NAME,
	CELL_CONFINE_NO_NEW_PRIVS,
	CELL_CONFINE_DUMPABLE,
	CELL_CONFINE_LIMITS,
	CELL_CONFINE_CAPABILITIES,
	CELL_CONFINE_DEATH_SIGNAL,
	CELL_CONFINE_STEPS
};

#endif
