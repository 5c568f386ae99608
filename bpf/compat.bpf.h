/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Differences between kernels, one helper each, distinguished by feature (CO-RE), never by version number.
 * Hooks whose arguments changed are two programs, <hook>__args<N>; the loader takes the one whose argument count the
 * running kernel's BTF has (pyisolate/kernel/bpf/loader.py).
 */
#ifndef PYI_COMPAT_BPF_H
#define PYI_COMPAT_BPF_H

#include "types.bpf.h"

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

/* seen in 6.1 to 6.12: a list_head threaded through mount.mnt_instance */
struct super_block___list {
	struct list_head s_mounts;
};
struct mount___list {
	struct list_head mnt_instance;
	struct vfsmount mnt;
};
/* newer (seen in 6.18): a chain of mounts */
struct mount___chain {
	struct mount *mnt_next_for_sb;
};
struct super_block___chain {
	struct mount *s_mounts;
};

#pragma clang attribute pop

static __always_inline struct mount *pyi_mount_of(const struct vfsmount *mnt)
{
	return (struct mount *)((void *)mnt - bpf_core_field_offset(struct mount, mnt));
}

/* First mount of a file system; NULL where there is none. */
static __always_inline struct mount *pyi_first_mount(struct super_block *sb)
{
	if (bpf_core_field_exists(((struct mount___chain *)0)->mnt_next_for_sb)) {
		struct super_block___chain *chained = (void *)sb;
		return BPF_CORE_READ(chained, s_mounts);
	}
	struct super_block___list *listed = (void *)sb;
	void *head = (void *)sb + bpf_core_field_offset(listed->s_mounts);
	void *first = BPF_CORE_READ(listed, s_mounts.next);
	return first == head ? NULL : first - bpf_core_field_offset(struct mount___list, mnt_instance);
}

/* The mount after `mount` of the same file system; NULL at the end. */
static __always_inline struct mount *pyi_next_mount(struct super_block *sb, struct mount *mount)
{
	if (bpf_core_field_exists(((struct mount___chain *)0)->mnt_next_for_sb)) {
		struct mount___chain *chained = (void *)mount;
		return BPF_CORE_READ(chained, mnt_next_for_sb);
	}
	struct super_block___list *listed = (void *)sb;
	struct mount___list *node = (void *)mount;
	void *head = (void *)sb + bpf_core_field_offset(listed->s_mounts);
	void *next = BPF_CORE_READ(node, mnt_instance.next);
	return next == head ? NULL : next - bpf_core_field_offset(struct mount___list, mnt_instance);
}

/*
 * A stacking file system (overlay) opens its layers' files on private mounts, in the guest's context, after the file
 * above has been opened and judged. Recognised by the mount, because FMODE_BACKING is bit 25 in 6.12 and bit 24 later, and no
 * type information has it. Nothing that user space can name is on such a mount (fs/mount.h, MNT_NS_INTERNAL).
 */
#define MNT_NS_INTERNAL ((void *)-22L)

static __always_inline bool pyi_is_layer(const struct path *path)
{
	struct mount *mount = pyi_mount_of(BPF_CORE_READ(path, mnt));
	return BPF_CORE_READ(mount, mnt_ns) == MNT_NS_INTERNAL;
}

/*
 * The path by which user space opened `file`. Where struct backing_file exists (not in 6.1, seen in 6.12) a layer's file
 * carries its own path, and the caller's in the container; before, f_path was the caller's.
 */
static __always_inline const struct path *pyi_user_path(struct file *file)
{
	const struct path *own = (void *)file + bpf_core_field_offset(struct file, f_path);
	if (bpf_core_type_exists(struct backing_file) && pyi_is_layer(own))
		return (void *)file + bpf_core_field_offset(struct backing_file, user_path);
	return own;
}

#endif
