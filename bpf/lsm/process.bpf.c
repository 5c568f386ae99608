// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * Threads and processes: who belongs to a sandbox, and whom it may touch.
 *
 * Hooks: task_alloc (membership is inherited here, and forks are decided), task_kill, ptrace_access_check,
 * ptrace_traceme, task_prlimit, task_setnice, task_setscheduler, task_setioprio, task_setpgid, task_movememory.
 * Targets inside the same sandbox are free; everything outside is floor.
 */
#include "../hook.bpf.h"

SEC("lsm/task_alloc")
int BPF_PROG(task_alloc, struct task_struct *task, unsigned long clone_flags)
{
	struct pyi_task *own = pyi_current();
	if (!own)
		return 0;
	struct pyi_scratch *scratch = pyi_begin(own, PYI_H_TASK_ALLOC);
	if (!scratch)
		return -EPERM;
	if (!(clone_flags & CLONE_THREAD)) {
		const struct pyi_policy *policy = pyi_policy_at(scratch->record.policy);
		const struct pyi_policy *shadow = pyi_policy_at(scratch->record.shadow);
		scratch->record.capability = PYI_PROCESS_FORK;
		scratch->record.detail = clone_flags;
		if (shadow && !(shadow->flags & PYI_P_FORK)) {
			scratch->record.flags |= PYI_F_SHADOW;
			pyi_refuse(scratch, own, scratch->record.shadow, PYI_NOT_GRANTED);
			scratch->record.flags &= ~PYI_F_SHADOW;
		}
		u32 code = !policy ? PYI_ALWAYS_DENIED : !(policy->flags & PYI_P_FORK) ? PYI_NOT_GRANTED : 0;
		if (code && pyi_refuse(scratch, own, scratch->record.policy, code))
			return -EPERM;
	}
	struct pyi_task *child = bpf_task_storage_get(&tasks, task, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!child) /* a task that would be in no sandbox must not begin */
		return -EPERM;
	child->sandbox = own->sandbox;
	child->epoch = own->epoch;
	child->slot_number = PYI_SLOT_NONE;
	return 0;
}

static __always_inline bool pyi_same_sandbox(struct pyi_task *own, struct task_struct *target)
{
	struct pyi_task *other = bpf_task_storage_get(&tasks, target, 0, 0);
	return other && other->sandbox == own->sandbox && other->epoch == own->epoch;
}

/* Outside the sandbox is floor. */
static __always_inline int pyi_outside(struct task_struct *target, u32 hook, u32 capability, u64 detail)
{
	struct pyi_task *own = pyi_current();
	if (!own || pyi_same_sandbox(own, target))
		return 0;
	struct pyi_scratch *scratch = pyi_begin(own, hook);
	if (scratch) {
		scratch->record.capability = capability;
		scratch->record.detail = detail << 32 | (u32)target->tgid;
		pyi_refuse(scratch, own, 0, PYI_ALWAYS_DENIED);
	}
	return -EPERM;
}

SEC("lsm/task_kill")
int BPF_PROG(task_kill, struct task_struct *target, struct kernel_siginfo *info, int signal)
{
	return pyi_outside(target, PYI_H_TASK_KILL, PYI_PROCESS_SIGNAL, signal);
}

SEC("lsm/ptrace_access_check")
int BPF_PROG(ptrace_access_check, struct task_struct *child, unsigned int mode)
{
	return pyi_outside(child, PYI_H_PTRACE_ACCESS, PYI_PROCESS_TRACE, mode);
}

SEC("lsm/ptrace_traceme")
int BPF_PROG(ptrace_traceme, struct task_struct *parent)
{
	return pyi_outside(parent, PYI_H_PTRACE_TRACEME, PYI_PROCESS_TRACE, 0);
}

SEC("lsm/task_setnice")
int BPF_PROG(task_setnice, struct task_struct *target, int nice)
{
	return pyi_outside(target, PYI_H_TASK_SETNICE, PYI_PROCESS_SIGNAL, 0);
}

SEC("lsm/task_setscheduler")
int BPF_PROG(task_setscheduler, struct task_struct *target)
{
	return pyi_outside(target, PYI_H_TASK_SETSCHEDULER, PYI_PROCESS_SIGNAL, 0);
}

SEC("lsm/task_setioprio")
int BPF_PROG(task_setioprio, struct task_struct *target)
{
	return pyi_outside(target, PYI_H_TASK_SETIOPRIO, PYI_PROCESS_SIGNAL, 0);
}

SEC("lsm/task_setpgid")
int BPF_PROG(task_setpgid, struct task_struct *target)
{
	return pyi_outside(target, PYI_H_TASK_SETPGID, PYI_PROCESS_SIGNAL, 0);
}

SEC("lsm/task_movememory")
int BPF_PROG(task_movememory, struct task_struct *target)
{
	return pyi_outside(target, PYI_H_TASK_MOVEMEMORY, PYI_PROCESS_TRACE, 0);
}

/* The hook gets credentials, not the task; the caller's own limits do not come here (kernel/sys.c). */
SEC("lsm/task_prlimit")
int BPF_PROG(task_prlimit)
{
	return pyi_floor(PYI_H_TASK_PRLIMIT, PYI_PROCESS_TRACE, 0);
}
