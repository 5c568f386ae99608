/* Threads that wait for one guest each, or for a file system that it has a hand in: they put descriptors into its tasks, and
 * close those of its files (leave.c). */
#include "loop.h"

static void *notify_injector(void *argument);

static pthread_attr_t notify_small; /* set once; an injector's stack */
static pthread_once_t notify_small_once = PTHREAD_ONCE_INIT;

static void notify_make_small(void)
{
	pthread_attr_init(&notify_small);
	pthread_attr_setstacksize(&notify_small, NOTIFY_STACK);
	pthread_attr_setdetachstate(&notify_small, PTHREAD_CREATE_DETACHED);
}

/* One more injector; `job_lock` is held. 0 or an error number. Not for the loop: a thread's memory is the C library's. */
SHARED int notify_add_injector(notify_listener *l)
{
	pthread_t thread;

	pthread_once(&notify_small_once, notify_make_small);
	int error = l->injectors - l->followers < NOTIFY_INJECTORS
			    ? pthread_create(&thread, &notify_small, notify_injector, l)
			    : EAGAIN;
	if (!error)
		l->injectors++;
	return error;
}

/* One is kept for the next call: its page takes longer to map and to touch than the socket to make. */
static void notify_drop_job(notify_listener *l, struct notify_job *job)
{
	struct notify_job *none = NULL;

	if (!__atomic_compare_exchange_n(&l->spare_job, &none, job, 0, __ATOMIC_RELEASE, __ATOMIC_RELAXED))
		notify_free(job);
}

/* So many of a sandbox's wait that no call of it is received: 1 where that is so. Who closes them says when it is over. */
SHARED int notify_wait_for_closers(notify_listener *l, struct notify_sandbox *s)
{
	struct epoll_event event = {.events = 0, .data.ptr = s};

	if (__atomic_load_n(&s->leaving.count, __ATOMIC_SEQ_CST) < NOTIFY_LEFT_OF_ONE)
		return 0;
	epoll_ctl(l->epoll, EPOLL_CTL_MOD, s->fd, &event);
	__atomic_store_n(&s->clogged, 1, __ATOMIC_SEQ_CST);
	if (__atomic_load_n(&s->leaving.count, __ATOMIC_SEQ_CST) < NOTIFY_LEFT_OF_ONE &&
	    __atomic_exchange_n(&s->clogged, 0, __ATOMIC_SEQ_CST))
		notify_receive_again(l, s);
	return 1;
}

static int notify_unclog_here(notify_listener *l, void *with)
{
	notify_receive_again(l, with);
	return 0;
}

/* `job_lock` is held, but not while it closes. */
static void notify_close_one(notify_listener *l, struct notify_leaving *of)
{
	int place = of->first;
	struct notify_left what = l->left[place - 1];

	of->first = what.next;
	l->left[place - 1].next = l->left_free;
	l->left_free = place;
	pthread_mutex_unlock(&l->job_lock);
	if (what.fd >= 0)
		close(what.fd);
	else
		notify_answer(of->sandbox, what.id, what.value, what.error, 0);
	__atomic_sub_fetch(&l->left_count, 1, __ATOMIC_RELAXED);
	int left = __atomic_sub_fetch(&of->count, 1, __ATOMIC_SEQ_CST);
	if (of->sandbox && left < NOTIFY_LEFT_OF_ONE && __atomic_exchange_n(&of->sandbox->clogged, 0, __ATOMIC_SEQ_CST))
		while (notify_have_done(l, l->own_wake, notify_unclog_here, of->sandbox) == -ETIMEDOUT)
			;
	pthread_mutex_lock(&l->job_lock);
}

/* Close what waits of the first sandbox that has some: 1, or 0 where none has, or enough threads are at it. `job_lock` is
 * held, but not while it closes. */
static int notify_close_some(notify_listener *l)
{
	struct notify_leaving *of = l->closers < NOTIFY_CLOSERS ? l->to_close : NULL;
	uint64_t began_ns = notify_used();

	if (!of)
		return 0;
	l->to_close = of->next;
	if (!l->to_close)
		l->to_close_end = &l->to_close;
	l->closers++;
	if (!l->idle)
		notify_add_injector(l); /* where it fails, sandboxes wait for each other here */
	while (of->first)
		notify_close_one(l, of);
	of->queued = 0;
	l->closers--;
	if (of->sandbox) {
		uint64_t took_ns = notify_used() - began_ns;
		__atomic_add_fetch(&of->sandbox->spent_ns, took_ns, __ATOMIC_RELAXED);
		__atomic_add_fetch(&of->sandbox->injected_ns, took_ns, __ATOMIC_RELAXED);
		account_spend(of->sandbox->account, took_ns, 0);
		__atomic_sub_fetch(&of->sandbox->jobs, 1, __ATOMIC_ACQ_REL);
	}
	return 1;
}

