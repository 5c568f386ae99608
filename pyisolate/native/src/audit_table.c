/* How audit.c finds the events that are asked about, and the place of a thread in a page that threads share. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "audit_table.h"

static struct audit_event audit_table_events[AUDIT_TABLE_SIZE];

SHARED uint32_t audit_table_hash(const char *name)
{
	uint32_t hash = 2166136261u; /* FNV-1a */
	for (; *name; name++)
		hash = (hash ^ (unsigned char)*name) * 16777619u;
	return hash;
}

/* Ends because the table is at most half full. */
SHARED struct audit_event *audit_table_find(const char *name)
{
	uint32_t hash = audit_table_hash(name);
	struct audit_event *entry = &audit_table_events[hash % AUDIT_TABLE_SIZE];
	while (entry->name != NULL && (entry->hash != hash || strcmp(entry->name, name) != 0))
		entry = entry == &audit_table_events[AUDIT_TABLE_SIZE - 1] ? audit_table_events : entry + 1;
	return entry;
}

/* The thread's place in a shared page, of the `count` whose owners' ids lie `stride` bytes apart: the first of its
 * probes that is free, or whose owner is gone. -1: none is, and readers of the page then report that consultation
 * cannot be known. In the second of two rounds, owners are looked for. */
SHARED int audit_table_place(void *owners, size_t stride, uint32_t count, uint32_t probes, int rounds)
{
	uint32_t tid = (uint32_t)syscall(SYS_gettid);

	for (int round = 0; round < rounds; round++)
		for (uint32_t i = 0; i < probes; i++) {
			uint32_t place = (tid + i) & (count - 1);
			uint32_t *at = (uint32_t *)((char *)owners + place * stride);
			uint32_t owner = __atomic_load_n(at, __ATOMIC_ACQUIRE);
			int free = owner == 0 || (round == 1 && syscall(SYS_tkill, owner, 0) < 0 && errno == ESRCH);
			if (owner == tid || (free && __atomic_compare_exchange_n(at, &owner, tid, 0, __ATOMIC_ACQ_REL,
										 __ATOMIC_RELAXED)))
				return (int)place;
		}
	return -1;
}
