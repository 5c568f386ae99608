// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * Opening, receiving and looking at files, by the path that reaches them.
 *
 * Hooks: file_open, file_receive, inode_getattr, path_notify; all may use bpf_d_path (sleepable hooks). What is open
 * stays open: read(2) and write(2) are not looked at again, so a tightened policy does not close descriptors that the
 * sandbox holds.
 * Not covered: access(2), readlink(2), chdir(2) and O_PATH tell whether a path exists (no hook carries their path);
 * a root view (mounts of the granted paths only) takes those away.
 */
#include "../hook.bpf.h"

/* Name the file, write the key. Returns pyi_named. */
static __always_inline int pyi_name_path(struct pyi_scratch *scratch, const struct path *path)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct dentry *dentry = path->dentry;
	u64 mnt = (u64)path->mnt;

	if (!pyi_reachable(task, mnt)) { /* also: a root that is not a whole mount */
		if (pyi_is_layer(path))
			return PYI_LAYER;
		return pyi_walk_path(scratch, (u64)dentry, mnt);
	}
	/* An unlinked file's d_path ends in " (deleted)"; the walk gives the name it had. */
	if (!dentry->d_hash.pprev && dentry->d_parent != dentry) {
		scratch->record.flags |= PYI_F_DELETED;
		return pyi_walk_path(scratch, (u64)dentry, mnt);
	}
	long bytes = bpf_d_path((struct path *)path, scratch->key.text, PYI_TEXT_BYTES);
	if (bytes < 2 || bytes > PYI_TEXT_BYTES)
		return PYI_TOO_LONG;
	scratch->record.text_bytes = bytes - 1;
	return scratch->key.text[0] == '/' ? PYI_NAMED : PYI_UNREACHABLE;
}

static __always_inline int pyi_check_named(struct pyi_task *own, struct pyi_scratch *scratch, const struct path *path,
					   u32 want)
{
	int named = pyi_name_path(scratch, path);
	if (named == PYI_LAYER) /* the file above it has been judged */
		return 0;
	if (named != PYI_NAMED)
		return pyi_not_understood(scratch, own, want, named);
	return pyi_check_path(scratch, own, want);
}

static __always_inline u32 pyi_open_rights(struct file *file)
{
	u32 mode = file->f_mode, want = 0;
	if (mode & FMODE_READ)
		want |= (file->f_inode->i_mode & S_IFMT) == S_IFDIR ? PYI_LIST : PYI_READ;
	if (mode & FMODE_WRITE)
		want |= PYI_WRITE;
	/* open(2) empties the file after this hook, and from 6.2 on without path_truncate (fs/namei.c, handle_truncate) */
	if ((file->f_flags & O_TRUNC) && (file->f_inode->i_mode & S_IFMT) == S_IFREG)
		want |= PYI_WRITE;
	return want;
}

SEC("lsm/file_open")
int BPF_PROG(file_open, struct file *file)
{
	struct pyi_task *own = pyi_current();
	if (!own)
		return 0;
	struct pyi_scratch *scratch = pyi_begin(own, PYI_H_FILE_OPEN);
	if (!scratch)
		return -EPERM;
	/* execve opens the program, then its loader: bprm_check_security decides on the one, mmap_file on the other */
	if (file->f_flags & FMODE_EXEC)
		return 0;
	if (pyi_is_pseudo(file->f_path.dentry))
		return scratch->record.flags & PYI_F_CLOSED ? -EPERM : 0;
	return pyi_check_named(own, scratch, &file->f_path, pyi_open_rights(file));
}

SEC("lsm/file_receive")
int BPF_PROG(file_receive, struct file *file)
{
	struct pyi_task *own = pyi_current();
	if (!own)
		return 0;
	struct pyi_scratch *scratch = pyi_begin(own, PYI_H_FILE_RECEIVE);
	if (!scratch)
		return -EPERM;
	if (pyi_is_pseudo(file->f_path.dentry)) {
		if (file->f_path.dentry->d_sb->s_magic == ANON_INODE_FS_MAGIC) /* rings, BPF objects, perf events ... */
			return pyi_not_understood(scratch, own, PYI_READ, PYI_PSEUDO);
		return scratch->record.flags & PYI_F_CLOSED ? -EPERM : 0;
	}
	return pyi_check_named(own, scratch, &file->f_path, pyi_open_rights(file));
}

static __always_inline bool pyi_is_fstat(void)
{
	struct pt_regs *regs = (struct pt_regs *)bpf_task_pt_regs(bpf_get_current_task_btf());
	return PYI_SYSCALL_NR(regs) == PYI_NR_FSTAT;
}

/* Hooks look by names that begin so (pyisolate/hooks/paths.py): what they do not find is no refusal of the guest's. */
static __always_inline bool pyi_is_of_hooks(void)
{
	struct pt_regs *regs = (struct pt_regs *)bpf_task_pt_regs(bpf_get_current_task_btf());
	char first[4] = {}, second[4] = {};
	bpf_probe_read_user(first, 3, (void *)PYI_ARG1(regs));
	bpf_probe_read_user(second, 3, (void *)PYI_ARG2(regs));
	return (first[0] == '/' && first[1] == '.' && first[2] == '/') ||
	       (second[0] == '/' && second[1] == '.' && second[2] == '/');
}

/* Does the policy show the path? Nothing is recorded. */
static __always_inline bool pyi_finds(struct pyi_scratch *scratch, const struct path *path)
{
	struct pyi_opinion opinion = {};
	const struct pyi_policy *policy = pyi_policy_at(scratch->record.policy);
	int named = pyi_name_path(scratch, path);
	if (named == PYI_LAYER || (policy && (policy->monitored & PYI_GROUP_FS)))
		return true;
	if (named != PYI_NAMED)
		return false;
	pyi_decide_path(scratch->record.policy, &scratch->key, pyi_close_key(scratch), PYI_LOOK, &opinion);
	return !opinion.code;
}

SEC("lsm/inode_getattr")
int BPF_PROG(inode_getattr, const struct path *path)
{
	struct pyi_task *own = pyi_current();
	if (!own)
		return 0;
	struct pyi_scratch *scratch = pyi_begin(own, PYI_H_INODE_GETATTR);
	if (!scratch)
		return -EPERM;
	if (pyi_is_pseudo(path->dentry))
		return 0;
	if (pyi_is_fstat()) { /* opening was judged, and recorded where it was only watched: once is enough */
		const struct pyi_policy *policy = pyi_policy_at(scratch->record.policy);
		if (policy && (policy->monitored & PYI_GROUP_FS))
			return 0;
		scratch->record.shadow = 0;
	}
	/* what is not granted is not found, as where it is in no root view */
	if (pyi_is_of_hooks())
		return pyi_finds(scratch, path) ? 0 : -ENOENT;
	return pyi_check_named(own, scratch, path, PYI_LOOK) ? -ENOENT : 0;
}

SEC("lsm/path_notify")
int BPF_PROG(path_notify, const struct path *path)
{
	struct pyi_task *own = pyi_current();
	if (!own)
		return 0;
	struct pyi_scratch *scratch = pyi_begin(own, PYI_H_PATH_NOTIFY);
	if (!scratch)
		return -EPERM;
	if (pyi_is_pseudo(path->dentry))
		return 0;
	return pyi_check_named(own, scratch, path, PYI_READ);
}
