/* Calls that wait for the host's answer. What was asked about is what is used: the supervisor's copy of the address, judged
 * once more by the policy of then, and the file that the supervisor opened by its copy of the name. The guest that asks
 * waits in the kernel; nothing else does. */
#include "unfinished.h"

/* It makes, removes or moves a name, or changes what is known of a file, and can be asked about. */
static int notify_changes_names(const struct notify_call *c)
{
	return c->l->traits[c->nr] & NOTIFY_NAMING;
}

/* What a question is about: an address, a file that is opened to be read or written (the host says so where it would be
 * made), a name that is made or removed (and so of a call that does both), or a program. */
static int notify_asked_capability(const struct notify_call *c)
{
	if (!c->name)
		return PYI_NET_CONNECT;
	if (c->nr == SYS_execve || c->nr == SYS_execveat)
		return PYI_PROCESS_EXEC;
	if (notify_changes_names(c))
		return c->l->capability[c->nr];
	return c->args[c->l->path_argument[c->nr] + 1] & O_ACCMODE ? PYI_FS_WRITE : PYI_FS_READ;
}

static void notify_settle_question(struct notify_wait *w, int reply, int verdict, int error)
{
	w->call.reply = (uint8_t)reply;
	w->call.waited_ms = (uint32_t)((notify_now() - w->since_ns) / 1000000u);
	notify_tell(&w->call, notify_asked_capability(&w->call), verdict, error, &w->refusal,
		    w->call.name ? NULL : &w->message.to);
}

static void notify_refuse_question(notify_listener *l, struct notify_wait *w, int reply)
{
	notify_settle_question(w, reply, NOTIFY_DENY, EACCES);
	notify_wait_finish(l, w, -EACCES);
}

/* A question whose call was given up, with its one record: nothing is done, whatever the answer was. */
static void notify_give_up_question(notify_listener *l, struct notify_wait *w)
{
	notify_settle_question(w, NOTIFY_REPLY_GONE, NOTIFY_DENY, EINTR);
	notify_wait_end(l, w);
}

/* Does a question's call wait still? One that does not stays where it is: whether it was a question at all the host knows,
 * and a guest whose signals interrupt its calls has no more of them at the host than another one. */
static int notify_still_waits(struct notify_wait *w)
{
	uint64_t id = w->id;

	if (!w->gone && (w->sandbox->fd < 0 || ioctl(w->sandbox->fd, SECCOMP_IOCTL_NOTIF_ID_VALID, &id)))
		w->gone = 1;
	return !w->gone;
}

SHARED void notify_tick_question(notify_listener *l, struct notify_wait *w, uint64_t now)
{
	int waits = notify_still_waits(w);

	if (w->begun)
		return; /* what was done with it comes, however long that takes */
	if (now >= w->deadline_ns && waits) {
		notify_refuse_question(l, w, NOTIFY_REPLY_LATE);
	} else if (now >= w->deadline_ns) {
		notify_give_up_question(l, w);
	} else if (waits && !w->begun && notify_interrupted(w->tid)) {
		w->gone = 1;
		notify_answer(w->sandbox, w->id, 0, -NOTIFY_RESTART, 0);
	}
}

static int notify_push_question(notify_listener *l, const struct notify_wait *w)
{
	uint32_t tail = __atomic_load_n(&l->question_tail, __ATOMIC_ACQUIRE);
	uint64_t one = 1;
	/* no rule has such a name: the kernel decides, in the call's turn, and the whole name is in its record */
	size_t all = w->call.name ? w->message.bytes : 0, shown = all <= NOTIFY_ASKED_NAME ? all : 0;

	if (l->question_head - tail >= NOTIFY_QUESTION_RING)
		return 0;
	struct notify_question *q = &l->questions[l->question_head % NOTIFY_QUESTION_RING];
	*q = (struct notify_question){
		.key = w->sandbox->key,
		.number = w->call.question,
		.id = w->id,
		.scope = w->message.to.scope,
		.pid = notify_pid(w->sandbox, w->tid),
		.tid = w->tid,
		.capability = (uint16_t)notify_asked_capability(&w->call),
		.nr = w->call.nr,
		.name_bytes = (uint16_t)(shown ? w->call.name_bytes : 0),
		.other_bytes = (uint16_t)(shown ? all - w->call.name_bytes : 0),
		.family = (uint16_t)w->message.to.family,
		.port = w->message.to.port,
	};
	memcpy(q->address, w->message.to.address, sizeof q->address);
	if (w->call.name)
		notify_read_modes(&w->call, &q->flags, &q->mode);
	if (w->call.name)
		memcpy(q->name, w->call.name, shown);
	__atomic_store_n(&l->question_head, l->question_head + 1, __ATOMIC_RELEASE);
	if (write(l->own_ask, &one, sizeof one) < 0)
		return 1; /* full: readable anyway */
	return 1;
}

