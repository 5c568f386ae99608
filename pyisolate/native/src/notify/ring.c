/* Records out. Each sandbox has a ring of its own, so that one that is refused a million times loses only its own
 * records. A record equal to the last one of its thread that still waits raises that one's count. Counters never miss any. */
#include "outcome.h"

/* Two records tell the same story. Arguments are compared as well: they are part of the target. Long names are not: a
 * drain may be freeing those of `a`. */
static int notify_same(const struct notify_record *a, const struct notify_record *b)
{
	return a->policy_serial == b->policy_serial && a->tid == b->tid && a->nr == b->nr && a->error == b->error &&
	       a->rule == b->rule && a->capability == b->capability && a->verdict == b->verdict &&
	       a->reason == b->reason && a->family == b->family && a->port == b->port && a->scope == b->scope &&
	       a->asked == b->asked && a->met == b->met && a->slot_capability == b->slot_capability &&
	       a->slot_verdict == b->slot_verdict && a->path_length == b->path_length &&
	       !memcmp(a->address, b->address, sizeof a->address) && a->question == b->question &&
	       a->reply == b->reply && a->other_length == b->other_length && a->device == b->device &&
	       a->inode == b->inode && !memcmp(a->args, b->args, sizeof a->args) && !a->names && !b->names &&
	       !memcmp(a->text, b->text, (size_t)a->path_length + a->other_length);
}

SHARED void notify_count(struct notify_sandbox *s, int capability, int verdict)
{
	__atomic_add_fetch(&s->counters[capability % NOTIFY_CAPABILITIES][verdict], 1, __ATOMIC_RELAXED);
}

/* A drain takes a slot by swapping its count for 0; until then the producer may raise it. */
static int notify_raise(struct notify_record *slot)
{
	uint32_t count = __atomic_load_n(&slot->count, __ATOMIC_ACQUIRE);

	while (count && count < UINT32_MAX)
		if (__atomic_compare_exchange_n(&slot->count, &count, count + 1, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
			return 1;
	return 0;
}

static struct notify_record *notify_slot(struct notify_ring *ring, uint32_t number)
{
	return &ring->slots[(number - ring->base) % NOTIFY_RING];
}

/* Count the record into the last one of its thread, where that waits and is equal. Threads that are refused in turn are as
 * cheap for the drain as one. */
static int notify_repeats(struct notify_ring *ring, uint32_t head, uint32_t tail, const struct notify_record *record)
{
	for (uint32_t back = 1; back <= NOTIFY_REPEATS && back <= head - tail; back++) {
		struct notify_record *before = notify_slot(ring, head - back);
		if (before->tid == record->tid)
			return notify_same(before, record) && notify_raise(before);
	}
	return 0;
}

/* Takes the record's names. */
SHARED void notify_push(notify_listener *l, struct notify_sandbox *s, const struct notify_record *record)
{
	struct notify_ring *ring = s->ring;

	if (!ring) {
		ring = notify_alloc(1, sizeof *ring);
		if (!ring) {
			__atomic_add_fetch(&s->lost, 1, __ATOMIC_RELAXED);
			notify_free(record->names);
			return;
		}
		__atomic_store_n(&s->ring, ring, __ATOMIC_RELEASE);
	}
	uint32_t head = ring->head, tail = __atomic_load_n(&ring->tail, __ATOMIC_ACQUIRE);
	if (head ==
	    tail) { /* no drain looks at a slot: begin anew, so that only a burst takes the memory of all of them */
		ring->base = head;
	} else if (notify_repeats(ring, head, tail, record)) {
		return;
	}
	/* look-ups have places of their own, which were looked at before (look.c): neither takes the other's */
	if (!record->looked &&
	    head - tail - __atomic_load_n(&ring->looks, __ATOMIC_ACQUIRE) >= NOTIFY_RING - NOTIFY_LOOKS) {
		__atomic_add_fetch(&s->lost, 1, __ATOMIC_RELAXED);
		notify_free(record->names);
	} else {
		*notify_slot(ring, head) = *record;
		__atomic_add_fetch(&ring->looks, record->looked, __ATOMIC_ACQ_REL);
		__atomic_store_n(&ring->head, head + 1, __ATOMIC_RELEASE);
	}
	__atomic_or_fetch(&l->dirty[s->slot / 64], 1ULL << (s->slot % 64), __ATOMIC_SEQ_CST);
	if (__atomic_exchange_n(&l->drain_waits, 0, __ATOMIC_SEQ_CST)) {
		uint64_t one = 1;
		if (write(l->own_drain, &one, sizeof one) < 0)
			return; /* only when the counter is full: then it is readable anyway */
	}
}

/* How many of a sandbox's look-ups no drain has taken yet. */
SHARED uint32_t notify_ring_looks(const struct notify_sandbox *s)
{
	return s->ring ? __atomic_load_n(&s->ring->looks, __ATOMIC_ACQUIRE) : 0;
}

/* A call makes two records at most. The tail is read first: what a drain takes in between makes the ring look fuller, and
 * that drain is yet to say that it has made room (notify_pop). */
SHARED int notify_ring_full(const struct notify_ring *ring)
{
	uint32_t tail = ring ? __atomic_load_n(&ring->tail, __ATOMIC_ACQUIRE) : 0;

	return ring &&
	       ring->head - tail - __atomic_load_n(&ring->looks, __ATOMIC_ACQUIRE) >= NOTIFY_RING - NOTIFY_LOOKS - 2;
}

/* The loop's epoll set looks at the sandbox again, unless too many of its operations are unfinished, or it rests. */
SHARED void notify_receive_again(notify_listener *l, struct notify_sandbox *s)
{
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = s};

	if (!s->paused && !__atomic_load_n(&s->resting, __ATOMIC_SEQ_CST))
		epoll_ctl(l->epoll, EPOLL_CTL_MOD, s->fd,
			  &event); /* ENOENT: it has hung up; EBADF: the loop has ended */
}

/* With the names of records that no drain has taken. */
SHARED void notify_ring_free(struct notify_ring *ring)
{
	for (uint32_t at = ring ? ring->tail : 0; ring && at != ring->head; at++)
		notify_free(notify_slot(ring, at)->names);
	notify_free(ring);
}

SHARED int notify_ring_pop(struct notify_ring *ring, struct notify_record *out, int max)
{
	int taken = 0;

	if (!ring)
		return 0;
	uint32_t tail = ring->tail, head = __atomic_load_n(&ring->head, __ATOMIC_ACQUIRE);
	for (; taken < max && tail != head; taken++, tail++) {
		struct notify_record *slot = notify_slot(ring, tail);
		out[taken] = *slot;
		out[taken].count = __atomic_exchange_n(&slot->count, 0, __ATOMIC_ACQ_REL);
		__atomic_sub_fetch(&ring->looks, slot->looked, __ATOMIC_ACQ_REL);
		__atomic_store_n(&ring->tail, tail + 1, __ATOMIC_RELEASE);
	}
	return taken;
}

SHARED int notify_any_dirty(notify_listener *l)
{
	for (int i = 0; i < NOTIFY_SLOTS / 64; i++)
		if (__atomic_load_n(&l->dirty[i], __ATOMIC_SEQ_CST))
			return 1;
	return 0;
}
