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

static void notify_take_one(notify_listener *l, struct notify_sandbox *s)
{
	struct seccomp_notif *n = l->desk->received;
	struct notify_call c = {.l = l, .sandbox = s, .desk = l->desk};

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
	l->desk->policy = c.policy;
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

static void notify_on_sandbox(notify_listener *l, struct notify_sandbox *s, uint32_t events)
{
	pthread_mutex_lock(&l->lock);
	int stopped = s->stopped;
	pthread_mutex_unlock(&l->lock);
	if (stopped) {
		epoll_ctl(l->epoll, EPOLL_CTL_DEL, s->fd, NULL);
		return;
	}
	if (events & EPOLLIN) {
		notify_take_one(l, s);
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
		if (l->slots[i] && !l->slots[i]->stranded)
			notify_close_listener(l, l->slots[i]);
	pthread_mutex_unlock(&l->lock);
}

static void notify_tick_wait(notify_listener *l, struct notify_wait *w, uint64_t now)
{
	uint64_t id = w->id;

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

/* Every tick: who gave up (killed, signalled, timed out)? A bounded number a turn. */
static void notify_tick(notify_listener *l)
{
	uint64_t now = notify_now();

	if (!l->tick_cursor)
		l->tick_cursor = l->waits;
	for (int i = 0; i < 64 && l->tick_cursor; i++) {
		struct notify_wait *w = l->tick_cursor;
		l->tick_cursor = w->next_all;
		if (w->sandbox->stranded)
			continue;
		notify_take_up(l, w->sandbox);
		notify_tick_wait(l, w, now);
		if (notify_put_down(l))
			return;
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
		if (l->slots[i] && !l->slots[i]->stranded)
			notify_drop_kept(l, l->slots[i]);
	for (struct notify_sandbox *s = l->dead; s; s = s->next_dead)
		if (!s->stranded)
			notify_drop_kept(l, s);
	pthread_mutex_unlock(&l->lock);
}

/* Once the loop has ended: close what is open for sandboxes, but for those that a thread is stranded in. That one does the same when
 * it is back, so that their calls fail then. */
static void notify_close_all(notify_listener *l)
{
	notify_drop_all(l);
	pthread_mutex_lock(&l->lock);
	for (int i = 0; i < l->next_slot; i++)
		if (l->slots[i] && !l->slots[i]->stranded)
			notify_close_listener(l, l->slots[i]);
	for (struct notify_sandbox *s = l->dead; s; s = s->next_dead)
		if (!s->stranded)
			notify_close_listener(l, s);
	pthread_mutex_unlock(&l->lock);
}

/* The loop is over: first no call may wait any more, then, when no injector uses it, all is closed that is open here. The turn is
 * given away while other threads end. */
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
	l->armed = 0;
	notify_arm(l, 1); /* the watching thread ends, and the spare one */
	pthread_cond_broadcast(&l->lead_ready);
	pthread_mutex_unlock(&l->turn);
	int alone = notify_end_injectors(l);
	pthread_mutex_lock(&l->turn);
	notify_close_all(l);
	notify_leave_table(l, alone);
	pthread_mutex_lock(&l->job_lock);
	l->over = 1;
	l->joins = !l->first_stranded;
	pthread_cond_broadcast(&l->job_ready);
	pthread_mutex_unlock(&l->job_lock);
}

static void notify_on_source(notify_listener *l, struct notify_source *source, uint32_t events)
{
	uint64_t ignored;

	if (source->kind == NOTIFY_SOURCE_SANDBOX) {
		struct notify_sandbox *s = (struct notify_sandbox *)source;
		if (s->stranded)
			return;
		notify_take_up(l, s);
		notify_on_sandbox(l, s, events);
		notify_put_down(l);
	} else if (source->kind == NOTIFY_SOURCE_WAIT) {
		struct notify_wait *w = (struct notify_wait *)source;
		if (w->dead)
			return;
		if (w->sandbox->stranded) {
			notify_unwatch(l, w);
			return;
		}
		notify_take_up(l, w->sandbox);
		notify_wait_step(l, w);
		notify_put_down(l);
	} else if (source->kind == NOTIFY_SOURCE_FLIGHT) {
		struct notify_flight *f = (struct notify_flight *)source;
		if (!f->dead && !f->sandbox->stranded)
			notify_flight_settle(l, f);
	} else if (read(l->own_wake, &ignored, sizeof ignored) < 0) {
		return; /* another wake-up was read with it */
	}
}

/* The batch is over: what else there is to do, as long as this thread leads. Nothing of it is lost where another one goes on. */
static void notify_between_batches(notify_listener *l, const struct notify_desk *desk)
{
	if (l->waits && notify_now() - l->last_tick_ns >= NOTIFY_TICK_MS * 1000000u) {
		l->last_tick_ns = notify_now();
		notify_tick(l);
	}
	if (l->leader == desk && __atomic_load_n(&l->orders, __ATOMIC_ACQUIRE))
		notify_do_orders(l);
	if (l->leader == desk && __atomic_load_n(&l->answered, __ATOMIC_ACQUIRE))
		notify_take_answers(l);
	if (l->leader == desk && (l->dead || l->dead_waits || l->dead_flights))
		notify_bury(l);
}

/* Lead, until the listener stops or another thread leads. */
static void notify_serve(notify_listener *l, struct notify_desk *desk)
{
	while (l->leader == desk && !__atomic_load_n(&l->stopping, __ATOMIC_ACQUIRE)) {
		if (l->event_at < l->event_count) {
			struct epoll_event *event = &l->events[l->event_at++];
			notify_on_source(l, event->data.ptr, event->events);
			continue;
		}
		notify_between_batches(l, desk);
		if (l->leader != desk)
			return;
		int rest = notify_end_rests(l), tick = l->waits || l->dead ? NOTIFY_TICK_MS : -1;
		pthread_mutex_unlock(&l->turn); /* no thread takes the lead: this is no step aside */
		int count = epoll_wait(l->epoll, l->events, NOTIFY_BATCH,
				       rest >= 0 && (tick < 0 || rest < tick) ? rest : tick);
		pthread_mutex_lock(&l->turn);
		l->desk = desk;
		if (count < 0 && errno != EINTR)
			return;
		l->event_at = 0;
		l->event_count = count < 0 ? 0 : count;
		notify_arm(l, NOTIFY_LEAD_NS);
	}
}

/* Lead, watch or be spare, as long as the thread is needed. It has the turn. */
static void notify_take_part(notify_listener *l, struct notify_desk *desk)
{
	while (!notify_ends(l)) {
		l->desk = desk;
		if (l->leader == desk) {
			notify_serve(l, desk);
			if (l->leader == desk)
				notify_end_loop(l);
		} else if (!l->watched) {
			l->watched = 1;
			if (!l->spare)
				notify_make_spare(l);
			notify_watch_leader(l, desk);
			l->watched = 0;
			pthread_cond_signal(&l->lead_ready);
		} else if (!l->spare) {
			l->spare = 1;
			pthread_cond_wait(&l->lead_ready, &l->turn);
			l->spare = 0;
		} else {
			return;
		}
	}
}

static void notify_follow(notify_listener *l)
{
	struct notify_desk *desk;

	if (notify_hold_desk(l, &desk))
		return;
	pthread_mutex_lock(&l->turn);
	notify_take_part(l, desk);
	if (notify_ends(l))
		notify_close_all(l);
	pthread_mutex_unlock(&l->turn);
	notify_free_desk(desk);
}

static void *notify_follower(void *argument)
{
	notify_follow(argument);
	notify_leave_injectors(argument, 1);
	return NULL;
}

/* The loop's own table, its first injector, and the first thread that follows: 0 or -errno. */
static int notify_begin_loop(notify_listener *l, struct notify_desk **desk)
{
	int error = notify_own_table(l);

	l->follow = notify_follower;
	if (!error)
		error = notify_hold_desk(l, desk);

	pthread_mutex_lock(&l->job_lock);
	l->injectors++; /* this thread, which is the first to lead */
	l->followers++;
	if (!error)
		error = -notify_add_injector(l);
	if (!error)
		error = -notify_add_follower(l);
	if (error)
		__atomic_store_n(&l->ending, 1, __ATOMIC_RELEASE);
	pthread_mutex_unlock(&l->job_lock);
	if (error)
		notify_end_injectors(l);
	pthread_mutex_lock(&l->lock);
	l->begun = error ? error : 1;
	pthread_cond_broadcast(&l->order_done);
	pthread_mutex_unlock(&l->lock);
	return error;
}

/* The thread that the host starts, and the first to lead. */
SHARED void *notify_loop(void *argument)
{
	notify_listener *l = argument;
	struct notify_desk *desk = NULL;

	if (notify_begin_loop(l, &desk)) {
		notify_leave_table(l, 1);
	} else {
		pthread_mutex_lock(&l->turn);
		desk->first = 1;
		l->leader = l->desk = desk;
		notify_take_part(l, desk);
		if (__atomic_load_n(&l->ending, __ATOMIC_ACQUIRE))
			notify_close_all(l);
		pthread_mutex_unlock(&l->turn);
	}
	if (desk)
		notify_free_desk(desk);
	notify_leave_injectors(l, 1);
	return NULL;
}
