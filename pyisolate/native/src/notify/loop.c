/* The loop thread. One notification of one sandbox per event, events in turn: a sandbox that asks
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

	if (notify_wait_for_drain(l, s) || notify_wait_for_closers(l, s))
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
		notify_drop_looked_at(l, s);
		epoll_ctl(l->epoll, EPOLL_CTL_DEL, s->fd, NULL);
		notify_drop_waits(l, s);
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

/* What no injector has begun. */
static void notify_drop_jobs(notify_listener *l)
{
	while (l->jobs) {
		struct notify_job *job = l->jobs;
		l->jobs = job->next;
		if (job->domain == NOTIFY_JOB_FILE)
			notify_close_later(l, job->sandbox, job->protocol);
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
			notify_close_later(l, NULL, l->answered->fd);
		notify_say(l->answered->heard, 0);
		notify_free(l->answered);
		l->answered = next;
	}
}

/* Have all closed that is kept for guests. */
static void notify_drop_all(notify_listener *l)
{
	pthread_mutex_lock(&l->lock);
	notify_drop_answers(l);
	for (int i = 0; i < l->next_slot; i++)
		if (l->slots[i])
			notify_drop_kept(l, l->slots[i]);
	for (struct notify_sandbox *s = l->dead; s; s = s->next_dead)
		notify_drop_kept(l, s);
	pthread_mutex_unlock(&l->lock);
}

/* The loop is over: first no call may wait any more, then, when no injector uses it, all is closed that is open here. */
static void notify_end_loop(notify_listener *l)
{
	__atomic_store_n(&l->running, 0, __ATOMIC_RELEASE);
	notify_end_orders(l);
	if (!__atomic_load_n(&l->stopping, __ATOMIC_ACQUIRE))
		notify_fail_closed(l);
	pthread_mutex_lock(&l->job_lock);
	__atomic_store_n(&l->ending, 1, __ATOMIC_RELEASE);
	pthread_mutex_unlock(&l->job_lock);
	notify_drop_jobs(l);
	notify_drop_all(l);
	int alone = notify_end_injectors(l);
	pthread_mutex_lock(&l->lock);
	for (int i = 0; i < l->next_slot; i++)
		if (l->slots[i])
			notify_close_listener(l->slots[i]);
	for (struct notify_sandbox *s = l->dead; s; s = s->next_dead)
		notify_close_listener(s);
	pthread_mutex_unlock(&l->lock);
	notify_leave_table(l, alone);
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
		notify_leave_table(l, 1);
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
