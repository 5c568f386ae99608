/* What the host hands over: listeners, workspaces, answers with a file. The loop takes it into its own table while the host's
 * thread waits, which then closes the host's descriptor (table.c). */
#include "loop.h"

struct notify_adding {
	struct notify_sandbox *sandbox;
	int fd; /* the host's */
};

static int notify_add_here(notify_listener *l, void *with)
{
	const struct notify_adding *adding = with;
	struct notify_sandbox *s = adding->sandbox;
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = s};
	int slot, result = 0;

	s->fd = notify_from_host(l, adding->fd);
	if (s->fd < 0)
		return s->fd;
	pthread_mutex_lock(&l->lock);
	for (slot = 0; slot < NOTIFY_SLOTS && l->slots[slot]; slot++)
		;
	if (slot == NOTIFY_SLOTS || *notify_find(l, s->key))
		result = slot == NOTIFY_SLOTS ? -ENOSPC : -EEXIST;
	else if (epoll_ctl(l->epoll, EPOLL_CTL_ADD, s->fd, &event))
		result = -errno;
	if (!result) {
		s->slot = slot;
		l->slots[slot] = s;
		if (slot >= l->next_slot)
			l->next_slot = slot + 1;
		*notify_find(l, s->key) = s;
		__atomic_add_fetch(&l->bound, s->policy != NULL, __ATOMIC_RELAXED);
	}
	pthread_mutex_unlock(&l->lock);
	if (result)
		close(s->fd);
	return result;
}

/* Takes `fd`, also on failure. May be called by the very thread that is under the filter, so nothing in here may be a
 * call that the filter notifies. No `policy` lets everything go on: a warm cell without guest code; no `account`: its own. */
SHARED int notify_add(notify_listener *l, uint64_t key, int fd, notify_policy *policy, struct account *account)
{
	struct notify_sandbox *s = notify_alloc(1, sizeof *s);
	struct notify_adding adding = {s, fd};

	if (!s || l->forked) {
		close(fd);
		notify_free(s);
		return l->forked ? -ESRCH : -ENOMEM;
	}
	s->source.kind = NOTIFY_SOURCE_SANDBOX;
	s->key = key;
	s->own = -1;
	s->policy = notify_policy_hold(policy);
	s->account = account ? account_hold(account) : account_open();
	int result = notify_have_done(l, l->wake, notify_add_here, &adding);
	close(fd);
	if (result) {
		notify_policy_drop(s->policy);
		account_drop(s->account);
		notify_free(s);
	}
	return result;
}

struct notify_binding {
	uint64_t key;
	notify_policy *policy;
	int own; /* the host's, or -1 */
	int shared;
};

/* One pointer swap: there is no instant without a policy. `own` is the loop's. */
static int notify_bind_to(notify_listener *l, const struct notify_binding *to, int own)
{
	notify_policy *old = NULL;

	pthread_mutex_lock(&l->lock);
	struct notify_sandbox *s = *notify_find(l, to->key);
	if (s) {
		old = s->policy;
		s->policy = notify_policy_hold(to->policy);
		notify_take_own(l, s, own, to->shared);
		__atomic_add_fetch(&l->bound, !old && to->policy, __ATOMIC_RELAXED);
	}
	pthread_mutex_unlock(&l->lock);
	notify_policy_drop(old);
	return s ? 0 : -ENOENT;
}

static int notify_bind_here(notify_listener *l, void *with)
{
	const struct notify_binding *to = with;
	int own = notify_from_host(l, to->own);
	int result = own < 0 ? own : notify_bind_to(l, to, own);

	if (own >= 0 && result)
		close(own);
	return result;
}

SHARED int notify_bind(notify_listener *l, uint64_t key, notify_policy *policy, int own, int shared)
{
	struct notify_binding to = {key, policy, own, shared};

	if (l->forked)
		return -ESRCH;
	int result = own < 0 ? notify_bind_to(l, &to, -1) : notify_have_done(l, l->wake, notify_bind_here, &to);
	if (own >= 0 && !result)
		close(own);
	return result;
}

static void notify_put_answer(notify_listener *l, struct notify_answered *a)
{
	pthread_mutex_lock(&l->lock);
	a->next = l->answered;
	__atomic_store_n(&l->answered, a, __ATOMIC_RELEASE);
	pthread_mutex_unlock(&l->lock);
}

static int notify_answer_here(notify_listener *l, void *with)
{
	struct notify_answered *a = with;
	int fd = a->fd < 0 ? -1 : notify_from_host(l, a->fd), heard = a->heard < 0 ? -1 : notify_from_host(l, a->heard);
	int error = a->fd >= 0 && fd < 0 ? fd : a->heard >= 0 && heard < 0 ? heard : 0;

	if (error) {
		if (fd >= 0)
			notify_close_later(l, NULL, fd);
		if (heard >= 0)
			close(heard);
		return error;
	}
	a->fd = fd;
	a->heard = heard;
	notify_put_answer(l, a);
	return 0;
}

/* Answer a question; one whose call was given up is recorded as such. `fd`, of a file that was asked about, and `heard`, a
 * socket that gets one byte (notify_say), are the listener's where this succeeds; -1: none. `error`: of a call that is done. */
SHARED int notify_reply_to(notify_listener *l, uint64_t number, int said, int fd, int heard, int error)
{
	struct notify_answered *a = notify_alloc(1, sizeof *a);
	int result = l->forked ? -ESRCH : 0;

	if (!a)
		return -ENOMEM;
	*a = (struct notify_answered){.number = number, .said = said, .fd = fd, .heard = heard, .error = error};
	if (!result && (fd >= 0 || heard >= 0)) {
		result = notify_have_done(l, l->wake, notify_answer_here, a);
	} else if (!result) {
		notify_put_answer(l, a);
		notify_wake_loop(l->wake);
	}
	if (result) {
		notify_free(a);
		return result;
	}
	if (fd >= 0)
		close(fd);
	if (heard >= 0)
		close(heard);
	return 0;
}
