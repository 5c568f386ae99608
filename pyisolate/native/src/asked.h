/* The asked page: what the broker was last asked, by thread and capability. The guest's hooks store (audit.c), the
 * notification listener takes (notify/asked.c). One word for each capability, so that a question about a file between
 * one about a connection and the connection itself, put by the guest's own audit hook, say, overwrites nothing.
 *
 * The guest can write what it likes here, about itself: it is its own claim, and nothing is decided by it.
 */
#ifndef PYISOLATE_ASKED_H
#define PYISOLATE_ASKED_H

#include <stddef.h>
#include <stdint.h>

#include "capability.h"

/* Many probes: ids of threads that are started together are neighbours. */
enum { ASKED_THREADS = 128, ASKED_PROBES = 16, ASKED_WORDS = 15 };
/* A word: low half of the sequence << 32 | flags << 16 | verdict << 8 | capability; 0: never asked. Stored whole. */
enum {
	/* in answers of a callback, too: hooks/answer_codes.py */
	ASKED_MANY = 1,      /* may stand for two calls: fork after a vfork that failed */
	ASKED_AHEAD = 2,     /* announces a call whose own hook will ask again: not stored */
	ASKED_RESOLVES = 4,  /* the C library may make sockets and open files of its own for it */
	ASKED_NOTHING = 8,   /* the hook saw the call and found nothing to ask */
	ASKED_OWN_LOOK = 16, /* the interpreter opens it for itself, and its absence is not reported: not stored */
	ASKED_IMPORTS =
		32, /* importlib reads it for an import that the broker has let through and reported (monitor mode) */
};
/* Of the words: the last question about a file, and which name it was about (asked_name_tag, asked_descriptor_tag). */
enum { ASKED_FILE = 12, ASKED_FILE_TAG = 13 };
enum { ASKED_ALLOW = 1, ASKED_WOULD_DENY = 3 };

struct asked_thread {
	uint32_t tid;  /* owner, as the guest sees it; 0: free */
	uint32_t main; /* in the first one: the process that maps the page; 0: none yet */
	uint64_t words[ASKED_WORDS];
};

/* After the places: how many refusals the broker has made, counted before each is reported, or waits as a repeat. What
 * the host has received less than that when the guest has ended, it records as a count; a number that the guest took back
 * once it had sent a report would count twice where it ends between the two. By capability * 2, and 1 more for what was
 * let through (monitor mode). */
enum { ASKED_REFUSALS = 128 };
/* After the refusals, the host's own word, and nothing is decided by it: how many reloads it has announced. */
enum { ASKED_ANNOUNCED = ASKED_REFUSALS };

#define ASKED_SEALS        (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)
#define ASKED_PLACES_BYTES (ASKED_THREADS * sizeof(struct asked_thread))
#define ASKED_BYTES        (ASKED_PLACES_BYTES + 4096)

static inline uint64_t *asked_refusals(const struct asked_thread *page)
{
	return (uint64_t *)((char *)page + ASKED_PLACES_BYTES);
}

static inline int asked_is_resolving(uint64_t word)
{
	return (word >> 16 & ASKED_RESOLVES) != 0;
}

/* Another question has come: what follows is no part of the look-up of a name before it. */
static inline void asked_end_resolving(struct asked_thread *place)
{
	if (place && asked_is_resolving(place->words[ASKED_FILE]))
		__atomic_store_n(&place->words[ASKED_FILE], 0, __ATOMIC_RELEASE);
}

/* Ties a question about a file to the call that follows it: of the name as it is passed, its length in the top byte xor
 * its last 8 bytes; of a descriptor, its number. Never 0. */
static inline uint64_t asked_name_tag(const char *name, size_t length)
{
	size_t from = length > 8 ? length - 8 : 0;
	uint64_t tail = 0;

	for (size_t i = from; i < length; i++)
		tail |= (uint64_t)(unsigned char)name[i] << (8 * (i - from));
	tail ^= (uint64_t)(length & 0x7f) << 56;
	return tail ? tail : 1;
}

static inline uint64_t asked_descriptor_tag(uint32_t descriptor)
{
	return 1ULL << 63 | descriptor;
}

/* Of a call with two names, which are asked about together. */
static inline uint64_t asked_names_tag(uint64_t first, uint64_t second)
{
	uint64_t both = first ^ (second << 8 | second >> 56);

	return first && second ? (both ? both : 1) : 0;
}

static inline int asked_is_file(uint32_t capability)
{
	return capability >= PYI_FS_READ && capability <= PYI_FS_EXEC;
}

/* Capability -> word; -1 for what no notified call is asked about. */
static inline int asked_word(uint32_t capability)
{
	switch (capability) {
	case PYI_NET_CONNECT:
	case PYI_NET_BIND:
	case PYI_NET_LISTEN:
	case PYI_NET_SEND:
	case PYI_NET_SOCKET:
	case PYI_PROCESS_EXEC:
	case PYI_PROCESS_FORK:
	case PYI_PROCESS_SIGNAL:
		return (int)(capability - PYI_NET_CONNECT);
	case PYI_RANDOM_READ:
		return 8;
	case PYI_KERNEL_MOUNT:
		return 9;
	case PYI_KERNEL_NAMESPACE:
		return 10;
	case PYI_KERNEL_IOCTL:
		return 11;
	case PYI_IMPORT_NATIVE:
		return 14;
	default:
		return -1;
	}
}

#endif
