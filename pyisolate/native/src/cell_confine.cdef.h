/* What every cell of a zygote does to itself, whatever its policy: the same for all, so it is made once. */
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
/* Takes every step, also after one that failed, and writes 0 or -errno for each; returns how many failed.
 * `mapped`: a pipe whose byte says that the zygote has mapped the cell's user; -1: it maps itself.
 * Descriptors 0 to 2 and `channel` stay open. */
int cell_confine_run(const struct cell_confine_order *order, int channel, int mapped, int *results);
