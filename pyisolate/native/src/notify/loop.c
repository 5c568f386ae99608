/* The loop thread and the injectors. One notification of one sandbox per event, events in turn: a sandbox that asks
 * without pause delays others by its own one turn. */
#include "loop.h"

/* A cell whose file calls are recorded waits, in the kernel, while its ring is full: each record may be the only one of a
 * refusal. It is its own drain that it waits for; other sandboxes go on. Not a thread of the host: it could hold the
 * interpreter's lock, which the drain needs. */
static int notify_is_full(notify_listener *l, struct notify_sandbox *s)
{
	if (!notify_ring_full(s->ring))
		return 0;
	pthread_mutex_lock(&l->lock);
	int cell = s->policy && (s->policy->flags & (NOTIFY_CELL | NOTIFY_FULL)) == (NOTIFY_CELL | NOTIFY_FULL);
	pthread_mutex_unlock(&l->lock);
	return cell;
}

/* Stop receiving until the drain says otherwise (notify_pop): 1 where that is so. */
static int notify_wait_for_drain(notify_listener *l, struct notify_sandbox *s)
{
	struct epoll_event event = {.events = 0, .data.ptr = s};

	if (!notify_is_full(l, s))
		return 0;
	epoll_ctl(l->epoll, EPOLL_CTL_MOD, s->fd, &event);
	__atomic_store_n(&s->brims, 1, __ATOMIC_SEQ_CST);
	if (notify_is_full(l, s)) /* a drain that made room before it saw the mark has armed nothing */
		return 1;
	if (__atomic_exchange_n(&s->brims, 0, __ATOMIC_SEQ_CST))
		notify_receive_again(l, s);
	return 1;
}

static void notify_take_one(notify_listener *l, struct notify_sandbox *s, struct seccomp_notif *n)
{
	struct notify_call c = {.l = l, .sandbox = s};

	if (notify_wait_for_drain(l, s))
		return;
	if (!s->tuned) { /* stay on the guest's processor for the answer: a third of the latency. Unknown before 6.6 */
		ioctl(s->fd, SECCOMP_IOCTL_NOTIF_SET_FLAGS, NOTIFY_SYNC_WAKE_UP, 0);
		s->tuned = 1;
	}
	memset(n, 0, l->notif_bytes);
	if (ioctl(s->fd, SECCOMP_IOCTL_NOTIF_RECV, n))
		return; /* ENOENT: interrupted before we came */
	c.id = n->id;
	c.tid = (int)n->pid;
	c.nr = n->data.nr;
	memcpy(c.args, n->data.args, sizeof c.args);
	pthread_mutex_lock(&l->lock);
	c.policy = notify_policy_hold(s->policy);
	pthread_mutex_unlock(&l->lock);
	if (n->data.arch != NOTIFY_AUDIT_ARCH) {
		c.nr = NOTIFY_FOREIGN | (n->data.nr & 0xffff);
		if (c.policy)
			notify_by_capability(&c, PYI_KERNEL_SYSCALL, 0);
		else
			notify_result(&c, -ENOSYS);
	} else {
		notify_consult(&c);
		notify_decide(&c);
	}
	notify_policy_drop(c.policy);
	if (s->waiting_count >= NOTIFY_WAITING_MAX && !s->paused) {
		struct epoll_event event = {.events = 0, .data.ptr = s};
		s->paused = 1;
		epoll_ctl(l->epoll, EPOLL_CTL_MOD, s->fd, &event);
	}
}

/* No task is left: what waits is dropped, but for questions, which are recorded when the host has answered. */
static void notify_drop_waits(notify_listener *l, struct notify_sandbox *s)
{
	struct notify_wait *w, *next;

	for (w = s->waits; w; w = next) {
		next = w->next;
		if (w->step == NOTIFY_STEP_ASK)
			w->gone = 1;
		else
			notify_wait_end(l, w);
	}
	while (s->flights)
		notify_flight_end(l, s->flights);
}

static void notify_drop_kept(notify_listener *l, struct notify_sandbox *s)
{
	while (s->waits)
		notify_wait_end(l, s->waits);
	while (s->flights)
		notify_flight_end(l, s->flights);
}

static void notify_drop_looked_at(struct notify_sandbox *s)
{
	notify_drop_held(&s->root_tid, s->root);
	notify_drop_held(&s->thread_tid, s->thread);
}

static void notify_on_sandbox(notify_listener *l, struct notify_sandbox *s, uint32_t events, struct seccomp_notif *n)
{
	pthread_mutex_lock(&l->lock);
	int stopped = s->stopped;
	pthread_mutex_unlock(&l->lock);
	if (stopped) {
		epoll_ctl(l->epoll, EPOLL_CTL_DEL, s->fd, NULL);
		return;
	}
	if (events & EPOLLIN) {
		notify_take_one(l, s, n);
		notify_had_turn(l, s);
	} else if (events & (EPOLLHUP | EPOLLERR)) {
		s->hung_up = 1; /* every task under the filter is gone */
		notify_drop_looked_at(s);
		epoll_ctl(l->epoll, EPOLL_CTL_DEL, s->fd, NULL);
		notify_drop_waits(l, s);
	}
}

