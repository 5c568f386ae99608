/* Memory of the listener: pages of its own, never the C library's allocator. fork(3) of a sandbox thread holds every
 * lock of malloc(3) while it waits for this listener's answer; a loop that allocated would never give it. */
#include "facts.h"

struct notify_block {
	size_t bytes;
	_Alignas(16) char data[];
};

SHARED void *notify_alloc(size_t count, size_t size)
{
	size_t bytes;
	struct notify_block *block;

	if (__builtin_mul_overflow(count, size, &bytes) || __builtin_add_overflow(bytes, sizeof *block, &bytes))
		return NULL;
	block = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (block == MAP_FAILED)
		return NULL;
	block->bytes = bytes;
	return block->data;
}

SHARED void notify_free(void *data)
{
	struct notify_block *block =
		data ? (struct notify_block *)((char *)data - offsetof(struct notify_block, data)) : NULL;

	if (block)
		munmap(block, block->bytes);
}
