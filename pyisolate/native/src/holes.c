/* Fill the holes that freed objects have left in a zygote, so that what its cells make lies together.
 *
 * A hole is in a page that zygote and cells share, and who fills it copies that page: a cell's first thousand objects lay
 * strewn over a hundred pages. What fills the holes here is never given back; the pages that it lies in are the zygote's
 * anyhow. Objects/obmalloc.c; malloc(3), mallinfo(3).
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <malloc.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#include <Python.h>

#include "shared.h"

/* Of obmalloc.c since 3.10: objects of one size, up to 512 bytes, share a pool, whose head takes 48. */
enum { HOLES_POOL = 1 << 14, HOLES_HEAD = 48, HOLES_ALIGNMENT = 16, HOLES_LARGEST = 512 };
/* Who has another allocator (PYTHONMALLOC) has no pools: enough is enough. */
enum { HOLES_MOST = 1 << 18 };
/* Of the C library: above this, memory is mapped by itself. */
enum { HOLES_LARGEST_CHUNK = 1 << 16, HOLES_SMALLEST_CHUNK = 24 };

/* Take all of one size that is free, and give back the pool that was empty: what is made next begins an empty pool. */
static void holes_fill_size(size_t size)
{
	static void *taken[HOLES_POOL / HOLES_ALIGNMENT];
	const size_t room = (HOLES_POOL - HOLES_HEAD) / size;
	uintptr_t pool = 0;
	size_t count = 0;

	for (int i = 0; i < HOLES_MOST && count < room; i++) {
		void *one = PyObject_Malloc(size);
		if (one == NULL)
			break;
		if (((uintptr_t)one & ~(uintptr_t)(HOLES_POOL - 1)) != pool)
			count = 0;
		pool = (uintptr_t)one & ~(uintptr_t)(HOLES_POOL - 1);
		taken[count++] = one;
	}
	while (count > 0)
		PyObject_Free(taken[--count]);
}

/* Returns where the heap ends that was ever in use: what lies beyond is no hole. */
static uintptr_t holes_top(void)
{
#if __GLIBC_PREREQ(2, 33)
	return (uintptr_t)sbrk(0) - mallinfo2().keepcost;
#else
	return (uintptr_t)sbrk(0) - (unsigned int)mallinfo().keepcost;
#endif
}

static void holes_fill_heap(void)
{
	const uintptr_t top = holes_top();
	size_t size = HOLES_LARGEST_CHUNK;

	while (size >= HOLES_SMALLEST_CHUNK) {
		void *one = malloc(size);
		if (one != NULL && (uintptr_t)one < top)
			continue; /* it was a hole */
		free(one);
		size = size > 1024 ? size / 2 : size - HOLES_ALIGNMENT / 2;
	}
}

/* Its caller has released the interpreter's lock (cffi), with which a thread has no pools since 3.12. */
SHARED void holes_fill(void)
{
	PyGILState_STATE state = PyGILState_Ensure();

	for (size_t size = HOLES_ALIGNMENT; size <= HOLES_LARGEST; size += HOLES_ALIGNMENT)
		holes_fill_size(size);
	PyGILState_Release(state);
	holes_fill_heap();
}