/* Close all that is open for it. */
static void notify_close_files(notify_listener *l, struct notify_sandbox *s)
{
	notify_drop_kept(l, s);
	notify_close_own(s);
	notify_drop_looked_at(s);
	if (s->fd >= 0)
		close(s->fd); /* out of epoll, too: no other descriptor of it is open */
	s->fd = -1;
}

static void notify_free_sandbox(notify_listener *l, struct notify_sandbox *s)
{
	notify_close_files(l, s);
	notify_rest_end(l, s);
	notify_policy_drop(s->policy);
	notify_asked_free(s->asked);
	notify_ring_free(s->ring);
	account_drop(s->account);
	notify_free(s);
}

/* Between batches no event points at anything that was given up. */
SHARED void notify_bury(notify_listener *l)
{
	struct notify_sandbox *s, *kept = NULL, *ready = NULL;

	pthread_mutex_lock(&l->lock);
	for (s = l->dead; s;) {
		struct notify_sandbox *next = s->next_dead;
		int busy = s->readers || __atomic_load_n(&s->jobs, __ATOMIC_ACQUIRE);
		s->next_dead = busy ? kept : ready;
		*(busy ? &kept : &ready) = s;
		s = next;
	}
	l->dead = kept;
	pthread_mutex_unlock(&l->lock);
	while ((s = ready)) {
		ready = s->next_dead;
		notify_free_sandbox(l, s);
	}
	while (l->dead_waits) {
		struct notify_wait *w = l->dead_waits;
		l->dead_waits = w->next_dead;
		notify_free(w->payload);
		notify_free(w);
	}
	while (l->dead_flights) {
		struct notify_flight *f = l->dead_flights;
		l->dead_flights = f->next;
		notify_free(f);
	}
}

/* Calls of cells must fail (ENOSYS, a closed listener) and not wait for ever. */
static void notify_fail_closed(notify_listener *l)
{
	pthread_mutex_lock(&l->lock);
	for (int i = 0; i < l->next_slot; i++)
		if (l->slots[i] && l->slots[i]->fd >= 0) {
			close(l->slots[i]->fd);
			l->slots[i]->fd = -1;
		}
	pthread_mutex_unlock(&l->lock);
}

/* Every tick: who gave up (killed, signalled, timed out)? A bounded number a turn. */
static void notify_tick(notify_listener *l)
{
	uint64_t now = notify_now();

	if (!l->tick_cursor)
		l->tick_cursor = l->waits;
	for (int i = 0; i < 64 && l->tick_cursor; i++) {
		struct notify_wait *w = l->tick_cursor;
		uint64_t id = w->id;
		l->tick_cursor = w->next_all;
		if (w->step == NOTIFY_STEP_ASK)
			notify_tick_question(l, w, now);
		else if (ioctl(w->sandbox->fd, SECCOMP_IOCTL_NOTIF_ID_VALID, &id))
			notify_wait_end(l, w);
		else if (w->deadline_ns && now >= w->deadline_ns)
			notify_wait_finish(l, w, w->step == NOTIFY_STEP_CONNECT ? -EINPROGRESS : -EAGAIN);
		else if (notify_interrupted(w->tid))
			notify_wait_finish(l, w, w->deadline_ns ? -EINTR : -NOTIFY_RESTART);
		else if (w->on_tick)
			notify_wait_step(l, w);
	}
}

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
	int error =
		l->injectors < NOTIFY_INJECTORS ? pthread_create(&thread, &notify_small, notify_injector, l) : EAGAIN;
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

/* What no injector has begun. */
static void notify_drop_jobs(notify_listener *l)
{
	while (l->jobs) {
		struct notify_job *job = l->jobs;
		l->jobs = job->next;
		if (job->domain == NOTIFY_JOB_FILE)
			close(job->protocol);
		notify_say(job->heard, 0);
		__atomic_sub_fetch(&job->sandbox->jobs, 1, __ATOMIC_ACQ_REL);
		notify_free(job);
	}
}

