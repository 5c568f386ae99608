/* Net rules: which one decides about an address and a port. */
#include "facts.h"

static int notify_covers(const struct notify_rule *rule, const uint8_t *address)
{
	int whole = rule->prefix / 8, rest = rule->prefix % 8;

	if (memcmp(rule->address, address, (size_t)whole))
		return 0;
	return !rest || (uint8_t)((rule->address[whole] ^ address[whole]) >> (8 - rest)) == 0;
}

/* 1 when `a` speaks more specifically than `b`: longer prefix, then narrower ports, then the one that denies. */
static int notify_beats(const struct notify_rule *a, const struct notify_rule *b)
{
	if (!b)
		return 1;
	if (a->prefix != b->prefix)
		return a->prefix > b->prefix;
	int width_a = a->port_high - a->port_low, width_b = b->port_high - b->port_low;
	if (width_a != width_b)
		return width_a < width_b;
	return b->allow && !a->allow;
}

/* A rule that ends at "any port the kernel picks" (0..0) also speaks of the port that was picked, for listen. */
static int notify_port_matches(const struct notify_rule *rule, uint16_t port, int picked)
{
	if (picked && rule->port_low == 0 && rule->port_high == 0)
		return 1;
	return rule->port_low <= port && port <= rule->port_high;
}

static struct notify_decision notify_from_rule(int allow, int index)
{
	return (struct notify_decision){
		.allow = allow,
		.reason = allow ? NOTIFY_NO_REASON : NOTIFY_EXPLICIT_DENY,
		.rule = index,
		.presented = allow ? index : -1,
	};
}

SHARED struct notify_decision notify_without_rule(int nearest)
{
	return (struct notify_decision){
		.reason = nearest < 0 ? NOTIFY_NOT_GRANTED : NOTIFY_SCOPE_INSUFFICIENT,
		.rule = -1,
		.presented = nearest,
	};
}

SHARED struct notify_decision notify_judge(const notify_policy *p, int action, int family, const uint8_t *address,
					   uint16_t port, int picked)
{
	const struct notify_rule *best = NULL;
	int nearest = -1, nearest_covers = 0;

	for (int i = 0; i < p->rule_count; i++) {
		const struct notify_rule *rule = &p->rules[i];
		if (rule->action != action)
			continue;
		int covers = rule->family == family && notify_covers(rule, address);
		/* the grant worth showing is one for the right host, else any */
		if (rule->allow && (nearest < 0 || (covers && !nearest_covers))) {
			nearest = rule->index;
			nearest_covers = covers;
		}
		if (covers && notify_port_matches(rule, port, picked) && notify_beats(rule, best))
			best = rule;
	}
	return best ? notify_from_rule(best->allow, best->index) : notify_without_rule(nearest);
}

SHARED struct notify_decision notify_judge_unix(const notify_policy *p, int action, const char *path, size_t length)
{
	const struct notify_unix_rule *best = NULL;
	int nearest = -1;

	for (int i = 0; i < p->unix_count; i++) {
		const struct notify_unix_rule *rule = &p->unix_rules[i];
		if (rule->action != action)
			continue;
		if (rule->allow && nearest < 0)
			nearest = rule->index;
		if (rule->length == length && !memcmp(rule->path, path, length) && (!best || !rule->allow))
			best = rule;
	}
	return best ? notify_from_rule(best->allow, best->index) : notify_without_rule(nearest);
}

SHARED notify_policy *notify_policy_new(uint32_t flags, uint64_t serial, const uint8_t *acts,
					const struct notify_rule *rules, int rule_count,
					const struct notify_unix_rule *unix_rules, int unix_count)
{
	notify_policy *p = notify_alloc(1, sizeof *p);

	if (!p)
		return NULL;
	p->references = 1;
	p->flags = flags;
	p->serial = serial;
	p->open_files = p->file_size = NOTIFY_NO_LIMIT;
	memcpy(p->acts, acts, sizeof p->acts);
	p->rules = notify_alloc((size_t)rule_count + 1, sizeof *rules);
	p->unix_rules = notify_alloc((size_t)unix_count + 1, sizeof *unix_rules);
	if (!p->rules || !p->unix_rules) {
		notify_free(p->rules);
		notify_free(p->unix_rules);
		notify_free(p);
		return NULL;
	}
	memcpy(p->rules, rules, (size_t)rule_count * sizeof *rules);
	memcpy(p->unix_rules, unix_rules, (size_t)unix_count * sizeof *unix_rules);
	p->rule_count = rule_count;
	p->unix_count = unix_count;
	p->inet_grants = (flags & NOTIFY_ASK_CONNECT) != 0;
	for (int i = 0; i < rule_count; i++)
		p->inet_grants |= rules[i].allow;
	return p;
}

SHARED notify_policy *notify_policy_hold(notify_policy *p)
{
	if (p)
		__atomic_add_fetch(&p->references, 1, __ATOMIC_RELAXED);
	return p;
}

SHARED void notify_policy_drop(notify_policy *p)
{
	if (!p || __atomic_sub_fetch(&p->references, 1, __ATOMIC_ACQ_REL))
		return;
	notify_policy_drop(p->shadow);
	notify_free(p->rules);
	notify_free(p->unix_rules);
	notify_free(p);
}

/* Before `p` is bound to anything: the loop thread reads `shadow` without a lock. */
SHARED void notify_policy_watch(notify_policy *p, notify_policy *shadow)
{
	p->shadow = notify_policy_hold(shadow);
}

/* Before `p` is bound to anything: a guest that meets a lower limit has met its own (setrlimit(2)). */
SHARED void notify_policy_bound(notify_policy *p, uint64_t open_files, uint64_t file_size)
{
	p->open_files = open_files;
	p->file_size = file_size;
}

/* The same judgement, without a call to decide: a reason, NOTIFY_NO_REASON when it would be granted. */
SHARED int notify_policy_ask(const notify_policy *p, int action, int family, const uint8_t *address, int port,
			     int picked, int *rule, int *presented)
{
	struct notify_decision d = notify_judge(p, action, family, address, (uint16_t)port, picked);

	*rule = d.rule;
	*presented = d.presented;
	return d.allow ? NOTIFY_NO_REASON : d.reason;
}
