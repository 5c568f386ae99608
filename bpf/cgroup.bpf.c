// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * Network by address and port for the tasks of a cgroup, where BPF-LSM is not to be had.
 *
 * Hooks: cgroup/connect4,6 sendmsg4,6 bind4,6 sock_create. connect4,6 also see TCP fast open and MPTCP; a v4-mapped
 * address comes through connect6 and is judged as the IPv4 address it is. A refusal reads EACCES (bpf_set_retval, 5.18).
 * Not covered: sockets made outside the cgroup and passed in; listen(2) without bind(2).
 * A task in an attached cgroup that no sandbox owns is refused: nothing belongs there.
 */
#include "decide.bpf.h"
#include "group_of.bpf.h"
#include "record.bpf.h"
#include "slot.bpf.h"

#define ALLOWED      1
#define REFUSED      0
#define EAFNOSUPPORT 97

static __always_inline struct pyi_task *pyi_cgroup_member(void)
{
	u64 id = bpf_get_current_cgroup_id();
	return bpf_map_lookup_elem(&cgroups, &id);
}

/* The record lives on the stack: addresses need no more room, and these programs have no task storage. */
static __always_inline void pyi_begin_net(struct pyi_record *record, struct pyi_task *own, u32 hook, u32 capability)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	u32 index = own->sandbox;
	record->hook = hook;
	record->capability = capability;
	record->sandbox = index;
	record->epoch = own->epoch;
	record->pid = BPF_CORE_READ(task, tgid);
	record->tid = BPF_CORE_READ(task, pid);
	record->syscall = -1;
	struct pyi_sandbox *sandbox = bpf_map_lookup_elem(&sandboxes, &index);
	if (sandbox && sandbox->epoch == own->epoch) {
		u64 both = *(volatile u64 *)&sandbox->policies;
		record->policy = (u32)both;
		record->shadow = both >> 32;
	}
	const struct pyi_policy *policy = pyi_policy_at(record->policy);
	if (policy)
		record->generation = policy->generation;
	if (!record->policy)
		record->flags |= PYI_F_CLOSED;
}

/* Join with the broker's slot, if it is about this capability: a question about a file says nothing of a connection that
 * native code makes. The sequence tells whether an earlier call took it: connect and bind pass one hook each. */
static __always_inline void pyi_net_slot(struct pyi_record *record, struct pyi_task *own)
{
	u32 index = record->sandbox;
	struct pyi_slot_page *page = bpf_map_lookup_elem(&slots, &index);
	u32 tid = page ? pyi_own_tid((void *)bpf_get_current_task()) : 0;
	if (!tid) {
		record->flags |= PYI_F_SLOT_UNKNOWN;
		return;
	}
	bool found = false, free = false;
#pragma unroll
	for (int i = 0; i < PYI_SLOT_PROBES; i++) {
		struct pyi_slot *slot = &page->slots[(tid + i) & (PYI_SLOTS - 1)];
		free |= !slot->tid;
		if (slot->tid != tid)
			continue;
		found = true;
		if (slot->taken == (u32)slot->sequence || slot->capability != record->capability)
			continue;
		slot->taken = slot->sequence;
		record->sequence = slot->sequence;
		record->slot_capability = slot->capability;
		record->slot_verdict = slot->verdict;
		record->flags |= PYI_F_CONSULTED;
	}
	if (!found && !free) /* all of this thread's places are taken by others */
		record->flags |= PYI_F_SLOT_UNKNOWN;
}

static __always_inline int pyi_conclude_net(struct pyi_record *record, u32 policy, u32 code)
{
	const struct pyi_policy *rules = pyi_policy_at(policy);
	bool watch = code != PYI_ALWAYS_DENIED && rules && (rules->monitored & pyi_group_of(record->capability));
	if (record->flags & PYI_F_SHADOW)
		watch = true;
	record->code = code;
	record->verdict = watch ? PYI_WOULD_DENY : PYI_DENY;
	record->error = watch ? 0 : EACCES;
	pyi_emit(record, sizeof(*record));
	return watch ? ALLOWED : REFUSED;
}

static __always_inline int pyi_strict(void)
{
	struct pyi_control *control = pyi_controls();
	if (!control || !control->cgroup_strict)
		return ALLOWED;
	__sync_fetch_and_add(&control->unattributed, 1);
	bpf_set_retval(-EACCES);
	return REFUSED;
}

static __noinline int pyi_judge(const u32 *address, u32 port, u32 hook)
{
	struct pyi_task *own = pyi_cgroup_member();
	if (!address)
		return REFUSED;
	if (!own)
		return pyi_strict();
	bool bind = hook == PYI_H_CGROUP_BIND4 || hook == PYI_H_CGROUP_BIND6;
	bool send = hook == PYI_H_CGROUP_SENDMSG4 || hook == PYI_H_CGROUP_SENDMSG6;
	u32 action = bind ? PYI_ACTION_BIND : PYI_ACTION_CONNECT;
	struct pyi_record record = {};
	struct pyi_net_key key = {.prefixlen = 128};

	pyi_begin_net(&record, own, hook, bind ? PYI_NET_BIND : send ? PYI_NET_SEND : PYI_NET_CONNECT);
	__builtin_memcpy(key.address, address, 16);
	__builtin_memcpy(record.address, address, 16);
	record.port = port;
	record.family = AF_INET6; /* in 16 bytes, whatever was asked; a mapped one shows by its prefix */
	pyi_net_slot(&record, own);
	u32 code = pyi_decide_net(record.policy, &key, action, port), answer = ALLOWED;
	if (code)
		answer = pyi_conclude_net(&record, record.policy, code);
	if (record.shadow) {
		u32 other = pyi_decide_net(record.shadow, &key, action, port);
		record.flags |= PYI_F_SHADOW;
		if (other)
			pyi_conclude_net(&record, record.shadow, other);
	}
	if (answer == ALLOWED)
		return ALLOWED;
	bpf_set_retval(-EACCES);
	return REFUSED;
}

