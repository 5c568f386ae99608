/* How audit.c finds the events that are asked about, and the place of a thread in a page that threads share. */
#ifndef PYISOLATE_AUDIT_TABLES_H
#define PYISOLATE_AUDIT_TABLES_H

#include <Python.h>
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The events asked about: open addressing, never changed once published. */
enum { AUDIT_TABLE_SIZE = 1024, AUDIT_EVENTS_MAX = 512 }; /* CPython 3.13 documents about 150 events */
struct audit_event {
	const char *name;
	PyObject *text;
	uint32_t hash;
};
static struct audit_event audit_events[AUDIT_TABLE_SIZE];

static inline uint32_t audit_hash(const char *name)
{
	uint32_t hash = 2166136261u; /* FNV-1a */
	for (; *name; name++)
		hash = (hash ^ (unsigned char)*name) * 16777619u;
	return hash;
}

/* Ends because the table is at most half full. */
static inline struct audit_event *audit_find(const char *name)
{
	uint32_t hash = audit_hash(name);
	struct audit_event *entry = &audit_events[hash % AUDIT_TABLE_SIZE];
	while (entry->name != NULL && (entry->hash != hash || strcmp(entry->name, name) != 0))
		entry = entry == &audit_events[AUDIT_TABLE_SIZE - 1] ? audit_events : entry + 1;
	return entry;
}

/* The thread's place in a shared page, of the `count` whose owners' ids lie `stride` bytes apart: the first of its
 * probes that is free, or whose owner is gone. -1: none is, and readers of the page then report that consultation
 * cannot be known. In the second of two rounds, owners are looked for. */
static inline int audit_find_place(void *owners, size_t stride, uint32_t count, uint32_t probes, int rounds)
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

#endif
