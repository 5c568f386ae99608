/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * The maps, one definition for every object: the loader creates each once and hands the same map to all objects
 * (bpf_map__reuse_fd). Nothing is pinned: the maps live as long as the supervisor or a program holds them.
 *
 * paths[i], nets[i] and policies[i] together are policy i. They are filled first and never changed; a sandbox's entry
 * then takes the new index with one 64-bit store. An index is reused only after a grace period.
 */
#ifndef PYI_MAPS_BPF_H
#define PYI_MAPS_BPF_H

#include "types.bpf.h"
#include "pyisolate.h"

#define PYI_POLICIES  4096
#define PYI_SANDBOXES 2048 /* default; the loader may resize both together */

struct pyi_path_table {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_RDONLY_PROG);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(struct pyi_path_key)); /* clang 14 leaves types of inner maps undeclared in BTF */
	__uint(value_size, sizeof(struct pyi_path_rule));
};

struct pyi_net_table {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_RDONLY_PROG);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(struct pyi_net_key));
	__uint(value_size, sizeof(struct pyi_net_rules));
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, PYI_POLICIES);
	__type(key, u32);
	__array(values, struct pyi_path_table);
} paths SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, PYI_POLICIES);
	__type(key, u32);
	__array(values, struct pyi_net_table);
} nets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PYI_POLICIES);
	__type(key, u32);
	__type(value, struct pyi_policy);
} policies SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, PYI_SANDBOXES);
	__type(key, u32);
	__type(value, struct pyi_sandbox);
} sandboxes SEC(".maps");

/* Which sandbox a thread belongs to. Not inherited by itself: task_alloc copies it (process.bpf.c). */
struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct pyi_task);
} tasks SEC(".maps");

/* Work space, made when a sandboxed thread first needs it. Per task, because a per-CPU one could be overwritten by
 * another task that preempts the program between the path's reading and its look-up. */
struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct pyi_scratch);
} scratches SEC(".maps");

/* Which sandbox made a socket: what is inside one sandbox may talk to itself. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct pyi_task);
} sockets SEC(".maps");

/* Threads to be adopted, by tid: for kernels whose task storage cannot be reached by a thread's pidfd (before 6.9). */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, u32);
	__type(value, struct pyi_task);
} handovers SEC(".maps");

/* cgroup v2 id -> sandbox, for the cgroup programs */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, PYI_SANDBOXES);
	__type(key, u64);
	__type(value, struct pyi_task);
} cgroups SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 262144);
	__type(key, struct pyi_counter_key);
	__type(value, u64);
} counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct pyi_control);
} control SEC(".maps");

/* One page per sandbox, mapped into its cell. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, PYI_SANDBOXES);
	__type(key, u32);
	__type(value, struct pyi_slot_page);
} slots SEC(".maps");

/* Which system calls belong to the floor, by number. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 512);
	__type(key, u32);
	__type(value, struct pyi_syscall);
} syscalls SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4 << 20);
} events SEC(".maps");

#endif