/* The first job of a sandbox that no injector waits for, or NULL. */
static struct notify_job *notify_next_job(notify_listener *l)
{
	for (struct notify_job **at = &l->jobs; *at; at = &(*at)->next) {
		struct notify_job *job = *at;
		if (job->sandbox->injecting)
			continue;
		*at = job->next;
		return job;
	}
	return NULL;
}

static void notify_do_job(notify_listener *l, const struct notify_job *job)
{
	uint64_t began_ns = notify_used();

	if (job->domain == NOTIFY_JOB_FILE)
		notify_say(job->heard, notify_give_file(l, job));
	else if (job->domain == NOTIFY_JOB_OWN)
		notify_inject_own(l, job);
	else
		notify_inject(job);
	uint64_t took_ns = notify_used() - began_ns;
	__atomic_add_fetch(&job->sandbox->spent_ns, took_ns, __ATOMIC_RELAXED);
	__atomic_add_fetch(&job->sandbox->injected_ns, took_ns, __ATOMIC_RELAXED);
	account_spend(job->sandbox->account, took_ns, 0);
}

/* The first job that can be done, or NULL; none once the loop ends, but that closes what guests left. */
static struct notify_job *notify_take_job(notify_listener *l)
{
	return __atomic_load_n(&l->ending, __ATOMIC_ACQUIRE) ? NULL : notify_next_job(l);
}

/* The last one frees all, where the host has left it to that. Nothing of the listener is touched from here on. */
SHARED void notify_leave_injectors(notify_listener *l, int followers)
{
	pthread_mutex_lock(&l->job_lock);
	l->followers -= followers;
	l->injectors--;
	int last = !l->injectors && l->abandoned;
	pthread_cond_broadcast(&l->job_ready);
	pthread_mutex_unlock(&l->job_lock);
	if (last)
		notify_free_all(l);
}

/* One of several: while some wait for a guest each, or for a file system, one more is ready. Two that are idle are enough. */
static void *notify_injector(void *argument)
{
	notify_listener *l = argument;

	pthread_mutex_lock(&l->job_lock);
	while (l->idle < 2) {
		struct notify_job *job = notify_take_job(l);
		if (!job && notify_close_some(l))
			continue;
		if (!job && __atomic_load_n(&l->ending, __ATOMIC_ACQUIRE))
			break;
		if (!job) {
			l->idle++;
			pthread_cond_wait(&l->job_ready, &l->job_lock);
			l->idle--;
			continue;
		}
		struct notify_sandbox *s = job->sandbox;
		s->injecting = 1;
		if (!l->idle)
			notify_add_injector(l); /* where it fails, sandboxes wait for each other here */
		pthread_mutex_unlock(&l->job_lock);
		notify_do_job(l, job);
		notify_drop_job(l, job);
		pthread_mutex_lock(&l->job_lock);
		s->injecting = 0;
		__atomic_sub_fetch(&s->jobs, 1, __ATOMIC_ACQ_REL);
	}
	pthread_mutex_unlock(&l->job_lock);
	notify_leave_injectors(l, 0);
	return NULL;
}

/* One more thread that may lead the loop; `job_lock` is held. 0 or an error number. Not for who leads, as an injector. */
SHARED int notify_add_follower(notify_listener *l)
{
	pthread_t thread;

	pthread_once(&notify_small_once, notify_make_small);
	int error = l->followers < NOTIFY_FOLLOWERS ? pthread_create(&thread, &notify_small, l->follow, l) : EAGAIN;
	if (!error) {
		l->followers++;
		l->injectors++;
	}
	return error;
}

/* Wait for all other threads, but for those that close, or are stranded: for these so long as that takes where no file system hangs
 * and no guest holds a lock for long. 1 where none is left. */
SHARED int notify_end_injectors(notify_listener *l)
{
	uint64_t end_ns = notify_now() + NOTIFY_CLOSE_NS;
	struct timespec end = {(time_t)(end_ns / 1000000000U), (long)(end_ns % 1000000000U)};
	int late = 0;

	pthread_mutex_lock(&l->job_lock);
	pthread_cond_broadcast(&l->job_ready);
	while (l->injectors > 1 + (late ? l->closers + __atomic_load_n(&l->stranded, __ATOMIC_ACQUIRE) : 0))
		if (late)
			pthread_cond_wait(&l->job_ready, &l->job_lock);
		else
			late = pthread_cond_timedwait(&l->job_ready, &l->job_lock, &end) == ETIMEDOUT;
	int alone = l->injectors == 1;
	pthread_mutex_unlock(&l->job_lock);
	return alone;
}
