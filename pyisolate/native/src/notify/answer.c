/* Answers to a call: a result, an error, or that the kernel goes on with it. */
#include "outcome.h"

/* 0, or -1 where there was no task to answer. */
SHARED int notify_answer(struct notify_sandbox *s, uint64_t id, int64_t value, int error, uint32_t flags)
{
	struct seccomp_notif_resp response = {.id = id, .val = value, .error = error, .flags = flags};

	int sent;
	/* ENOENT: the task died or was interrupted; there is no task to answer. */
	while ((sent = ioctl(s->fd, SECCOMP_IOCTL_NOTIF_SEND, &response)) && errno == EINTR)
		;
	if (sent || error == -EINTR || error == -EAGAIN || error == -NOTIFY_RESTART)
		notify_give_back(s, id);
	return sent;
}

SHARED void notify_result(const struct notify_call *c, int64_t result)
{
	notify_answer(c->sandbox, c->id, result < 0 ? 0 : result, result < 0 ? (int)result : 0, 0);
}

SHARED void notify_continue(const struct notify_call *c)
{
	uint64_t *went_on = &c->sandbox->went_on;

	if (notify_is_stale(c)) { /* what let it through is in force no more */
		notify_result(c, -EINTR);
		return;
	}
	if (c->nr == SYS_execve || c->nr == SYS_execveat)
		__atomic_store_n(went_on, c->id, __ATOMIC_SEQ_CST); /* first (notify_stage_of) */
	if (notify_answer(c->sandbox, c->id, 0, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE) &&
	    __atomic_load_n(went_on, __ATOMIC_SEQ_CST) == c->id)
		__atomic_store_n(went_on, 0, __ATOMIC_SEQ_CST);
}
