// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * Self-protection: nothing in a sandbox reaches a BPF map, program or link, ours or anyone's.
 *
 * Hooks: bpf (every command of bpf(2)), bpf_map and bpf_prog (a descriptor by id or by pinned path).
 * Programs stay attached while the supervisor's links are open. When the supervisor dies its links close and programs
 * detach: cells die with it first (PR_SET_PDEATHSIG), and the loader pins nothing.
 */
#include "../hook.bpf.h"

SEC("lsm/bpf")
int BPF_PROG(bpf_syscall, int command)
{
	return pyi_floor(PYI_H_BPF, PYI_KERNEL_BPF, command);
}

SEC("lsm/bpf_map")
int BPF_PROG(bpf_map_descriptor)
{
	return pyi_floor(PYI_H_BPF, PYI_KERNEL_BPF, 0);
}

SEC("lsm/bpf_prog")
int BPF_PROG(bpf_prog_descriptor)
{
	return pyi_floor(PYI_H_BPF, PYI_KERNEL_BPF, 0);
}
