/* Calls that wait for the host's answer. What was asked about is what is used: the supervisor's copy of the address, judged
 * once more by the policy of then. The guest that asks waits in the kernel; nothing else does. */
#include "parts.h"

static int notify_push_question(notify_listener *l, const struct notify_wait *w)
{
	uint32_t tail = __atomic_load_n(&l->question_tail, __ATOMIC_ACQUIRE);
	uint64_t one = 1;

	if (l->question_head - tail >= NOTIFY_QUESTION_RING)
		return 0;
	struct notify_question *q = &l->questions[l->question_head % NOTIFY_QUESTION_RING];
	*q = (struct notify_question){
		.key = w->sandbox->key,
		.number = w->call.question,
		.scope = w->message.to.scope,
		.pid = notify_pid(w->sandbox, w->tid),
		.tid = w->tid,
		.capability = PYI_NET_CONNECT,
		.family = (uint16_t)w->message.to.family,
		.port = w->message.to.port,
	};
	memcpy(q->address, w->message.to.address, sizeof q->address);
	__atomic_store_n(&l->question_head, l->question_head + 1, __ATOMIC_RELEASE);
	if (write(l->ask, &one, sizeof one) < 0)
		return 1; /* full: readable anyway */
	return 1;
}

/* Ask about a connection that no rule speaks of: 1 where the call waits now, which takes `fd`; 0 where it is refused as
 * ever. A rule that denies is never asked about. */
SHARED int notify_ask(const struct notify_call *c, int fd, const struct notify_endpoint *to,
		      const struct notify_decision *d)
{
	struct notify_wait w = {.step = NOTIFY_STEP_ASK, .message.to = *to, .refusal = *d, .since_ns = notify_now()};

	if (d->allow || d->reason == NOTIFY_EXPLICIT_DENY || !(c->policy->flags & NOTIFY_ASK_CONNECT) ||
	    c->policy->flags & NOTIFY_MONITOR_NET)
		return 0;
	w.call = *c;
	w.call.question = c->l->last_question + 1;
	if (c->sandbox->questions < NOTIFY_QUESTIONS && !notify_park(c, fd, &w)) {
		c->l->last_question++;
		struct notify_wait *parked = c->sandbox->waits;
		notify_policy_hold(parked->call.policy);
		c->sandbox->questions++;
		if (!notify_push_question(c->l, parked))
			notify_refuse_question(c->l, parked, NOTIFY_REPLY_FULL);
		return 1;
	}
	w.call.question = 0; /* equal refusals are one record */
	w.call.reply = NOTIFY_REPLY_FULL;
	notify_refuse(&w.call, PYI_NET_CONNECT, EACCES, d, to);
	close(fd);
	return 1;
}

/* The policy may have been replaced since: a rule that denies now is not overruled. */
static void notify_grant_question(notify_listener *l, struct notify_wait *w)
{
	const struct notify_endpoint *to = &w->message.to;

	pthread_mutex_lock(&l->lock);
	notify_policy *now = notify_policy_hold(w->sandbox->policy);
	pthread_mutex_unlock(&l->lock);
	struct notify_decision d = notify_judge(now, NOTIFY_CONNECT, to->family, to->address, to->port, 0);
	notify_policy_drop(now);
	if (d.reason == NOTIFY_EXPLICIT_DENY) {
		w->refusal = d;
		notify_refuse_question(l, w, NOTIFY_REPLY_NO);
		return;
	}
	notify_settle_question(w, NOTIFY_REPLY_YES, NOTIFY_WOULD_DENY, 0);
	int result = notify_wait_connect(l, w);
	if (result != -EINPROGRESS)
		notify_wait_finish(l, w, result);
}

static void notify_answer_question(notify_listener *l, const struct notify_answered *a)
{
	struct notify_wait *w = l->waits;
	uint64_t id;

	while (w && !(w->step == NOTIFY_STEP_ASK && w->call.question == a->number))
		w = w->next_all;
	if (!w)
		return; /* its task has gone */
	id = w->id;
	if (ioctl(w->sandbox->fd, SECCOMP_IOCTL_NOTIF_ID_VALID, &id))
		notify_wait_end(l, w);
	else if (a->yes)
		notify_grant_question(l, w);
	else
		notify_refuse_question(l, w, NOTIFY_REPLY_NO);
}

SHARED void notify_take_answers(notify_listener *l)
{
	pthread_mutex_lock(&l->lock);
	struct notify_answered *a = l->answered;
	l->answered = NULL;
	pthread_mutex_unlock(&l->lock);
	while (a) {
		struct notify_answered *next = a->next;
		notify_answer_question(l, a);
		notify_free(a);
		a = next;
	}
}