/* As a destination "any" is this host, by the socket's own address: say which before it is judged. */
static __always_inline bool pyi_is_destination(u32 hook)
{
	return hook != PYI_H_CGROUP_BIND4 && hook != PYI_H_CGROUP_BIND6;
}

/* An address of another family is not read as one of this: where the kernel looks after these hooks it refuses the call by
 * itself, with the same error, so nothing is recorded. */
static __always_inline int pyi_other_family(void)
{
	bpf_set_retval(-EAFNOSUPPORT);
	return REFUSED;
}

static __always_inline int pyi_judge4(struct bpf_sock_addr *ctx, u32 hook)
{
	/* AF_UNSPEC is taken for AF_INET by sendto(2), and by bind(2) of "any" */
	if (ctx->user_family != AF_INET && ctx->user_family != AF_UNSPEC)
		return pyi_other_family();
	if (pyi_is_destination(hook) && !ctx->user_ip4)
		ctx->user_ip4 = __builtin_bswap32(0x7f000001);
	u32 address[4] = {0, 0, __builtin_bswap32(0xffff), ctx->user_ip4};
	return pyi_judge(address, __builtin_bswap16((u16)ctx->user_port), hook);
}

static __always_inline int pyi_judge6(struct bpf_sock_addr *ctx, u32 hook)
{
	/* connect(2) on a UDP socket comes here with a sockaddr_in too, whose address this context does not show: what
	 * it shows are bytes after it, which no code reads again. */
	if (ctx->user_family != AF_INET6)
		return pyi_other_family();
	if (pyi_is_destination(hook) && !ctx->user_ip6[0] && !ctx->user_ip6[1] && !ctx->user_ip6[3]) {
		if (!ctx->user_ip6[2])
			ctx->user_ip6[3] = __builtin_bswap32(1);
		else if (ctx->user_ip6[2] == __builtin_bswap32(0xffff))
			ctx->user_ip6[3] = __builtin_bswap32(0x7f000001);
	}
	u32 address[4] = {ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3]};
	return pyi_judge(address, __builtin_bswap16((u16)ctx->user_port), hook);
}

SEC("cgroup/connect4")
int cgroup_connect4(struct bpf_sock_addr *ctx)
{
	return pyi_judge4(ctx, PYI_H_CGROUP_CONNECT4);
}

SEC("cgroup/connect6")
int cgroup_connect6(struct bpf_sock_addr *ctx)
{
	return pyi_judge6(ctx, PYI_H_CGROUP_CONNECT6);
}

SEC("cgroup/sendmsg4")
int cgroup_sendmsg4(struct bpf_sock_addr *ctx)
{
	return pyi_judge4(ctx, PYI_H_CGROUP_SENDMSG4);
}

SEC("cgroup/sendmsg6")
int cgroup_sendmsg6(struct bpf_sock_addr *ctx)
{
	return pyi_judge6(ctx, PYI_H_CGROUP_SENDMSG6);
}

SEC("cgroup/bind4")
int cgroup_bind4(struct bpf_sock_addr *ctx)
{
	return pyi_judge4(ctx, PYI_H_CGROUP_BIND4);
}

SEC("cgroup/bind6")
int cgroup_bind6(struct bpf_sock_addr *ctx)
{
	return pyi_judge6(ctx, PYI_H_CGROUP_BIND6);
}

SEC("cgroup/sock_create")
int cgroup_sock_create(struct bpf_sock *ctx)
{
	u32 family = ctx->family, type = ctx->type, protocol = ctx->protocol;
	struct pyi_task *own = pyi_cgroup_member();
	if (!own)
		return pyi_strict();
	struct pyi_record record = {};
	bool known = (type == SOCK_STREAM && (protocol == IPPROTO_TCP || protocol == IPPROTO_MPTCP)) ||
		     (type == SOCK_DGRAM && protocol == IPPROTO_UDP);
	pyi_begin_net(&record, own, PYI_H_CGROUP_SOCK_CREATE, PYI_NET_SOCKET);
	record.detail = (u64)family << 32 | type << 16 | (u16)protocol;
	const struct pyi_policy *policy = pyi_policy_at(record.policy);
	u32 code = !policy || !known                              ? PYI_ALWAYS_DENIED
		   : policy->flags & (PYI_P_CONNECT | PYI_P_BIND) ? 0
								  : PYI_NOT_GRANTED;
	if (!code)
		return ALLOWED;
	pyi_net_slot(&record, own);
	if (pyi_conclude_net(&record, record.policy, code) == ALLOWED)
		return ALLOWED;
	bpf_set_retval(-EACCES);
	return REFUSED;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
