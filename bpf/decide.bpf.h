/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * What the tables of one policy say. Pure: maps and arguments in, code out; shared by the LSM hooks, the cgroup
 * programs and the program that answers "what would the tables say".
 */
#ifndef PYI_DECIDE_BPF_H
#define PYI_DECIDE_BPF_H

#include "maps.bpf.h"

struct pyi_opinion {
	u32 code;
	u32 missing; /* the rights (or 0) that decided */
	u32 below;   /* rules exist below this path */
	u32 allow;   /* rights that hold there */
};

static __always_inline const struct pyi_policy *pyi_policy_at(u32 index)
{
	const struct pyi_policy *policy = bpf_map_lookup_elem(&policies, &index);
	return policy && (policy->flags & PYI_P_READY) ? policy : NULL;
}

/* `bytes` counts the key's text with its final slash, before it was cut to PYI_KEY_BYTES. */
static __always_inline void pyi_decide_path(u32 index, const struct pyi_path_key *key, u32 bytes, u32 want,
					    struct pyi_opinion *opinion)
{
	const struct pyi_policy *policy = pyi_policy_at(index);
	const struct pyi_path_rule *rule = NULL;
	void *table = policy ? bpf_map_lookup_elem(&paths, &index) : NULL;

	opinion->code = PYI_GRANTED;
	opinion->missing = want;
	opinion->below = 0;
	opinion->allow = 0;
	if (!policy || !table) {
		opinion->code = PYI_ALWAYS_DENIED;
		return;
	}
	rule = bpf_map_lookup_elem(table, key);
	u32 allow = rule ? rule->allow : 0;
	if (rule && rule->bytes == bytes) {
		allow |= rule->exact;
		opinion->below = rule->below;
	}
	opinion->allow = allow;
	opinion->missing = want & ~allow;
	if (!opinion->missing)
		return;
	if (rule && (opinion->missing & rule->deny))
		opinion->code = PYI_EXPLICIT_DENY;
	else if (opinion->missing & policy->granted)
		opinion->code = PYI_SCOPE_INSUFFICIENT;
	else
		opinion->code = PYI_NOT_GRANTED;
}

/* The first rule whose action and ports match decides; the compiler has put the most specific first.
 * Not static: the verifier then checks it once, and not again for every state in which it is called (56 ms a program, 22
 * with it). */
__noinline u32 pyi_decide_net(u32 index, const struct pyi_net_key *key, u32 action, u32 port)
{
	if (!key)
		return PYI_ALWAYS_DENIED;
	const struct pyi_policy *policy = pyi_policy_at(index);
	void *table = policy ? bpf_map_lookup_elem(&nets, &index) : NULL;
	if (!policy || !table)
		return PYI_ALWAYS_DENIED;
	u32 code = policy->flags & (action == PYI_ACTION_BIND ? PYI_P_BIND : PYI_P_CONNECT) ? PYI_SCOPE_INSUFFICIENT
											    : PYI_NOT_GRANTED;
	struct pyi_net_key own = *key; /* before 6.2 only memory of the stack and of maps can be a key */
	const struct pyi_net_rules *found = bpf_map_lookup_elem(table, &own);
	if (!found)
		return code;
	for (u32 i = 0; i < PYI_NET_RULES; i++) {
		const struct pyi_net_rule *rule = &found->rules[i];
		if (i >= found->count)
			break;
		if (rule->action != action || port < rule->low || port > rule->high)
			continue;
		return rule->allow ? PYI_GRANTED : PYI_EXPLICIT_DENY;
	}
	return code;
}

#endif
