/* What Python calls, from any thread. `lock` is held for lookups and pointer swaps only. */
#include "loop.h"

static notify_listener *notify_all; /* for fork */
static pthread_mutex_t notify_all_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t notify_fork_once = PTHREAD_ONCE_INIT;

/* A child of the host has no loop thread, and of its table nothing: when the host dies, no process holds a listener. No lock is
 * taken around fork: the fork of a sandbox thread is itself decided by the loop thread, which needs `lock`. */
static void notify_after_fork_child(void)
{
	for (notify_listener *l = notify_all; l; l = l->next) {
		close(l->wake);
		close(l->drain);
		close(l->ask);
		l->forked = 1; /* its locks may be held for ever: nothing here takes them from now on */
	}
	notify_all = NULL;
	pthread_mutex_init(&notify_all_lock, NULL);
}

static void notify_watch_fork(void)
{
	pthread_atfork(NULL, NULL, notify_after_fork_child);
}

SHARED notify_listener *notify_create(const uint8_t *capability, const uint8_t *traits, const int8_t *path_argument,
				      uint64_t patience_ns)
{
	struct seccomp_notif_sizes sizes = {0};
	notify_listener *l = notify_alloc(1, sizeof *l);

	if (!l)
		return NULL;
	if (syscall(SYS_seccomp, SECCOMP_GET_NOTIF_SIZES, 0, &sizes)) {
		notify_free(l);
		return NULL;
	}
	l->notif_bytes =
		sizes.seccomp_notif > sizeof(struct seccomp_notif) ? sizes.seccomp_notif : sizeof(struct seccomp_notif);
	memcpy(l->capability, capability, sizeof l->capability);
	memcpy(l->traits, traits, sizeof l->traits);
	memcpy(l->path_argument, path_argument, sizeof l->path_argument);
	pthread_mutex_init(&l->lock, NULL);
	pthread_mutex_init(&l->job_lock, NULL);
	pthread_mutex_init(&l->turn, NULL);
	pthread_cond_init(&l->lead_ready, NULL);
	pthread_condattr_t monotonic;
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&l->job_ready, &monotonic);
	pthread_cond_init(&l->order_done, &monotonic);
	pthread_condattr_destroy(&monotonic);
	l->patience_ns = patience_ns;
	l->orders_end = &l->orders;
	l->to_close_end = &l->to_close;
	l->epoll = l->self = l->own_wake = l->own_drain = l->own_ask = l->timer = -1;
	l->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	l->drain = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	l->ask = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	l->questions = notify_alloc(NOTIFY_QUESTION_RING, sizeof *l->questions);
	l->wake_source.kind = NOTIFY_SOURCE_WAKE;
	notify_make_room(l);
	if (l->wake < 0 || l->drain < 0 || l->ask < 0 || !l->questions) {
		int error = errno;
		int opened[] = {l->wake, l->drain, l->ask};
		for (size_t i = 0; i < sizeof opened / sizeof *opened; i++)
			if (opened[i] >= 0)
				close(opened[i]);
		notify_free(l->questions);
		notify_free(l);
		errno = error;
		return NULL;
	}
	pthread_once(&notify_fork_once, notify_watch_fork);
	pthread_mutex_lock(&notify_all_lock);
	l->next = notify_all;
	notify_all = l;
	pthread_mutex_unlock(&notify_all_lock);
	return l;
}

SHARED int notify_start(notify_listener *l)
{
	sigset_t all, before;
	int error;

	if (l->forked)
		return -ESRCH;
	l->running = 1;
	sigfillset(&all); /* the host's signals are for its own threads */
	pthread_sigmask(SIG_SETMASK, &all, &before);
	error = -pthread_create(&l->thread, NULL, notify_loop, l);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (!error) {
		pthread_mutex_lock(&l->lock);
		while (!l->begun)
			pthread_cond_wait(&l->order_done, &l->lock);
		error = l->begun > 0 ? 0 : l->begun;
		pthread_mutex_unlock(&l->lock);
		if (error)
			pthread_join(l->thread, NULL);
	}
	if (error) {
		l->thread = 0;
		l->running = 0;
	}
	return error;
}

static void notify_interrupt(notify_listener *l, int fd)
{
	uint64_t one = 1;

	if (!l->forked && write(fd, &one, sizeof one) < 0)
		return; /* full: readable anyway */
}

SHARED void notify_wake(notify_listener *l)
{
	notify_interrupt(l, l->drain);
}

SHARED int notify_alive(notify_listener *l)
{
	return !l->forked && __atomic_load_n(&l->running, __ATOMIC_ACQUIRE);
}

/* Decide nothing more, for good: calls that wait, and all to come, get ENOSYS from the kernel, which is what a closed
 * listener means. Records stay, so that they can be drained: no thread adds any. */
