// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * Ask how often Landlock has refused something in a task's domain. Run by the supervisor, attached to nothing.
 *
 * landlock_hierarchy.num_denials exists since 6.15 (with CONFIG_AUDIT), bpf_task_from_vpid since 6.14: it takes numbers of
 * the supervisor's own pid namespace, so that one in a container reads its own cells. Landlock's part of a task's
 * credentials begins at landlock_blob_sizes.lbs_cred, which no symbol tells: the supervisor finds it out with a task of
 * its own (pyisolate/kernel/bpf/landlock_counter.py).
 */
#include "types.bpf.h"
#include "pyisolate.h"

extern struct task_struct *bpf_task_from_vpid(int pid) __ksym;
extern void bpf_task_release(struct task_struct *task) __ksym;

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct landlock_hierarchy {
	struct landlock_hierarchy *parent;
	struct {
		long long counter;
	} num_denials;
	u64 id;
};
struct landlock_ruleset {
	struct landlock_hierarchy *hierarchy;
	u32 num_layers;
};
struct landlock_cred_security {
	struct landlock_ruleset *domain;
};
#pragma clang attribute pop

SEC("syscall")
int landlock(struct pyi_landlock *answer)
{
	struct task_struct *task = bpf_task_from_vpid(answer->pid);
	if (!task) {
		answer->result = -3; /* ESRCH */
		return 0;
	}
	void *security = BPF_CORE_READ(task, cred, security);
	struct landlock_cred_security *own = security + answer->blob_offset;
	struct landlock_ruleset *domain = BPF_CORE_READ(own, domain);
	answer->layers = 0;
	answer->denials = 0;
	answer->domain = 0;
	if (domain) {
		struct landlock_hierarchy *hierarchy = BPF_CORE_READ(domain, hierarchy);
		answer->layers = BPF_CORE_READ(domain, num_layers);
		answer->domain = BPF_CORE_READ(hierarchy, id);
		answer->denials = BPF_CORE_READ(hierarchy, num_denials.counter);
	}
	bpf_task_release(task);
	answer->result = 0;
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