/* The policy has the host asked about a connection that it refuses. */
static int notify_is_asked_about(const notify_policy *p, const struct notify_endpoint *to,
				 const struct notify_decision *d)
{
	if (d->allow || d->reason == NOTIFY_EXPLICIT_DENY || !(p->flags & NOTIFY_ASK_CONNECT) ||
	    p->flags & NOTIFY_MONITOR_NET)
		return 0;
	return !(p->flags & NOTIFY_ASK_BY_RULE) ||
	       notify_judge(p, NOTIFY_ASKED_ABOUT, to->family, to->address, to->port, 0).allow;
}

/* Ask about a connection that no rule speaks of: 1 where the call waits now, which takes `fd`; 0 where it is refused as
 * ever. A rule that denies is never asked about. */
SHARED int notify_ask(const struct notify_call *c, int fd, const struct notify_endpoint *to,
		      const struct notify_decision *d)
{
	struct notify_wait w = {.step = NOTIFY_STEP_ASK, .message.to = *to, .refusal = *d, .since_ns = notify_now()};

	if (!notify_is_asked_about(c->policy, to, d))
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
	notify_close_taken(c->l, c->sandbox, fd);
	return 1;
}

/* The kernel decides after all, as of a call that nothing was asked about. */
static void notify_as_ever(notify_listener *l, struct notify_wait *w)
{
	struct notify_call c = w->call;

	c.question = 0;
	if (notify_asked_capability(&c) == PYI_PROCESS_EXEC) {
		notify_by_capability(&c, PYI_PROCESS_EXEC, 1);
		notify_wait_end(l, w);
		return;
	}
	if (c.policy->flags & NOTIFY_FULL)
		notify_tell(&c, notify_asked_capability(&c), NOTIFY_ALLOW, 0, NULL, NULL);
	notify_continue(&c);
	notify_wait_end(l, w);
}

/* The call that was parked last waits with the copy of its name. */
static struct notify_wait *notify_parked_name(const struct notify_call *c, size_t bytes)
{
	struct notify_wait *parked = c->sandbox->waits;

	c->l->last_question++;
	notify_policy_hold(parked->call.policy);
	parked->call.name = parked->payload;
	parked->call.name_bytes = bytes;
	return parked;
}

/* Have a call about files wait, with the copy of its name, which has so many bytes, and of its other one or what else it
 * says: 1, or 0 where it cannot. */
static int notify_park_names(const struct notify_call *c, struct notify_wait *w, size_t first)
{
	int fd = fcntl(c->l->own_ask, F_DUPFD_CLOEXEC, 3); /* a wait has one; this one is never looked at */

	if (fd < 0)
		return 0;
	w->call = *c;
	w->call.question = c->l->last_question + 1;
	if (notify_park(c, fd, w)) {
		close(fd);
		return 0;
	}
	struct notify_wait *parked = notify_parked_name(c, first);
	if (notify_other_argument(c->nr) >= 0)
		parked->call.other_bytes = w->message.bytes - first;
	if (!notify_push_question(c->l, parked))
		notify_as_ever(c->l, parked);
	return 1;
}

/* Ask about a file that is opened, whose name the host can be shown: 1 where the call waits now. Whether any
 * rule speaks of the file the host finds out, and says "as ever" where one does. The listener alone does not know: what
 * is granted is the root view's and Landlock's to say. So the host counts those that are questions; what is only looked
 * at ends soon, and past NOTIFY_WAITING_MAX the sandbox's calls wait for it. */
