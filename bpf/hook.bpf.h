/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * What every LSM hook shares: is this task ours, what do the tables say, refuse or only record.
 *
 * A thread that is in no sandbox leaves after one task-storage look-up. A sandboxed thread for which anything cannot
 * be had (work space, sandbox entry, policy) is refused: nothing here fails open.
 */
#ifndef PYI_HOOK_BPF_H
#define PYI_HOOK_BPF_H

#include "decide.bpf.h"
#include "group_of.bpf.h"
#include "path.bpf.h"
#include "record.bpf.h"
#include "slot.bpf.h"

/* Adopt a thread that the supervisor named by tid (kernels before 6.9). */
static __noinline struct pyi_task *pyi_adopt(struct task_struct *task)
{
	u32 tid = (u32)bpf_get_current_pid_tgid();
	struct pyi_task *offered = bpf_map_lookup_elem(&handovers, &tid);
	if (!offered || offered->start_ticks != task->start_boottime / 10000000 /* USER_HZ 100 */)
		return NULL;
	struct pyi_task *own = bpf_task_storage_get(&tasks, task, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!own)
		return NULL;
	own->sandbox = offered->sandbox;
	own->epoch = offered->epoch;
	own->slot_number = offered->slot_number;
	bpf_map_delete_elem(&handovers, &tid);
	struct pyi_control *control = pyi_controls();
	if (control)
		__sync_fetch_and_sub(&control->pending, 1);
	return own;
}

/* The current thread's sandbox; NULL for every thread that is in none. */
static __always_inline struct pyi_task *pyi_current(void)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct pyi_task *own = bpf_task_storage_get(&tasks, task, 0, 0);
	if (own)
		return own;
	struct pyi_control *control = pyi_controls();
	if (!control || !control->pending)
		return NULL;
	return pyi_adopt(task);
}

/* Begin a decision: a clean record that knows its sandbox and both policies, read once for all questions of the call.
 * Returns NULL if it cannot be had; the caller must then refuse. */
static __noinline struct pyi_scratch *pyi_begin(struct pyi_task *own, u32 hook)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct pyi_scratch *scratch = bpf_task_storage_get(&scratches, task, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!scratch)
		return NULL;
	struct pyi_record *record = &scratch->record;
	__builtin_memset(record, 0, sizeof(*record));
	u32 index = own->sandbox;
	u64 id = bpf_get_current_pid_tgid();
	record->hook = hook;
	record->sandbox = index;
	record->epoch = own->epoch;
	record->pid = id >> 32;
	record->tid = (u32)id;
	struct pyi_sandbox *sandbox = bpf_map_lookup_elem(&sandboxes, &index);
	if (sandbox && sandbox->epoch == own->epoch) {
		u64 both = *(volatile u64 *)&sandbox->policies;
		record->policy = (u32)both;
		record->shadow = both >> 32;
	}
	if (!record->policy) {
		record->flags |= PYI_F_CLOSED;
	} else {
		const struct pyi_policy *policy = pyi_policy_at(record->policy);
		if (policy)
			record->generation = policy->generation;
	}
	pyi_slot_consume(own, task);
	return scratch;
}

static __always_inline u32 pyi_capability_of_rights(u32 rights)
{
	if (rights == PYI_LOOK)
		return PYI_FS_LOOKUP;
	if (rights & PYI_EXEC)
		return PYI_PROCESS_EXEC;
	if (rights & PYI_MAP_EXEC)
		return PYI_IMPORT_NATIVE;
	if (rights & PYI_UNIX_CONNECT)
		return PYI_NET_CONNECT;
	if (rights & PYI_UNIX_BIND)
		return PYI_NET_BIND;
	if (rights & PYI_WRITE)
		return PYI_FS_WRITE;
	if (rights & PYI_CREATE)
		return PYI_FS_CREATE;
	if (rights & PYI_DELETE)
		return PYI_FS_DELETE;
	if (rights & (PYI_READ | PYI_LIST))
		return PYI_FS_READ;
	return PYI_FS_METADATA;
}

