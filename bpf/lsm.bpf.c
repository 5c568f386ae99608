// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * The BPF-LSM enforcer: every hook, one object, so that the kernel's types are read and the maps made once.
 * The hooks stand in lsm/, by what they guard.
 */
#include "lsm/file.bpf.c"
#include "lsm/memory.bpf.c"
#include "lsm/names.bpf.c"
#include "lsm/process.bpf.c"
#include "lsm/net.bpf.c"
#include "lsm/floor.bpf.c"
#include "lsm/self.bpf.c"

char LICENSE[] SEC("license") = "Dual BSD/GPL";
