/* Records of calls: what was decided, about which names and addresses. A record comes before its answer. */
#include "outcome.h"

/* Where a unix address that is no absolute name begins, for a record: the task's directory, or nothing. */
static size_t notify_record_directory(const struct notify_call *c, const char *name, char *out, size_t room)
{
	char link[64];

	if (!name[0] || name[0] == '/')
		return 0;
	snprintf(link, sizeof link, "/proc/%d/cwd", c->tid);
	ssize_t base = readlink(link, out, room);
	if (base <= 0 || (size_t)base == room || out[0] != '/' || !notify_valid(c))
		return 0;
	if (out[base - 1] != '/')
		out[base++] = '/';
	return (size_t)base;
}

static void notify_record_endpoint(const struct notify_call *c, struct notify_record *r,
				   const struct notify_endpoint *e)
{
	if (!e)
		return;
	r->family = (uint16_t)e->family;
	r->port = e->port;
	r->scope = e->scope;
	memcpy(r->address, e->address, sizeof r->address);
	if (e->family == 1 && e->length > offsetof(struct sockaddr_un, sun_path)) {
		size_t length = e->length - offsetof(struct sockaddr_un, sun_path);
		if (e->raw.un.sun_path[0])
			length = strnlen(e->raw.un.sun_path, length);
		size_t used = notify_record_directory(c, e->raw.un.sun_path, r->text,
						      sizeof r->text - sizeof e->raw.un.sun_path);
		memcpy(r->text + used, e->raw.un.sun_path, length);
		r->path_length = (uint16_t)(used + length);
	}
}

/* Whether there is a name to look at. A look-up that the guest's C library reports has found nothing. */
static int notify_meets_file(const struct notify_call *c)
{
	return c->l->traits[c->nr] & NOTIFY_REPORTED && !(c->l->path_argument[c->nr] & NOTIFY_DESCRIPTOR) &&
	       c->args[5] != NOTIFY_LOOKED;
}

/* A disk may be asked what a link says. */
static uint8_t notify_met_aside(const struct notify_call *c, char *path, size_t *length, size_t *says)
{
	struct notify_desk *desk = notify_step_aside(c->l);
	uint8_t met = notify_met(c, path, length, NOTIFY_NAME, says);

	notify_step_back(c->l, desk);
	return met;
}

static void notify_record_names(const struct notify_call *c, struct notify_record *r)
{
	int other = notify_other_argument(c->nr);
	char *path = c->l->desk->names, *into = r->text;
	int copied = c->name && c->name_bytes; /* a name that could not be read then may be read now */

	c->l->desk->unnamed[0] = c->l->desk->unnamed[1] = 0;
	size_t length = copied ? c->name_bytes : notify_read_path(c, c->l->path_argument[c->nr], path, NOTIFY_NAME);
	if (copied)
		memcpy(path, c->name, length);
	size_t more = other >= 0 ? 0 : notify_read_linked(c, path, length, path + length, NOTIFY_NAME);

	if (!more && length && notify_meets_file(c)) {
		path[length] = 0;
		r->met = notify_met_aside(c, path, &length, &more);
	}
	if (copied && other >= 0)
		memcpy(path + length, c->name + c->name_bytes, more = c->other_bytes);
	else if (other >= 0)
		more = notify_read_path(c, other, path + length, NOTIFY_NAME);
	if (length + more > sizeof r->text && !(into = r->names = notify_alloc(1, length + more)))
		return; /* without its names rather than not at all */
	memcpy(into, path, length + more);
	r->path_length = (uint16_t)length;
	r->other_length = (uint16_t)more;
	const uint64_t *file = copied ? c->unnamed : c->l->desk->unnamed;
	r->device = file[0];
	r->inode = file[1];
}

static void notify_record_as(const struct notify_call *c, uint64_t serial, int capability, int verdict, int error,
			     const struct notify_decision *d, const struct notify_endpoint *e)
{
	struct notify_record r;

	memset(&r, 0, sizeof r);
	r.key = c->sandbox->key;
	r.policy_serial = serial;
	r.monotonic_ns = notify_now();
	memcpy(r.args, c->args, sizeof r.args);
	r.count = 1;
	r.tid = c->tid;
	r.pid = notify_pid(c->sandbox, c->tid);
	r.nr = c->nr;
	r.error = error;
	r.rule = d ? d->rule : -1;
	r.presented = d ? d->presented : -1;
	r.reason = (uint8_t)(d ? d->reason : NOTIFY_NO_REASON);
	r.capability = (uint16_t)capability;
	r.verdict = (uint8_t)verdict;
	r.asked = c->asked == NOTIFY_NOT_ASKED && notify_is_lookup(e) ? NOTIFY_UNKNOWN : c->asked;
	r.slot_capability = c->slot_capability;
	r.slot_verdict = c->slot_verdict;
	r.reply = c->reply;
	r.waited_ms = c->waited_ms;
	r.question = c->question;
	r.looked = capability == PYI_FS_LOOKUP && c->policy && !(c->policy->flags & NOTIFY_MONITOR_FILES);
	if (e)
		notify_record_endpoint(c, &r, e);
	else if (c->nr >= 0 && c->nr < NOTIFY_SYSCALLS && (c->name || c->l->path_argument[c->nr] >= 0))
		notify_record_names(c, &r);
	notify_push(c->l, c->sandbox, &r);
}

/* Count and record. Comes before the answer, so that a guest that saw the refusal finds its record. */
SHARED void notify_tell(const struct notify_call *c, int capability, int verdict, int error,
			const struct notify_decision *d, const struct notify_endpoint *e)
{
	notify_count(c->sandbox, capability, verdict);
	notify_record_as(c, c->policy ? c->policy->serial : 0, capability, verdict, error, d, e);
}

/* What the shadow policy says of the same call. The counters are those of the policy in force. */
SHARED void notify_tell_shadow(const struct notify_call *c, int capability, struct notify_decision d,
			       const struct notify_endpoint *e)
{
	if (!d.allow)
		notify_record_as(c, c->policy->shadow->serial, capability, NOTIFY_WOULD_DENY, 0, &d, e);
}
