// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * Executable memory and programs: what may become code.
 *
 * Hooks: mmap_file, file_mprotect, bprm_check_security.
 * Memory is writable or executable, never both and never one after the other: anonymous executable memory is refused,
 * a file's mapping may be executable only if a rule grants that file (import.native, process.exec) and the mapping
 * was not written. So neither ctypes nor a raw mmap brings in code that no rule names.
 */
#include "../hook.bpf.h"

/* Code that no file names: granted by `memory: {jit: true}` and with any native code (`import: {native: ["*"]}`). */
static __noinline int pyi_memory(struct pyi_scratch *scratch, struct pyi_task *own, u64 prot)
{
	struct pyi_record *record = &scratch->record;
	const struct pyi_policy *policy = pyi_policy_at(record->policy), *shadow = pyi_policy_at(record->shadow);
	record->capability = PYI_MEMORY_EXEC;
	record->detail = prot;
	if (shadow && !(shadow->flags & PYI_P_MEMORY)) {
		record->flags |= PYI_F_SHADOW;
		pyi_refuse(scratch, own, record->shadow, PYI_NOT_GRANTED);
		record->flags &= ~PYI_F_SHADOW;
	}
	if (policy && (policy->flags & PYI_P_MEMORY))
		return 0;
	int refused = pyi_refuse(scratch, own, record->policy, PYI_NOT_GRANTED);
	return pyi_answer(refused, PYI_NOT_GRANTED);
}

/* A file's code: a library that is granted, or the program and its loader under an exec grant. */
static __always_inline int pyi_check_code(struct pyi_scratch *scratch, struct pyi_task *own, struct file *file,
					  u64 prot)
{
	if (pyi_is_pseudo(file->f_path.dentry)) /* a memfd, shared anonymous memory */
		return pyi_memory(scratch, own, prot);
	const struct path *path = pyi_user_path(file);
	struct dentry *dentry = BPF_CORE_READ(path, dentry);
	int named = pyi_walk_path(scratch, (u64)dentry, (u64)BPF_CORE_READ(path, mnt));
	if (named != PYI_NAMED)
		return pyi_not_understood(scratch, own, PYI_MAP_EXEC, named);
	return pyi_check_path(scratch, own, PYI_MAP_EXEC);
}

SEC("lsm/mmap_file")
int BPF_PROG(mmap_file, struct file *file, unsigned long reqprot, unsigned long prot, unsigned long flags)
{
	if (!(prot & PROT_EXEC))
		return 0;
	struct pyi_task *own = pyi_current();
	if (!own)
		return 0;
	struct pyi_scratch *scratch = pyi_begin(own, PYI_H_MMAP_FILE);
	if (!scratch)
		return -EPERM;
	if (!file || (prot & PROT_WRITE))
		return pyi_memory(scratch, own, prot);
	return pyi_check_code(scratch, own, file, prot);
}

SEC("lsm/file_mprotect")
int BPF_PROG(file_mprotect, struct vm_area_struct *vma, unsigned long reqprot, unsigned long prot)
{
	if (!(prot & PROT_EXEC))
		return 0;
	struct pyi_task *own = pyi_current();
	if (!own)
		return 0;
	struct pyi_scratch *scratch = pyi_begin(own, PYI_H_FILE_MPROTECT);
	if (!scratch)
		return -EPERM;
	struct file *file = vma->vm_file;
	/* anon_vma: a private mapping that was written to holds the guest's bytes, not the file's */
	if (!file || (prot & PROT_WRITE) || vma->anon_vma)
		return pyi_memory(scratch, own, prot);
	return pyi_check_code(scratch, own, file, prot);
}

/* Called once for the file that execve names and once for each interpreter that it leads to. */
SEC("lsm/bprm_check_security")
int BPF_PROG(bprm_check_security, struct linux_binprm *bprm)
{
	struct pyi_task *own = pyi_current();
	if (!own)
		return 0;
	struct pyi_scratch *scratch = pyi_begin(own, PYI_H_BPRM_CHECK);
	if (!scratch)
		return -EPERM;
	struct file *file = bprm->file;
	if (pyi_is_pseudo(file->f_path.dentry))
		return pyi_not_understood(scratch, own, PYI_EXEC, PYI_PSEUDO);
	const struct path *path = pyi_user_path(file);
	struct dentry *dentry = BPF_CORE_READ(path, dentry);
	int named = pyi_walk_path(scratch, (u64)dentry, (u64)BPF_CORE_READ(path, mnt));
	if (named != PYI_NAMED)
		return pyi_not_understood(scratch, own, PYI_EXEC, named);
	return pyi_check_path(scratch, own, PYI_EXEC);
}