/* Record what one policy refuses. Returns 1 if the caller must refuse, 0 if it only watches. */
static __noinline int pyi_refuse(struct pyi_scratch *scratch, struct pyi_task *own, u32 policy, u32 code)
{
	struct pyi_record *record = &scratch->record;
	u32 group = code == PYI_ALWAYS_DENIED ? PYI_GROUP_FLOOR : pyi_group_of(record->capability);
	const struct pyi_policy *rules = pyi_policy_at(policy);
	bool watch = rules && (rules->monitored & group) && group != PYI_GROUP_FLOOR;
	struct pt_regs *regs = (struct pt_regs *)bpf_task_pt_regs(bpf_get_current_task_btf());

	if (record->flags & PYI_F_SHADOW)
		watch = true;
	record->code = code;
	record->verdict = watch ? PYI_WOULD_DENY : PYI_DENY;
	record->error = watch                                 ? 0
			: code == PYI_ALWAYS_DENIED           ? EPERM
			: record->capability == PYI_FS_LOOKUP ? ENOENT
							      : EACCES;
	record->syscall = PYI_SYSCALL_NR(regs);
	if (record->hook == PYI_H_UNIX_SEND &&
	    record->syscall != PYI_NR_CONNECT) /* connect(2) of datagrams comes there, too */
		record->capability = PYI_NET_SEND;
	pyi_slot_record(own, record, regs, scratch->walk);
	u32 text = record->text_bytes;
	if (text > PYI_TEXT_SENT) {
		text = PYI_TEXT_SENT;
		record->flags |= PYI_F_TRUNCATED;
	}
	pyi_emit(record, sizeof(*record) + sizeof(u32) + text);
	if (!watch)
		own->call[0] = 0; /* the call ends here: the next one may look the same, but was not asked about */
	return watch ? 0 : 1;
}

/* The verifier must see that a hook returns 0 or a small negative number: a branch, kept from becoming arithmetic. */
static __always_inline int pyi_answer(int refused, u32 code)
{
	if (!refused)
		return 0;
	barrier();
	if (code == PYI_ALWAYS_DENIED)
		return -EPERM;
	barrier();
	return -EACCES;
}

/* Refuse by the floor: no policy grants it, no mode lets it through. */
static __always_inline int pyi_floor(u32 hook, u32 capability, u64 detail)
{
	struct pyi_task *own = pyi_current();
	if (!own)
		return 0;
	struct pyi_scratch *scratch = pyi_begin(own, hook);
	if (scratch) {
		scratch->record.capability = capability;
		scratch->record.detail = detail;
		pyi_refuse(scratch, own, 0, PYI_ALWAYS_DENIED);
	}
	return -EPERM;
}

/* Ask both policies for `want` at the key; record and answer. */
static __noinline int pyi_check_path(struct pyi_scratch *scratch, struct pyi_task *own, u32 want)
{
	struct pyi_record *record = &scratch->record;
	struct pyi_opinion opinion = {};
	u32 bytes = pyi_close_key(scratch), refused = 0, code = 0;

	pyi_decide_path(record->policy, &scratch->key, bytes, want, &opinion);
	code = opinion.code;
	if (code) {
		record->rights = opinion.missing;
		record->capability = pyi_capability_of_rights(opinion.missing);
		refused = pyi_refuse(scratch, own, record->policy, code);
	}
	if (record->shadow) {
		pyi_decide_path(record->shadow, &scratch->key, bytes, want, &opinion);
		if (opinion.code) {
			record->flags |= PYI_F_SHADOW;
			record->rights = opinion.missing;
			record->capability = pyi_capability_of_rights(opinion.missing);
			pyi_refuse(scratch, own, record->shadow, opinion.code);
			record->flags &= ~PYI_F_SHADOW;
		}
	}
	return pyi_answer(refused, code);
}

/* Refuse `want` because the file's name is not understood; monitor mode only watches it. */
static __always_inline int pyi_not_understood(struct pyi_scratch *scratch, struct pyi_task *own, u32 want, int named)
{
	struct pyi_record *record = &scratch->record;
	record->flags |= named == PYI_UNREACHABLE ? PYI_F_UNREACHABLE
			 : named == PYI_PSEUDO    ? PYI_F_PSEUDO
						  : PYI_F_TOO_LONG;
	record->rights = want;
	record->capability = pyi_capability_of_rights(want);
	int refused = pyi_refuse(scratch, own, record->policy, PYI_NOT_GRANTED);
	return pyi_answer(refused, PYI_NOT_GRANTED);
}

#endif
