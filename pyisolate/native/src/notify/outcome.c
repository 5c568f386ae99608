/* What becomes of a decision: the record, then the answer. */
#include "outcome.h"

SHARED void notify_refuse(const struct notify_call *c, int capability, int error, const struct notify_decision *d,
			  const struct notify_endpoint *e)
{
	notify_tell(c, capability, NOTIFY_DENY, error, d, e);
	notify_result(c, -error);
}

SHARED void notify_refuse_always(const struct notify_call *c, int capability, const struct notify_endpoint *e)
{
	struct notify_decision d = {.reason = NOTIFY_ALWAYS_DENIED, .rule = -1, .presented = -1};

	notify_refuse(c, capability, EPERM, &d, e);
}

/* A call that no policy can grant, in no mode. */
SHARED void notify_refuse_floor(const struct notify_call *c, int capability, int error)
{
	struct notify_decision d = {.reason = NOTIFY_ALWAYS_DENIED, .rule = -1, .presented = -1};

	notify_refuse(c, capability, error, &d, NULL);
}

/* The supervisor could not do its part. EPERM means that it may not look into the task (ptrace(2), Yama): that is a
 * refusal of ours, so it is recorded. */
SHARED void notify_give_up(const struct notify_call *c, int capability, int error)
{
	struct notify_decision d = {.reason = NOTIFY_INTERNAL, .rule = -1, .presented = -1};

	if (error == -EPERM)
		notify_refuse(c, capability, EPERM, &d, NULL);
	else
		notify_result(c, error);
}

/* A net decision: 1 to go on (granted, or only watched), 0 when refused and answered. */
SHARED int notify_pass(const struct notify_call *c, int capability, const struct notify_decision *d,
		       const struct notify_endpoint *e)
{
	if (d->allow) {
		notify_count(c->sandbox, capability, NOTIFY_ALLOW);
		return 1;
	}
	if (c->policy->flags & NOTIFY_MONITOR_NET) {
		notify_tell(c, capability, NOTIFY_WOULD_DENY, 0, d, e);
		return 1;
	}
	notify_refuse(c, capability, EACCES, d, e);
	return 0;
}

SHARED void notify_by_capability(const struct notify_call *c, int capability, int known)
{
	struct notify_decision d = notify_without_rule(-1);
	const notify_policy *shadow = c->policy->shadow;
	int other = shadow ? shadow->acts[capability % NOTIFY_CAPABILITIES] : NOTIFY_ACT_ALLOW;

	if (other == NOTIFY_ACT_DENY || other == NOTIFY_ACT_WATCH) /* the floor is no policy's doing */
		notify_tell_shadow(c, capability, d, NULL);
	switch (c->policy->acts[capability % NOTIFY_CAPABILITIES]) {
	case NOTIFY_ACT_ALLOW:
		if (capability == PYI_PROCESS_EXEC &&
		    c->policy->flags & NOTIFY_FULL) /* Landlock decides which programs */
			notify_tell(c, capability, NOTIFY_ALLOW, 0, NULL, NULL);
		else
			notify_count(c->sandbox, capability, NOTIFY_ALLOW);
		notify_continue(c);
		return;
	case NOTIFY_ACT_WATCH:
		notify_tell(c, capability, NOTIFY_WOULD_DENY, 0, &d, NULL);
		notify_continue(c);
		return;
	case NOTIFY_ACT_FLOOR:
		d.reason = NOTIFY_ALWAYS_DENIED;
		/* a call that did not exist when this was written: libc has a fallback for ENOSYS, for EPERM it has not */
		notify_refuse(c, capability, known ? EPERM : ENOSYS, &d, NULL);
		return;
	default:
		notify_refuse(c, capability, EACCES, &d, NULL);
	}
}
