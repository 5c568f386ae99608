/* How often CPython would look for a free place to make a dict or a set of given keys, found out without making it. Hashes of
 * numbers are no secret (only those of text and bytes are keyed), so a guest can choose keys that all collide: each then
 * looks at the places of all before it, with the interpreter's lock held. Objects/dictobject.c, Objects/setobject.c.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <stddef.h>
#include <stdint.h>

#include "shared.h"

#define HASHES_SHIFT  5 /* PERTURB_SHIFT of both */
#define HASHES_LINEAR 9 /* LINEAR_PROBES of a set: neighbours that are looked at first */

/* A look at a place, and in a set at its neighbours. Which of them is free, or `slots`. */
static size_t hashes_free(const uint8_t *taken, size_t slots, size_t at, int set)
{
	size_t last = set && at + HASHES_LINEAR < slots ? at + HASHES_LINEAR : at;

	for (; at <= last; at++)
		if (!taken[at])
			return at;
	return slots;
}

/* The looks in a table of so many slots (a power of two), more of them than keys; `taken` has a zero for each. -1: more than
 * `most`. Keys that are equal count as different ones. */
SHARED int64_t hashes_looks(const int64_t *hashes, size_t count, int set, uint8_t *taken, size_t slots, int64_t most)
{
	int64_t looks = 0;

	for (size_t i = 0; i < count; i++) {
		size_t perturb = (size_t)hashes[i], at = perturb & (slots - 1), found;
		while ((found = hashes_free(taken, slots, at, set)) == slots) {
			if (++looks > most)
				return -1;
			perturb >>= HASHES_SHIFT;
			at = (at * 5 + 1 + perturb) & (slots - 1);
		}
		looks++;
		taken[found] = 1;
	}
	return looks;
}