SHARED int notify_ask_open(const struct notify_call *c)
{
	struct notify_wait w = {
		.step = NOTIFY_STEP_ASK,
		.refusal = {.reason = NOTIFY_NOT_GRANTED, .rule = -1, .presented = -1},
		.payload = c->l->desk->names,
		.since_ns = notify_now(),
	};
	int argument = c->l->path_argument[c->nr];

#ifdef SYS_open
	if (c->nr != SYS_openat && c->nr != SYS_open)
		return 0;
#else
	if (c->nr != SYS_openat)
		return 0;
#endif
	uint64_t flags = c->args[argument + 1], writes = flags & O_ACCMODE;
	if (flags & (O_DIRECTORY | O_NOFOLLOW | O_PATH) || (!writes && flags & (O_CREAT | O_TRUNC)) ||
	    !(c->policy->flags & (writes ? NOTIFY_ASK_WRITE : NOTIFY_ASK_READ)))
		return 0;
	w.message.bytes = notify_read_path(c, argument, c->l->desk->names, NOTIFY_NAME);
	if (!w.message.bytes || w.message.bytes > NOTIFY_ASKED_NAME || c->l->desk->names[0] != '/')
		return 0;
	return notify_park_names(c, &w, w.message.bytes);
}

/* Ask about such a call, as about a file that is opened: the host finds out whether any rule speaks of its names, and on
 * yes carries it out itself. */
SHARED int notify_ask_names(const struct notify_call *c)
{
	struct notify_wait w = {
		.step = NOTIFY_STEP_ASK,
		.refusal = {.reason = NOTIFY_NOT_GRANTED, .rule = -1, .presented = -1},
		.payload = c->l->desk->names,
		.since_ns = notify_now(),
	};
	char *names = c->l->desk->names;
	int other = notify_other_argument(c->nr);

	int of_names = c->l->capability[c->nr] != PYI_FS_METADATA;
	if (c->nr == SYS_utimensat && !c->args[1])
		return 0; /* of an open file, which no name need lead to */
	if (!(c->policy->flags & (of_names ? NOTIFY_ASK_NAMES : NOTIFY_ASK_METADATA)) || !notify_changes_names(c))
		return 0;
	size_t first = notify_read_path(c, c->l->path_argument[c->nr], names, NOTIFY_NAME);
	ssize_t second = other < 0 ? notify_read_details(c, names + first, NOTIFY_ASKED_NAME)
				   : (ssize_t)notify_read_path(c, other, names + first, NOTIFY_NAME);
	if (!first || second < 0 || first + (size_t)second > NOTIFY_ASKED_NAME || names[0] != '/' ||
	    (other >= 0 && (!second || names[first] != '/')))
		return 0;
	w.message.bytes = first + (size_t)second;
	return notify_park_names(c, &w, first);
}

/* Every program that a sandbox starts, where its host is asked about some: the call waits, or is refused. The host
 * lets one at a time go on, so that a gate that it opens for one call is open for no other (sandbox/starting.py); what the
 * guest makes of its memory until then leads to no program whose gate is shut. */
SHARED void notify_ask_exec(const struct notify_call *c)
{
	struct notify_wait w = {
		.step = NOTIFY_STEP_ASK,
		.refusal = {.reason = NOTIFY_NOT_GRANTED, .rule = -1, .presented = -1},
		.payload = c->l->desk->names,
		.since_ns = notify_now(),
	};
	int fd = fcntl(c->l->own_ask, F_DUPFD_CLOEXEC, 3);

	w.message.bytes = notify_read_path(c, c->l->path_argument[c->nr], c->l->desk->names, NOTIFY_NAME);
	w.call = *c;
	w.call.question = c->l->last_question + 1;
	if (fd >= 0 && !notify_park(c, fd, &w)) {
		struct notify_wait *parked = notify_parked_name(c, w.message.bytes);
		if (!notify_push_question(c->l, parked))
			notify_refuse_question(c->l, parked, NOTIFY_REPLY_FULL);
		return;
	}
	if (fd >= 0)
		close(fd);
	w.call.question = 0;
	w.call.reply = NOTIFY_REPLY_FULL;
	notify_refuse(&w.call, PYI_PROCESS_EXEC, EACCES, &w.refusal, NULL);
}

/* Yes: the file that the host has opened becomes the answer of open(2). Takes the descriptors. */
static void notify_let_open(notify_listener *l, struct notify_wait *w, struct notify_answered *a)
{
	const struct notify_call *c = &w->call;
	uint64_t flags = c->args[l->path_argument[c->nr] + 1] & O_CLOEXEC;

	if (a->said == NOTIFY_SAID_EMPTY)
		flags |= O_TRUNC;
	notify_settle_question(w, NOTIFY_REPLY_YES, NOTIFY_WOULD_DENY, 0);
	notify_ask_injector(c, NOTIFY_JOB_FILE, (int)flags, a->fd, a->heard);
	a->fd = a->heard = -1;
	notify_wait_end(l, w);
}

