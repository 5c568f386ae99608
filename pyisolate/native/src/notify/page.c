/* What Python asks of one sandbox: its asked page, mapped, read and written, and what it has cost. `lock` is held while the
 * sandbox is looked up. */
#include "loop.h"

/* Where a sandbox of that key is, or would be. `lock` is held. */
SHARED struct notify_sandbox **notify_find(notify_listener *l, uint64_t key)
{
	struct notify_sandbox **at = &l->buckets[key % NOTIFY_BUCKETS];

	while (*at && (*at)->key != key)
		at = &(*at)->next;
	return at;
}

static int notify_give_asked(notify_listener *l, uint64_t key, struct notify_asked *made)
{
	if (!made)
		return -errno;
	pthread_mutex_lock(&l->lock);
	struct notify_sandbox *s = *notify_find(l, key);
	int result = !s ? -ENOENT : s->asked ? -EEXIST : 0;
	if (!result)
		__atomic_store_n(&s->asked, made, __ATOMIC_RELEASE);
	pthread_mutex_unlock(&l->lock);
	if (result)
		notify_asked_free(made);
	return result;
}

SHARED int notify_map_asked(notify_listener *l, uint64_t key, int fd)
{
	return l->forked ? -ESRCH : notify_give_asked(l, key, notify_asked_new(fd));
}

/* `page` is this process's own (audit_own_asked). */
SHARED int notify_lend_asked(notify_listener *l, uint64_t key, uintptr_t page)
{
	return l->forked ? -ESRCH : notify_give_asked(l, key, notify_asked_of_threads((void *)page));
}

/* Tell the guest that its broker's table is not the newest. Returns the number of this reload, 0 without an asked page. */
SHARED uint64_t notify_announce(notify_listener *l, uint64_t key)
{
	uint64_t number = 0;

	if (l->forked)
		return 0;
	pthread_mutex_lock(&l->lock);
	struct notify_sandbox *s = *notify_find(l, key);
	if (s && s->asked && !s->asked->of_threads) {
		number = ++s->asked->announced;
		__atomic_store_n(asked_refusals(s->asked->page) + ASKED_ANNOUNCED, number, __ATOMIC_RELEASE);
	}
	pthread_mutex_unlock(&l->lock);
	return number;
}

/* How many refusals the guest's broker has made (asked.h), into ASKED_REFUSALS numbers. Its own word. */
SHARED int notify_refusals(notify_listener *l, uint64_t key, uint64_t *out)
{
	if (l->forked)
		return -ESRCH;
	pthread_mutex_lock(&l->lock);
	struct notify_sandbox *s = *notify_find(l, key);
	struct notify_asked *asked = s && s->asked && !s->asked->of_threads ? s->asked : NULL;
	for (int i = 0; asked && i < ASKED_REFUSALS; i++)
		out[i] = __atomic_load_n(asked_refusals(asked->page) + i, __ATOMIC_RELAXED);
	pthread_mutex_unlock(&l->lock);
	return asked ? 0 : -ENOENT;
}

/* The processor time that loop and injectors have used for a sandbox; 0 where there is none of that key. */
SHARED uint64_t notify_spent(notify_listener *l, uint64_t key)
{
	uint64_t spent_ns = 0;

	if (l->forked)
		return 0;
	pthread_mutex_lock(&l->lock);
	struct notify_sandbox *s = *notify_find(l, key);
	if (s)
		spent_ns = __atomic_load_n(&s->spent_ns, __ATOMIC_RELAXED);
	pthread_mutex_unlock(&l->lock);
	return spent_ns;
}

/* Charge a sandbox for processor time that other threads have used for its records. */
SHARED void notify_charge(notify_listener *l, uint64_t key, uint64_t spent_ns)
{
	if (l->forked)
		return;
	pthread_mutex_lock(&l->lock);
	const struct notify_sandbox *s = *notify_find(l, key);
	if (s)
		account_spend(s->account, spent_ns, 0);
	pthread_mutex_unlock(&l->lock);
}

struct notify_staged {
	uint64_t key, id;
};

static int notify_stage_here(notify_listener *l, void *with)
{
	struct notify_staged *of = with;
	int stage = NOTIFY_STAGE_GONE;

	pthread_mutex_lock(&l->lock);
	struct notify_sandbox *s = *notify_find(l, of->key);
	if (s && !ioctl(s->fd, SECCOMP_IOCTL_NOTIF_ID_VALID, &of->id))
		stage = NOTIFY_STAGE_WAITS;
	else if (s && __atomic_load_n(&s->went_on, __ATOMIC_SEQ_CST) == of->id)
		stage = NOTIFY_STAGE_WENT_ON; /* looked at second: it is noted before the call goes on */
	pthread_mutex_unlock(&l->lock);
	return stage;
}

/* Where a call is that a question was about (enum notify_stage). Any thread may ask; the loop, which never waits, tells. */
SHARED int notify_stage_of(notify_listener *l, uint64_t key, uint64_t id)
{
	struct notify_staged of = {key, id};
	int stage = l->forked ? -ESRCH : notify_have_done(l, l->wake, notify_stage_here, &of);

	return stage < 0 ? NOTIFY_STAGE_GONE : stage;
}