SHARED void notify_halt(notify_listener *l)
{
	if (l->forked || l->halted)
		return;
	l->halted = 1;
	__atomic_store_n(&l->stopping, 1, __ATOMIC_RELEASE);
	if (!l->thread)
		return;
	notify_interrupt(l, l->wake);
	pthread_mutex_lock(&l->job_lock);
	pthread_cond_broadcast(&l->job_ready);
	while (!l->over)
		pthread_cond_wait(&l->job_ready, &l->job_lock);
	int joins = l->joins;
	pthread_mutex_unlock(&l->job_lock);
	if (joins)
		pthread_join(l->thread, NULL);
	else
		pthread_detach(l->thread); /* a guest has it wait */
}

/* No drain may be under way. A thread that waits for a file system, or for a guest's lock, keeps the memory until then. */
SHARED void notify_destroy(notify_listener *l)
{
	if (l->forked)
		return; /* what the parent's threads were doing to it is unknown */
	notify_halt(l);
	pthread_mutex_lock(&notify_all_lock);
	for (notify_listener **at = &notify_all; *at; at = &(*at)->next)
		if (*at == l) {
			*at = l->next;
			break;
		}
	pthread_mutex_unlock(&notify_all_lock);
	close(l->wake);
	close(l->drain);
	close(l->ask);
	pthread_mutex_lock(&l->job_lock);
	int left = l->injectors;
	l->abandoned = left > 0;
	pthread_mutex_unlock(&l->job_lock);
	if (!left)
		notify_free_all(l);
}

/* In the place of a closed listener, of which other threads may not know yet. Never destroyed. */
SHARED notify_listener *notify_none(void)
{
	static notify_listener none;

	none.forked = 1; /* at run time: half a megabyte of zeros is not in the file */
	return &none;
}

/* Decide nothing more for this sandbox; its records and counters stay until notify_forget. */
SHARED int notify_stop(notify_listener *l, uint64_t key)
{
	if (l->forked)
		return -ESRCH;
	pthread_mutex_lock(&l->lock);
	struct notify_sandbox *s = *notify_find(l, key);
	if (s)
		s->stopped = 1;
	pthread_mutex_unlock(&l->lock);
	return s ? 0 : -ENOENT;
}

SHARED int notify_forget(notify_listener *l, uint64_t key)
{
	if (l->forked)
		return -ESRCH;
	pthread_mutex_lock(&l->lock);
	struct notify_sandbox **at = notify_find(l, key), *s = *at;
	if (s) {
		s->stopped = s->forgotten = 1;
		__atomic_sub_fetch(&l->bound, s->policy != NULL, __ATOMIC_RELAXED);
		*at = s->next;
		l->slots[s->slot] = NULL;
		s->next_dead = l->dead;
		l->dead = s;
	}
	pthread_mutex_unlock(&l->lock);
	if (s)
		notify_interrupt(l, l->wake);
	return s ? 0 : -ENOENT;
}

SHARED int notify_counters(notify_listener *l, uint64_t key, uint64_t *counters, uint64_t *lost)
{
	if (l->forked)
		return -ESRCH;
	pthread_mutex_lock(&l->lock);
	struct notify_sandbox *s = *notify_find(l, key);
	if (s) {
		for (int i = 0; i < NOTIFY_CAPABILITIES * NOTIFY_VERDICTS; i++)
			counters[i] = __atomic_load_n(&s->counters[0][0] + i, __ATOMIC_RELAXED);
		*lost = __atomic_load_n(&s->lost, __ATOMIC_RELAXED);
	}
	pthread_mutex_unlock(&l->lock);
	return s ? 0 : -ENOENT;
}

/* Sleep until some sandbox has records: 1, or 0 after the timeout or a wake-up. */
SHARED int notify_wait(notify_listener *l, int timeout_ms)
{
	struct pollfd p = {.fd = l->drain, .events = POLLIN};
	uint64_t ignored;

	if (l->forked)
		return 0;
	__atomic_store_n(&l->drain_waits, 1, __ATOMIC_SEQ_CST);
	if (!notify_any_dirty(l) && poll(&p, 1, timeout_ms) > 0 && read(l->drain, &ignored, sizeof ignored) < 0)
		return 0;
	__atomic_store_n(&l->drain_waits, 0, __ATOMIC_SEQ_CST);
	return notify_any_dirty(l);
}

/* The key of a sandbox that has records, or 0; its mark is taken away. Goes round, so that no sandbox, by being refused
 * all the time, keeps others waiting. One caller at a time. */