/* Yes: the host makes the call itself, from BEGIN to DONE. It has been made also where its task dies in between. */
static void notify_carry_out(notify_listener *l, struct notify_wait *w, struct notify_answered *a)
{
	if (a->said == NOTIFY_SAID_BEGIN) {
		w->begun = 1;
		notify_say(a->heard, 1);
		a->heard = -1;
		return;
	}
	notify_settle_question(w, NOTIFY_REPLY_YES, NOTIFY_WOULD_DENY, 0);
	notify_wait_finish(l, w, -a->error);
}

/* Yes: the host has opened the gate of that program. */
static void notify_run(notify_listener *l, struct notify_wait *w)
{
	notify_settle_question(w, NOTIFY_REPLY_YES, NOTIFY_WOULD_DENY, 0);
	notify_continue(&w->call);
	notify_wait_end(l, w);
}

/* The policy may have been replaced since: no answer overrules a rule that denies now, or a policy that asks no more. */
static void notify_grant_question(notify_listener *l, struct notify_wait *w)
{
	const struct notify_endpoint *to = &w->message.to;

	pthread_mutex_lock(&l->lock);
	notify_policy *now = notify_policy_hold(w->sandbox->policy);
	pthread_mutex_unlock(&l->lock);
	struct notify_decision d = notify_judge(now, NOTIFY_CONNECT, to->family, to->address, to->port, 0);
	int stands = d.allow || (now && notify_is_asked_about(now, to, &d));
	notify_policy_drop(now);
	if (!stands) {
		w->refusal = d;
		notify_refuse_question(l, w, NOTIFY_REPLY_NO);
		return;
	}
	notify_settle_question(w, NOTIFY_REPLY_YES, NOTIFY_WOULD_DENY, 0);
	int result = notify_wait_connect(l, w);
	if (result != -EINPROGRESS)
		notify_wait_finish(l, w, result);
}

/* The question that was answered, or NULL: its sandbox is forgotten, or it was answered before. */
static struct notify_wait *notify_question_of(notify_listener *l, const struct notify_answered *a)
{
	struct notify_wait *w = l->waits;

	while (w && !(w->step == NOTIFY_STEP_ASK && w->call.question == a->number))
		w = w->next_all;
	return w;
}

/* Take an answer of a sandbox that no thread is stranded in, with its question; or NULL. */
static struct notify_answered *notify_next_answer(notify_listener *l, struct notify_wait **of)
{
	struct notify_answered *a = NULL;

	pthread_mutex_lock(&l->lock);
	for (struct notify_answered **at = &l->answered; *at && !a; at = a ? at : &(*at)->next) {
		*of = notify_question_of(l, *at);
		if (*of && (*of)->sandbox->stranded)
			continue;
		a = *at;
		__atomic_store_n(at, a->next, __ATOMIC_RELEASE);
	}
	pthread_mutex_unlock(&l->lock);
	return a;
}

static void notify_answer_question(notify_listener *l, struct notify_wait *w, struct notify_answered *a)
{
	int waits = notify_still_waits(w), yes = a->said == NOTIFY_SAID_YES || a->said == NOTIFY_SAID_EMPTY;
	if (w->begun ? a->said == NOTIFY_SAID_DONE : waits && a->said == NOTIFY_SAID_BEGIN)
		notify_carry_out(l, w, a);
	else if (!waits && a->said == NOTIFY_SAID_AS_EVER)
		notify_wait_end(l, w); /* nothing was asked about it */
	else if (!waits)
		notify_give_up_question(l, w);
	else if (w->call.name && a->said == NOTIFY_SAID_AS_EVER)
		notify_as_ever(l, w);
	else if (notify_asked_capability(&w->call) == PYI_PROCESS_EXEC && yes)
		notify_run(l, w);
	else if (w->call.name && yes && a->fd >= 0)
		notify_let_open(l, w, a);
	else if (!w->call.name && yes)
		notify_grant_question(l, w);
	else
		notify_refuse_question(l, w, NOTIFY_REPLY_NO);
}

SHARED void notify_take_answers(notify_listener *l)
{
	struct notify_desk *desk = l->desk;
	struct notify_wait *w;

	for (struct notify_answered *a; !desk->stranded && (a = notify_next_answer(l, &w));) {
		if (w)
			notify_take_up(l, w->sandbox);
		if (w)
			notify_answer_question(l, w, a);
		if (a->fd >= 0)
			notify_close_later(l, NULL, a->fd);
		notify_say(a->heard, 0);
		notify_free(a);
		if (w && notify_put_down(l))
			return;
	}
}