static void notify_drop_answers(notify_listener *l)
{
	while (l->answered) {
		struct notify_answered *next = l->answered->next;
		if (l->answered->fd >= 0)
			close(l->answered->fd);
		notify_say(l->answered->heard, 0);
		notify_free(l->answered);
		l->answered = next;
	}
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

static void notify_do_job(const struct notify_job *job)
{
	uint64_t began_ns = notify_used();

	if (job->domain == NOTIFY_JOB_FILE)
		notify_say(job->heard, notify_give_file(job));
	else if (job->domain == NOTIFY_JOB_OWN)
		notify_inject_own(job);
	else
		notify_inject(job);
	uint64_t took_ns = notify_used() - began_ns;
	__atomic_add_fetch(&job->sandbox->spent_ns, took_ns, __ATOMIC_RELAXED);
	__atomic_add_fetch(&job->sandbox->injected_ns, took_ns, __ATOMIC_RELAXED);
	account_spend(job->sandbox->account, took_ns, 0);
}

/* One of several: while some wait for a guest each, one more is ready. Two that are idle are enough. */
SHARED void *notify_injector(void *argument)
{
	notify_listener *l = argument;

	pthread_mutex_lock(&l->job_lock);
	while (!__atomic_load_n(&l->stopping, __ATOMIC_ACQUIRE) && l->idle < 2) {
		struct notify_job *job = notify_next_job(l);
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
		notify_do_job(job);
		notify_drop_job(l, job);
		pthread_mutex_lock(&l->job_lock);
		s->injecting = 0;
		__atomic_sub_fetch(&s->jobs, 1, __ATOMIC_ACQ_REL);
	}
	l->injectors--;
	pthread_cond_broadcast(&l->job_ready);
	pthread_mutex_unlock(&l->job_lock);
	return NULL;
}

/* The loop is over: first no call may wait any more, then, when no injector uses it, all is closed that is open here. */
static void notify_end_loop(notify_listener *l)
{
	__atomic_store_n(&l->running, 0, __ATOMIC_RELEASE);
	notify_end_orders(l);
	if (!__atomic_load_n(&l->stopping, __ATOMIC_ACQUIRE))
		notify_fail_closed(l);
	pthread_mutex_lock(&l->job_lock);
	pthread_cond_broadcast(&l->job_ready);
	while (l->injectors)
		pthread_cond_wait(&l->job_ready, &l->job_lock);
	pthread_mutex_unlock(&l->job_lock);
	notify_drop_jobs(l);
	pthread_mutex_lock(&l->lock);
	notify_drop_answers(l);
	for (int i = 0; i < l->next_slot; i++)
		if (l->slots[i])
			notify_close_files(l, l->slots[i]);
	for (struct notify_sandbox *s = l->dead; s; s = s->next_dead)
		notify_close_files(l, s);
	pthread_mutex_unlock(&l->lock);
	notify_leave_table(l);
}

/* The loop's own table, and its first injector: 0 or -errno. */
static int notify_begin_loop(notify_listener *l)
{
	int error = notify_own_table(l);

	pthread_mutex_lock(&l->job_lock);
	if (!error)
		error = -notify_add_injector(l);
	pthread_mutex_unlock(&l->job_lock);
	pthread_mutex_lock(&l->lock);
	l->begun = error ? error : 1;
	pthread_cond_broadcast(&l->order_done);
	pthread_mutex_unlock(&l->lock);
	return error;
}

SHARED void *notify_loop(void *argument)
{
	notify_listener *l = argument;
	struct seccomp_notif *n = notify_alloc(1, l->notif_bytes);
	struct epoll_event events[64];
	uint64_t last_tick = 0, ignored;

	if (notify_begin_loop(l)) {
		notify_leave_table(l);
		notify_free(n);
		return NULL;
	}
	while (n && !__atomic_load_n(&l->stopping, __ATOMIC_ACQUIRE)) {
		int rest = notify_end_rests(l), tick = l->waits || l->dead ? NOTIFY_TICK_MS : -1;
		int count = epoll_wait(l->epoll, events, 64, rest >= 0 && (tick < 0 || rest < tick) ? rest : tick);
		if (count < 0 && errno != EINTR)
			break;
		for (int i = 0; i < count; i++) {
			struct notify_source *source = events[i].data.ptr;
			if (source->kind == NOTIFY_SOURCE_SANDBOX) {
				notify_on_sandbox(l, (struct notify_sandbox *)source, events[i].events, n);
			} else if (source->kind == NOTIFY_SOURCE_WAIT) {
				if (!((struct notify_wait *)source)->dead)
					notify_wait_step(l, (struct notify_wait *)source);
			} else if (source->kind == NOTIFY_SOURCE_FLIGHT) {
				if (!((struct notify_flight *)source)->dead)
					notify_flight_settle(l, (struct notify_flight *)source);
			} else if (read(l->own_wake, &ignored, sizeof ignored) < 0) {
				continue; /* another wake-up was read with it */
			}
		}
		if (l->waits && notify_now() - last_tick >= NOTIFY_TICK_MS * 1000000u) {
			last_tick = notify_now();
			notify_tick(l);
		}
		if (__atomic_load_n(&l->orders, __ATOMIC_ACQUIRE))
			notify_do_orders(l);
		if (__atomic_load_n(&l->answered, __ATOMIC_ACQUIRE))
			notify_take_answers(l);
		if (l->dead || l->dead_waits || l->dead_flights)
			notify_bury(l);
	}
	notify_free(n);
	notify_end_loop(l);
	return NULL;
}
