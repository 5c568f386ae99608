// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * Programs that the supervisor runs itself (BPF_PROG_RUN); attached to nothing.
 *
 * ask: what would the tables of a policy say of this operation. enter: put the calling thread into a sandbox, for
 * kernels whose task storage cannot be reached by a thread's pidfd (before 6.9).
 */
#include "decide.bpf.h"
#include "group_of.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* Values of inner maps: clang 14 declares their types nowhere else, and a test compares them with Python's. */
const volatile struct pyi_path_rule pyi_layout_path SEC(".rodata.layout") = {};
const volatile struct pyi_net_rules pyi_layout_net SEC(".rodata.layout") = {};

SEC("syscall")
int ask(struct pyi_ask *ask)
{
	const struct pyi_policy *policy = pyi_policy_at(ask->policy);
	if (!policy)
		return -1;
	ask->generation = policy->generation;
	if (ask->kind == PYI_ASK_PATH) {
		struct pyi_opinion opinion = {};
		struct pyi_path_key key;
		key.prefixlen = ask->path.prefixlen;
#pragma unroll
		for (int i = 0; i < PYI_KEY_BYTES; i += 4)
			*(u32 *)&key.text[i] = *(volatile u32 *)&ask->path.text[i];
		pyi_decide_path(ask->policy, &key, ask->bytes, ask->rights, &opinion);
		ask->code = opinion.code;
		ask->missing = opinion.missing;
	} else if (ask->kind == PYI_ASK_NET) {
		struct pyi_net_key key;
		key.prefixlen = ask->net.prefixlen;
#pragma unroll
		for (int i = 0; i < 16; i += 4)
			*(u32 *)&key.address[i] = *(volatile u32 *)&ask->net.address[i];
		ask->code = pyi_decide_net(ask->policy, &key, ask->action, ask->port);
	} else if (ask->kind == PYI_ASK_FORK) {
		ask->code = policy->flags & PYI_P_FORK ? PYI_GRANTED : PYI_NOT_GRANTED;
	} else {
		return -2;
	}
	ask->verdict = !ask->code                                          ? PYI_ALLOW
		       : policy->monitored & pyi_group_of(ask->capability) ? PYI_WOULD_DENY
									   : PYI_DENY;
	return 0;
}

SEC("syscall")
int enter(struct pyi_enter *enter)
{
	struct pyi_task *own =
		bpf_task_storage_get(&tasks, bpf_get_current_task_btf(), 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!own)
		return -1;
	own->sandbox = enter->sandbox;
	own->epoch = enter->epoch;
	own->slot_number = enter->slot_number;
	return 0;
}