SHARED uint64_t notify_next(notify_listener *l)
{
	int words = NOTIFY_SLOTS / 64, from = l->drained / 64;

	if (l->forked)
		return 0;
	for (int i = 0; i <= words; i++) { /* the first word twice: what lies before the last one comes last */
		int word = (from + i) % words;
		uint64_t bits = __atomic_load_n(&l->dirty[word], __ATOMIC_SEQ_CST);
		if (!i)
			bits &= ~0ULL << (l->drained % 64);
		while (bits) {
			int bit = __builtin_ctzll(bits);
			bits &= bits - 1;
			__atomic_and_fetch(&l->dirty[word], ~(1ULL << bit), __ATOMIC_SEQ_CST);
			l->drained = (word * 64 + bit + 1) % NOTIFY_SLOTS;
			pthread_mutex_lock(&l->lock);
			struct notify_sandbox *s = l->slots[word * 64 + bit];
			uint64_t key = s ? s->key : 0;
			pthread_mutex_unlock(&l->lock);
			if (key)
				return key;
		}
	}
	return 0;
}

/* How many look-ups of the sandbox, which `lost` counts too, found no place in its ring. */
SHARED uint64_t notify_unlooked(notify_listener *l, uint64_t key)
{
	uint64_t count = 0;

	if (l->forked)
		return 0;
	pthread_mutex_lock(&l->lock);
	struct notify_sandbox *s = *notify_find(l, key);
	if (s)
		count = __atomic_load_n(&s->unlooked, __ATOMIC_SEQ_CST);
	pthread_mutex_unlock(&l->lock);
	return count;
}

/* 1 while no record of the sandbox waits and no more of them than `lost` did not fit: one look instead of two. */
SHARED int notify_quiet(notify_listener *l, uint64_t key, uint64_t lost)
{
	int quiet = 1;

	if (l->forked)
		return 1;
	pthread_mutex_lock(&l->lock);
	struct notify_sandbox *s = *notify_find(l, key);
	struct notify_ring *ring = s ? __atomic_load_n(&s->ring, __ATOMIC_ACQUIRE) : NULL;
	if (ring && __atomic_load_n(&ring->head, __ATOMIC_ACQUIRE) != __atomic_load_n(&ring->tail, __ATOMIC_ACQUIRE))
		quiet = 0;
	if (s && __atomic_load_n(&s->lost, __ATOMIC_RELAXED) != lost)
		quiet = 0;
	pthread_mutex_unlock(&l->lock);
	return quiet;
}

/* How many records of the sandbox wait to be taken. */
SHARED int notify_pending(notify_listener *l, uint64_t key)
{
	int count = 0;

	if (l->forked)
		return 0;
	pthread_mutex_lock(&l->lock);
	struct notify_sandbox *s = *notify_find(l, key);
	struct notify_ring *ring = s ? __atomic_load_n(&s->ring, __ATOMIC_ACQUIRE) : NULL;
	if (ring)
		count = (int)(__atomic_load_n(&ring->head, __ATOMIC_ACQUIRE) -
			      __atomic_load_n(&ring->tail, __ATOMIC_ACQUIRE));
	pthread_mutex_unlock(&l->lock);
	return count;
}

static int notify_receive_here(notify_listener *l, void *with)
{
	notify_receive_again(l, with);
	return 0;
}

/* Take up to `max` records of one sandbox. One caller at a time for one sandbox. */
SHARED int notify_pop(notify_listener *l, uint64_t key, struct notify_record *out, int max)
{
	if (l->forked)
		return 0;
	pthread_mutex_lock(&l->lock);
	struct notify_sandbox *s = *notify_find(l, key);
	if (s)
		s->readers++;
	pthread_mutex_unlock(&l->lock);
	if (!s)
		return 0;
	int taken = notify_ring_pop(__atomic_load_n(&s->ring, __ATOMIC_ACQUIRE), out, max);
	if (taken && __atomic_exchange_n(&s->brims, 0, __ATOMIC_SEQ_CST))
		while (notify_have_done(l, l->wake, notify_receive_here, s) == -ETIMEDOUT)
			;
	pthread_mutex_lock(&l->lock);
	s->readers--;
	pthread_mutex_unlock(&l->lock);
	return taken;
}

/* Sleep until the host is asked something, and take it: 1, or 0 after the timeout or `notify_stop_asking`. One caller. */
SHARED int notify_next_question(notify_listener *l, struct notify_question *out, int timeout_ms)
{
	struct pollfd p = {.fd = l->ask, .events = POLLIN};
	uint64_t ignored;

	if (l->forked)
		return 0;
	uint32_t tail = l->question_tail;
	if (tail == __atomic_load_n(&l->question_head, __ATOMIC_ACQUIRE)) {
		if (poll(&p, 1, timeout_ms) > 0 && read(l->ask, &ignored, sizeof ignored) < 0)
			return 0;
		if (tail == __atomic_load_n(&l->question_head, __ATOMIC_ACQUIRE))
			return 0;
	}
	*out = l->questions[tail % NOTIFY_QUESTION_RING];
	__atomic_store_n(&l->question_tail, tail + 1, __ATOMIC_RELEASE);
	return 1;
}

SHARED void notify_stop_asking(notify_listener *l)
{
	notify_interrupt(l, l->ask);
}
