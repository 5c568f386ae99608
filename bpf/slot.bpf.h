/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * The exact join: which broker consultation, if any, belongs to this system call.
 *
 * The guest's audit hook fills its thread's slot before the call. The first program that sees the call takes the
 * slot, allowed or not, and remembers by which call (user stack pointer, instruction pointer, argument), because one
 * call may pass several hooks. A refusal takes the slot only if its tag fits the call's own path argument. So a
 * refusal without a slot is code that went round the interpreter. The guest can forge its own slots, and no other sandbox's.
 */
#ifndef PYI_SLOT_BPF_H
#define PYI_SLOT_BPF_H

#include "maps.bpf.h"

/* The thread's id in its own pid namespace: what gettid(2) tells the guest. */
static __always_inline u32 pyi_own_tid(struct task_struct *task)
{
	struct pid *pid = BPF_CORE_READ(task, thread_pid);
	u32 level = BPF_CORE_READ(pid, level);
	u32 nr = 0;
	if (level > 32) /* MAX_PID_NS_LEVEL, include/linux/pid_namespace.h */
		return 0;
	bpf_probe_read_kernel(&nr, sizeof(nr),
			      (void *)pid + bpf_core_field_offset(struct pid, numbers) +
				      level * bpf_core_type_size(struct upid) + bpf_core_field_offset(struct upid, nr));
	return nr;
}

/* The slot's tag as this call would have it: of its path argument, wherever that stands; 0 if there is none. */
static __always_inline u64 pyi_tag_at(unsigned long address, char *text, u32 size)
{
	long bytes = bpf_probe_read_user_str(text, size, (void *)address);
	if (bytes <= 1 || bytes > size)
		return 0;
	u64 tail = 0;
	u32 length = bytes - 1, from = length > 8 ? length - 8 : 0;
#pragma unroll
	for (u32 i = 0; i < 8; i++) {
		u32 at = from + i;
		if (at < length && at < size)
			tail |= (u64)(u8)text[at & (PYI_KEY_BYTES - 1)] << (8 * i);
	}
	return tail ^ ((u64)length << 56);
}

static __always_inline void pyi_slot_take(struct pyi_task *own, struct pyi_slot *slot, struct task_struct *task)
{
	struct pt_regs *regs = (struct pt_regs *)bpf_task_pt_regs(task);
	own->slot = *slot;
	own->call[0] = PYI_STACK(regs);
	own->call[1] = PYI_INSTRUCTION(regs);
	own->call[2] = PYI_ARG2(regs);
}

/* Take this thread's slot, if it holds a consultation not seen yet. Runs for allowed operations too. */
static __always_inline void pyi_slot_consume(struct pyi_task *own, struct task_struct *task)
{
	u32 sandbox = own->sandbox, number = own->slot_number;
	struct pyi_slot_page *page = bpf_map_lookup_elem(&slots, &sandbox);
	if (!page)
		return;
	if (number < PYI_SLOTS) {
		struct pyi_slot *slot = &page->slots[number & (PYI_SLOTS - 1)];
		if (slot->sequence != own->slot.sequence)
			pyi_slot_take(own, slot, task);
		return;
	}
	u32 tid = own->own_tid;
	if (!tid)
		own->own_tid = tid = pyi_own_tid(task);
#pragma unroll
	for (int i = 0; i < PYI_SLOT_PROBES; i++) {
		struct pyi_slot *slot = &page->slots[(tid + i) & (PYI_SLOTS - 1)];
		if (tid && slot->tid == tid) {
			if (slot->sequence != own->slot.sequence)
				pyi_slot_take(own, slot, task);
			return;
		}
	}
}

/* True when the hook would have found a slot for this thread and has none: it has never consulted the broker. */
static __always_inline bool pyi_slot_never(struct pyi_task *own)
{
	u32 sandbox = own->sandbox;
	struct pyi_slot_page *page = bpf_map_lookup_elem(&slots, &sandbox);
	if (!page)
		return false;
	u32 tid = pyi_own_tid(bpf_get_current_task_btf());
#pragma unroll
	for (int i = 0; i < PYI_SLOT_PROBES; i++)
		if (!page->slots[(tid + i) & (PYI_SLOTS - 1)].tid)
			return true;
	return false;
}

/* Put the consultation that belongs to this call into the record. `text` is space to read the argument into. */
static __always_inline void pyi_slot_record(struct pyi_task *own, struct pyi_record *record, struct pt_regs *regs,
					    char *text)
{
	struct pyi_slot *slot = &own->slot;
	if (!slot->sequence && own->slot_number >= PYI_SLOTS) { /* the broker never used a slot in this thread */
		if (!pyi_slot_never(own))                       /* all its places are taken by others */
			record->flags |= PYI_F_SLOT_UNKNOWN;
		return;
	}
	if (own->call[0] != PYI_STACK(regs) || own->call[1] != PYI_INSTRUCTION(regs) || own->call[2] != PYI_ARG2(regs))
		return;
	if (slot->tag && slot->tag != pyi_tag_at(PYI_ARG1(regs), text, PYI_KEY_BYTES) &&
	    slot->tag != pyi_tag_at(PYI_ARG2(regs), text, PYI_KEY_BYTES))
		return;
	record->sequence = slot->sequence;
	record->slot_capability = slot->capability;
	record->slot_verdict = slot->verdict;
	record->flags |= PYI_F_CONSULTED;
}

#endif
