/* The loop thread and the injector. One notification of one sandbox per event, events in turn: a sandbox that asks
 * without pause delays others by its own one turn. */

static void notify_take_one(notify_listener *l, struct notify_sandbox *s, struct seccomp_notif *n)
{
	struct notify_call c = { .l = l, .sandbox = s };

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
	if (n->data.arch != NOTIFY_AUDIT_ARCH)
		notify_result(&c, -ENOSYS);
	else {
		notify_consult(&c);
		notify_decide(&c);
	}
	notify_policy_drop(c.policy);
	if (s->waiting_count >= NOTIFY_WAITING_MAX && !s->paused) {
		struct epoll_event event = { .events = 0, .data.ptr = s };
		s->paused = 1;
		epoll_ctl(l->epoll, EPOLL_CTL_MOD, s->fd, &event);
	}
}

static void notify_on_sandbox(notify_listener *l, struct notify_sandbox *s, uint32_t events, struct seccomp_notif *n)
{
	pthread_mutex_lock(&l->lock);
	int stopped = s->stopped;
	pthread_mutex_unlock(&l->lock);
	if (stopped)
		return;
	if (events & EPOLLIN) {
		notify_take_one(l, s, n);
	} else if (events & (EPOLLHUP | EPOLLERR)) {
		s->hung_up = 1; /* every task under the filter is gone */
		epoll_ctl(l->epoll, EPOLL_CTL_DEL, s->fd, NULL);
		while (s->waits)
			notify_wait_end(l, s->waits);
	}
}

static void notify_free_sandbox(notify_listener *l, struct notify_sandbox *s)
{
	while (s->waits)
		notify_wait_end(l, s->waits);
	if (s->fd >= 0)
		close(s->fd);
	notify_policy_drop(s->policy);
	notify_asked_free(s->asked);
	notify_free(s->ring);
	notify_free(s);
}

/* Between batches no event points at anything that was given up. */
static void notify_bury(notify_listener *l)
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
}

/* The loop ends though nobody asked it to: calls must fail (ENOSYS, a closed listener) and not wait for ever. */
static void notify_fail_closed(notify_listener *l)
{
	pthread_mutex_lock(&l->lock);
	l->broken = 1;
	for (int i = 0; i < l->next_slot; i++)
		if (l->slots[i] && l->slots[i]->fd >= 0) {
			close(l->slots[i]->fd);
			l->slots[i]->fd = -1;
		}
	pthread_mutex_unlock(&l->lock);
}

static void *notify_loop(void *argument)
{
	notify_listener *l = argument;
	struct seccomp_notif *n = notify_alloc(1, l->notif_bytes);
	struct epoll_event events[64];
	uint64_t last_tick = 0, ignored;

	while (n && !__atomic_load_n(&l->stopping, __ATOMIC_ACQUIRE)) {
		int count = epoll_wait(l->epoll, events, 64, l->waits || l->dead ? NOTIFY_TICK_MS : -1);
		if (count < 0 && errno != EINTR)
			break;
		for (int i = 0; i < count; i++) {
			struct notify_source *source = events[i].data.ptr;
			if (source->kind == NOTIFY_SOURCE_SANDBOX) {
				notify_on_sandbox(l, (struct notify_sandbox *)source, events[i].events, n);
			} else if (source->kind == NOTIFY_SOURCE_WAIT) {
				if (!((struct notify_wait *)source)->dead)
					notify_wait_step(l, (struct notify_wait *)source);
			} else if (read(l->wake, &ignored, sizeof ignored) < 0) {
				continue; /* somebody else's wake-up was read already */
			}
		}
		if (l->waits && notify_now() - last_tick >= NOTIFY_TICK_MS * 1000000u) {
			last_tick = notify_now();
			notify_tick(l);
		}
		if (l->dead || l->dead_waits)
			notify_bury(l);
	}
	notify_free(n);
	__atomic_store_n(&l->running, 0, __ATOMIC_RELEASE);
	if (!__atomic_load_n(&l->stopping, __ATOMIC_ACQUIRE))
		notify_fail_closed(l);
	return NULL;
}

static void *notify_injector(void *argument)
{
	notify_listener *l = argument;

	pthread_mutex_lock(&l->job_lock);
	while (!__atomic_load_n(&l->stopping, __ATOMIC_ACQUIRE)) {
		struct notify_job *job = l->jobs;
		if (!job) {
			pthread_cond_wait(&l->job_ready, &l->job_lock);
			continue;
		}
		l->jobs = job->next;
		pthread_mutex_unlock(&l->job_lock);
		notify_inject_answer(job->sandbox, job->id, job->fd, job->flags);
		__atomic_sub_fetch(&job->sandbox->jobs, 1, __ATOMIC_ACQ_REL);
		notify_free(job);
		pthread_mutex_lock(&l->job_lock);
	}
	pthread_mutex_unlock(&l->job_lock);
	return NULL;
}
