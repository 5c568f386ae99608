/* The asked page: what the broker was last asked, by thread and capability. The guest's hooks store (audit.c), the
 * notification listener takes (notify_asked.c). One word for each capability, so that a question about a file between
 * one about a connection and the connection itself, put by the guest's own audit hook, say, overwrites nothing.
 *
 * The guest can write what it likes here, about itself: it is its own claim, and nothing is decided by it.
 */
#ifndef PYISOLATE_ASKED_H
#define PYISOLATE_ASKED_H

#include <stdint.h>

/* Many probes: ids of threads that are started together are neighbours. */
enum { ASKED_THREADS = 128, ASKED_PROBES = 16, ASKED_WORDS = 15 };
/* A word: low half of the sequence << 32 | flags << 16 | verdict << 8 | capability; 0: never asked. Stored whole. */
enum {
	/* in answers of a callback, too: hooks/answers.py */
	ASKED_MANY = 1,		/* may stand for two calls: fork after a vfork that failed */
	ASKED_AHEAD = 2,	/* announces a call whose own hook will ask again: not stored */
	ASKED_RESOLVES = 4,	/* the C library may make sockets of its own for it */
	ASKED_NOTHING = 8,	/* the hook saw the call and found nothing to ask */
};
enum { ASKED_ALLOW = 1, ASKED_WOULD_DENY = 3 };

struct asked_thread {
	uint32_t tid;		/* owner, as the guest sees it; 0: free */
	uint32_t main;		/* in the first one: the process that maps the page; 0: nobody yet */
	uint64_t words[ASKED_WORDS];
};

/* Behind the places: refusals by the broker that the guest has summed up and not reported yet, so that they are told of
 * when it ends before it can. By capability * 2, and 1 more for what was let through (monitor mode). */
enum { ASKED_UNTOLD = 128 };

#define ASKED_SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)
#define ASKED_PLACES_BYTES (ASKED_THREADS * sizeof(struct asked_thread))
#define ASKED_BYTES (ASKED_PLACES_BYTES + 4096)

static inline uint64_t *asked_untold(const struct asked_thread *page)
{
	return (uint64_t *)((char *)page + ASKED_PLACES_BYTES);
}

/* CAPABILITY_NUMBER of capability.py -> word; -1 for what no notified call is asked about. */
static inline int asked_word(uint32_t capability)
{
	switch (capability) {
	case 7: case 8: case 9: case 10: case 11:	/* net.connect bind listen send socket */
	case 12: case 13: case 14:			/* process.exec fork signal */
		return (int)capability - 7;
	case 18:					/* random.read */
		return 8;
	case 23: case 24:				/* kernel.mount namespace */
		return (int)capability - 23 + 9;
	case 31:					/* kernel.ioctl */
		return 11;
	default:
		return -1;
	}
}

#endif
