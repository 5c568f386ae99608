/* What the host may spend for one sandbox: for account.c, and for Python by _build.py. */
#ifndef PYISOLATE_ACCOUNT_TYPES_H
#define PYISOLATE_ACCOUNT_TYPES_H

/* One part in so many of a processor; and at once, for a sandbox that cost little before; and once in a long while, for what a
 * guest is refused some thousand times; and how long it is remembered that another one was served; and how much of what is owed
 * is remembered. */
enum {
	ACCOUNT_PARTS = 20,
	ACCOUNT_BURST_NS = 10000000,
	ACCOUNT_RESERVE_PARTS = 200,
	ACCOUNT_RESERVE_NS = 200000000,
	ACCOUNT_OTHERS_NS = 1000000000,
	ACCOUNT_DEBT_NS = 5000000,
};

struct account {
	int references;    /* atomic; 0: free */
	unsigned number;   /* another one for each sandbox */
	uint64_t until_ns; /* atomic: when what was spent will have been refilled, by CLOCK_MONOTONIC */
	uint64_t full_ns;  /* atomic: when the reserve will have been */
	uint64_t held_ns;  /* atomic: how long its guest was kept waiting for that */
};

#endif
