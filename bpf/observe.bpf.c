// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * See, without deciding, which system calls of sandboxed threads were refused, with their path or address.
 *
 * Programs: tp_btf/sys_exit (refusals), tp_btf/task_newtask (membership is inherited). For kernels where something else
 * decides (Landlock, seccomp) and BPF-LSM cannot be used. Costs every system call on the machine some 75 ns: opt-in.
 */
#include "record.bpf.h"
#include "slot.bpf.h"

#define EROFS 30
#define EXDEV 18

SEC("tp_btf/task_newtask")
int BPF_PROG(task_newtask, struct task_struct *task)
{
	struct pyi_task *own = bpf_task_storage_get(&tasks, bpf_get_current_task_btf(), 0, 0);
	if (!own)
		return 0;
	struct pyi_task *child = bpf_task_storage_get(&tasks, task, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!child)
		return 0;
	child->sandbox = own->sandbox;
	child->epoch = own->epoch;
	child->slot_number = PYI_SLOT_NONE;
	return 0;
}

/* The refused call's path or address, whichever of its first two arguments points to one. */
static __always_inline void pyi_observe_target(struct pyi_scratch *scratch, struct pt_regs *regs, u32 which)
{
	struct pyi_record *record = &scratch->record;
	unsigned long at = which == 1 ? PYI_ARG1(regs) : PYI_ARG2(regs);
	long bytes = bpf_probe_read_user_str(scratch->key.text, PYI_TEXT_SENT, (void *)at);
	if (bytes > 1 && bytes <= PYI_TEXT_SENT)
		record->text_bytes = bytes - 1;
}

static __always_inline void pyi_observe_address(struct pyi_record *record, struct pt_regs *regs, u32 which)
{
	struct pyi_sockaddr_in6 in6 = {};
	unsigned long at = which == 2 ? PYI_ARG2(regs) : PYI_ARG5(regs);
	if (bpf_probe_read_user(&in6, 8, (void *)at))
		return;
	record->family = in6.family;
	record->port = __builtin_bswap16(in6.port);
	if (in6.family == AF_INET) {
		record->address[10] = record->address[11] = 0xff;
		__builtin_memcpy(record->address + 12, &in6.flow, 4);
	} else if (in6.family == AF_INET6 && !bpf_probe_read_user(&in6, sizeof(in6), (void *)at)) {
		__builtin_memcpy(record->address, in6.address, 16);
	}
}

SEC("tp_btf/sys_exit")
int BPF_PROG(sys_exit, struct pt_regs *regs, long result)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct pyi_task *own = bpf_task_storage_get(&tasks, task, 0, 0);
	if (!own)
		return 0;
	pyi_slot_consume(own, task);
	if (result != -EACCES && result != -EPERM && result != -EROFS && result != -EXDEV)
		return 0;
	long number = PYI_SYSCALL_NR(regs);
	u32 key = number;
	struct pyi_syscall *what = bpf_map_lookup_elem(&syscalls, &key);
	if (!what || !what->capability)
		return 0;
	struct pyi_scratch *scratch = bpf_task_storage_get(&scratches, task, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!scratch)
		return 0;
	struct pyi_record *record = &scratch->record;
	__builtin_memset(record, 0, sizeof(*record));
	u64 id = bpf_get_current_pid_tgid();
	u32 index = own->sandbox;
	struct pyi_sandbox *sandbox = bpf_map_lookup_elem(&sandboxes, &index);
	if (sandbox && sandbox->epoch == own->epoch)
		record->policy = (u32) * (volatile u64 *)&sandbox->policies;
	record->hook = PYI_H_SYS_EXIT;
	record->flags = PYI_F_KERNEL;
	record->sandbox = index;
	record->epoch = own->epoch;
	record->pid = id >> 32;
	record->tid = (u32)id;
	record->syscall = number;
	record->error = -result;
	record->capability = what->capability;
	record->verdict = PYI_DENY;
	record->code = PYI_NOT_GRANTED;
	record->detail = PYI_ARG2(regs) << 32 | (u32)PYI_ARG3(regs);
	if (what->path)
		pyi_observe_target(scratch, regs, what->path);
	else if (what->address)
		pyi_observe_address(record, regs, what->address);
	pyi_slot_record(own, record, regs, scratch->walk);
	pyi_emit(record, sizeof(*record) + sizeof(u32) + record->text_bytes);
	own->call[0] = 0;
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
