/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * From kernel objects to the name that a policy speaks of: the path below the task's own root.
 *
 * Two ways. bpf_d_path where the kernel allows it (sleepable hooks); a bounded walk over dentries and mounts
 * elsewhere. Either way the name counts only if the file is reachable from the task's root by mounts: a file of a
 * detached tree, another mount namespace or above a chroot has a name that means something else, and is refused.
 */
#ifndef PYI_PATH_BPF_H
#define PYI_PATH_BPF_H

#include "compat.bpf.h"
#include "maps.bpf.h"

#define PYI_COMPONENTS 128 /* names between a file and the root; deeper is refused */
#define PYI_MOUNTS     16  /* mounts between a file and the root; deeper is refused */

enum pyi_named { PYI_NAMED = 0, PYI_UNREACHABLE = 1, PYI_TOO_LONG = 2, PYI_PSEUDO = 3, PYI_LAYER = 4 };

/* Pipes, sockets, memfds, shared anonymous memory, anonymous inodes: no path, made by the guest or handed to it. They
 * make up a name when asked for one (d_dname), or live on a file system that cannot be mounted. */
static __always_inline bool pyi_is_pseudo(struct dentry *dentry)
{
	if (dentry->d_sb->s_flags & SB_NOUSER)
		return true;
	const struct dentry_operations *operations = dentry->d_op;
	return operations && operations->d_dname;
}

struct pyi_walk {
	struct pyi_scratch *scratch;
	u64 dentry, mount; /* kernel addresses, read by probe */
	u64 root_dentry, root_mount;
	u32 at;
	int result;
};

#define PYI_WALK_END (PYI_TEXT_BYTES)

static long pyi_walk_step(u32 i, struct pyi_walk *walk)
{
	struct dentry *dentry = (void *)walk->dentry;
	struct mount *mount = (void *)walk->mount;
	struct qstr name = {};

	if (walk->dentry == walk->root_dentry && walk->mount == walk->root_mount) {
		walk->result = PYI_NAMED;
		return 1;
	}
	if (dentry == BPF_CORE_READ(mount, mnt.mnt_root)) {
		struct mount *parent = BPF_CORE_READ(mount, mnt_parent);
		if (parent == mount) { /* the top of a mount tree that is not the task's */
			walk->result = PYI_UNREACHABLE;
			return 1;
		}
		walk->dentry = (u64)BPF_CORE_READ(mount, mnt_mountpoint);
		walk->mount = (u64)parent;
		return 0;
	}
	struct dentry *parent = BPF_CORE_READ(dentry, d_parent);
	if (parent == dentry) {
		walk->result = PYI_UNREACHABLE;
		return 1;
	}
	name.len = BPF_CORE_READ(dentry, d_name.len);
	name.name = BPF_CORE_READ(dentry, d_name.name);
	u32 bytes = name.len, at = walk->at;
	if (bytes == 0 || bytes > 255 || at < bytes + 2 || at > PYI_WALK_END) { /* NAME_MAX */
		walk->result = PYI_TOO_LONG;
		return 1;
	}
	u64 start = at - bytes - 1, length = bytes;
	barrier_var(start); /* the masks change nothing; they are what the verifier believes */
	start &= PYI_TEXT_BYTES - 1;
	barrier_var(length);
	length &= 255;
	char *buffer = walk->scratch->walk;
	buffer[start] = '/';
	if (bpf_probe_read_kernel(buffer + start + 1, length, name.name)) {
		walk->result = PYI_UNREACHABLE;
		return 1;
	}
	walk->at = start;
	walk->dentry = (u64)parent;
	return 0;
}

/* Write the name of (dentry, mount) to the key's text. Returns pyi_named; record.text_bytes has the length. */
static __noinline int pyi_walk_path(struct pyi_scratch *scratch, u64 dentry, u64 mnt)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct pyi_walk walk = {
		.scratch = scratch,
		.dentry = dentry,
		.mount = mnt - bpf_core_field_offset(struct mount, mnt),
		.root_dentry = (u64)BPF_CORE_READ(task, fs, root.dentry),
		.root_mount = (u64)BPF_CORE_READ(task, fs, root.mnt) - bpf_core_field_offset(struct mount, mnt),
		.at = PYI_WALK_END,
		.result = PYI_TOO_LONG,
	};
	scratch->record.text_bytes = 0;
	bpf_loop(PYI_COMPONENTS, pyi_walk_step, &walk, 0);
	if (walk.result != PYI_NAMED && walk.result != PYI_UNREACHABLE)
		return PYI_TOO_LONG;
	u32 at = walk.at;
	if (at >= PYI_WALK_END) { /* the root itself */
		scratch->key.text[0] = '/';
		scratch->record.text_bytes = 1;
		return walk.result;
	}
	u64 start = at, bytes = PYI_WALK_END - at;
	barrier_var(start);
	start &= PYI_TEXT_BYTES - 1;
	barrier_var(bytes);
	if (bytes > PYI_TEXT_BYTES || bpf_probe_read_kernel(scratch->key.text, bytes, scratch->walk + start))
		return PYI_TOO_LONG;
	scratch->record.text_bytes = bytes;
	return walk.result;
}

/* Is the mount below the task's root mount? Only where the root is a whole mount; else the walk must tell. */
static __always_inline bool pyi_reachable(struct task_struct *task, u64 mnt)
{
	u64 mount = mnt - bpf_core_field_offset(struct mount, mnt);
	struct vfsmount *root = task->fs->root.mnt;
	u64 root_mount = (u64)root - bpf_core_field_offset(struct mount, mnt);
	if (task->fs->root.dentry != root->mnt_root)
		return false;
	for (int i = 0; i < PYI_MOUNTS; i++) {
		if (mount == root_mount)
			return true;
		struct mount *parent = BPF_CORE_READ((struct mount *)mount, mnt_parent);
		if ((u64)parent == mount)
			return false;
		mount = (u64)parent;
	}
	return false;
}

/* Finish the key: one slash at the end, prefixlen in bits. Returns the key's bytes before the cut. */
static __always_inline u32 pyi_close_key(struct pyi_scratch *scratch)
{
	u32 bytes = scratch->record.text_bytes;
	if (bytes > PYI_TEXT_BYTES)
		bytes = PYI_TEXT_BYTES;
	if (bytes == 1) { /* "/" ends in its slash already */
		scratch->key.prefixlen = 8;
		return 1;
	}
	if (bytes >= PYI_KEY_BYTES) {
		scratch->key.prefixlen = PYI_KEY_BYTES * 8;
		return bytes + 1;
	}
	scratch->key.text[bytes & (PYI_KEY_BYTES - 1)] = '/';
	scratch->key.prefixlen = (bytes + 1) * 8;
	return bytes + 1;
}

#endif
