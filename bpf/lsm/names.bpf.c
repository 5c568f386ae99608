// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * Making, removing, renaming and changing what a path names.
 *
 * Hooks: path_mknod, path_mkdir, path_rmdir, path_unlink, path_symlink, path_link, path_rename, path_truncate,
 * path_chmod, path_chown, inode_setattr (times), inode_setxattr, inode_removexattr, inode_set_acl.
 * A new name must never carry rights that the old one lacks (hard links and renames would launder them), and a
 * directory below which rules exist keeps its name (the rules would stay at the old name).
 * The inode_* hooks get a dentry but no mount: the change must be allowed by every name that the dentry has below
 * the task's root.
 */
#include "../hook.bpf.h"

#define PYI_ALL_MOUNTS 65536 /* of one file system, those of other tasks among them; no guest makes any */

static __noinline int pyi_named(u32 hook, u64 dentry, u64 mnt, u32 want)
{
	struct pyi_task *own = pyi_current();
	if (!own)
		return 0;
	struct pyi_scratch *scratch = pyi_begin(own, hook);
	if (!scratch)
		return -EPERM;
	int named = pyi_walk_path(scratch, dentry, mnt);
	if (named != PYI_NAMED)
		return pyi_not_understood(scratch, own, want, named);
	return pyi_check_path(scratch, own, want);
}

SEC("lsm/path_mknod")
int BPF_PROG(path_mknod, const struct path *dir, struct dentry *dentry, unsigned short mode)
{
	u32 type = mode & S_IFMT;
	if (type == S_IFCHR || type == S_IFBLK)
		return pyi_floor(PYI_H_PATH_MKNOD, PYI_KERNEL_CAPABILITY, mode);
	return pyi_named(PYI_H_PATH_MKNOD, (u64)dentry, (u64)dir->mnt, type == S_IFSOCK ? PYI_UNIX_BIND : PYI_CREATE);
}

SEC("lsm/path_mkdir")
int BPF_PROG(path_mkdir, const struct path *dir, struct dentry *dentry)
{
	return pyi_named(PYI_H_PATH_MKDIR, (u64)dentry, (u64)dir->mnt, PYI_CREATE);
}

SEC("lsm/path_symlink")
int BPF_PROG(path_symlink, const struct path *dir, struct dentry *dentry)
{
	return pyi_named(PYI_H_PATH_SYMLINK, (u64)dentry, (u64)dir->mnt, PYI_CREATE);
}

SEC("lsm/path_unlink")
int BPF_PROG(path_unlink, const struct path *dir, struct dentry *dentry)
{
	return pyi_named(PYI_H_PATH_UNLINK, (u64)dentry, (u64)dir->mnt, PYI_DELETE);
}

SEC("lsm/path_rmdir")
int BPF_PROG(path_rmdir, const struct path *dir, struct dentry *dentry)
{
	return pyi_named(PYI_H_PATH_RMDIR, (u64)dentry, (u64)dir->mnt, PYI_DELETE);
}

SEC("lsm/path_truncate")
int BPF_PROG(path_truncate, const struct path *path)
{
	return pyi_named(PYI_H_PATH_TRUNCATE, (u64)path->dentry, (u64)path->mnt, PYI_WRITE);
}

SEC("lsm/path_chmod")
int BPF_PROG(path_chmod, const struct path *path)
{
	return pyi_named(PYI_H_PATH_CHMOD, (u64)path->dentry, (u64)path->mnt, PYI_METADATA);
}

SEC("lsm/path_chown")
int BPF_PROG(path_chown, const struct path *path)
{
	return pyi_named(PYI_H_PATH_CHOWN, (u64)path->dentry, (u64)path->mnt, PYI_METADATA);
}

SEC("lsm/path_chroot")
int BPF_PROG(path_chroot)
{
	return pyi_floor(PYI_H_PATH_CHROOT, PYI_KERNEL_MOUNT, 0);
}

/* What the policy holds at (dentry, mnt); the key keeps the name. Returns -1 if the name is not understood. */
static __noinline int pyi_rights_at(struct pyi_scratch *scratch, u64 dentry, u64 mnt, struct pyi_opinion *opinion)
{
	if (!opinion || pyi_walk_path(scratch, dentry, mnt) != PYI_NAMED)
		return -1;
	pyi_decide_path(scratch->record.policy, &scratch->key, pyi_close_key(scratch), 0, opinion);
	return 0;
}

struct pyi_names {
	u64 from, from_mnt, to, to_mnt; /* dentries and vfsmounts */
};

/* `from` gets the name `to`: CREATE there, and nothing gained by it. The last name walked is `to`, for the record. */
static __noinline int pyi_renamed(struct pyi_task *own, struct pyi_scratch *scratch, const struct pyi_names *names)
{
	struct pyi_opinion old = {}, new = {};
	if (pyi_rights_at(scratch, names->from, names->from_mnt, &old) ||
	    pyi_rights_at(scratch, names->to, names->to_mnt, &new))
		return pyi_not_understood(scratch, own, PYI_CREATE, PYI_UNREACHABLE);
	if (!(new.allow & ~old.allow) && !old.below)
		return pyi_check_path(scratch, own, PYI_CREATE);
	scratch->record.flags |= PYI_F_WIDENS;
	scratch->record.rights = new.allow & ~old.allow;
	scratch->record.capability = PYI_FS_CREATE;
	int refused = pyi_refuse(scratch, own, scratch->record.policy, PYI_SCOPE_INSUFFICIENT);
	return pyi_answer(refused, PYI_SCOPE_INSUFFICIENT);
}

SEC("lsm/path_link")
int BPF_PROG(path_link, struct dentry *old_dentry, const struct path *new_dir, struct dentry *new_dentry)
{
	struct pyi_task *own = pyi_current();
	if (!own)
		return 0;
	struct pyi_scratch *scratch = pyi_begin(own, PYI_H_PATH_LINK);
	if (!scratch)
		return -EPERM;
	/* link(2) stays on one mount (EXDEV otherwise), so the old name is on the new one's */
	u64 mnt = (u64)new_dir->mnt;
	struct pyi_names names = {(u64)old_dentry, mnt, (u64)new_dentry, mnt};
	return pyi_renamed(own, scratch, &names);
}

static __always_inline int pyi_move(const struct pyi_names *names)
{
	int answer = pyi_named(PYI_H_PATH_RENAME, names->from, names->from_mnt, PYI_DELETE);
	if (answer)
		return answer;
	struct pyi_task *own = pyi_current();
	if (!own)
		return 0;
	struct pyi_scratch *scratch = pyi_begin(own, PYI_H_PATH_RENAME);
	if (!scratch)
		return -EPERM;
	return pyi_renamed(own, scratch, names);
}

#define RENAME_EXCHANGE 2 /* include/uapi/linux/fs.h */

SEC("lsm/path_rename")
int BPF_PROG(path_rename, const struct path *old_dir, struct dentry *old_dentry, const struct path *new_dir,
	     struct dentry *new_dentry, unsigned int flags)
{
	struct pyi_names names = {(u64)old_dentry, (u64)old_dir->mnt, (u64)new_dentry, (u64)new_dir->mnt};
	struct pyi_names back = {names.to, names.to_mnt, names.from, names.from_mnt};
	int answer = pyi_move(&names);
	if (answer)
		return answer;
	if (flags & RENAME_EXCHANGE)
		return pyi_move(&back);
	if (new_dentry->d_inode) /* what stands there goes */
		return pyi_named(PYI_H_PATH_RENAME, names.to, names.to_mnt, PYI_DELETE);
	return 0;
}

struct pyi_alias {
	struct pyi_scratch *scratch;
	struct pyi_task *own;
	u64 dentry, sb, mount;
	u64 top; /* of the task's own mounts: those below another top lead nowhere below its root */
	u32 names;
	u32 named; /* PYI_TOO_LONG where one name is */
	u32 lost;  /* a mount was taken away while it was looked at, and with it the way to the next */
	int answer;
};

/*
 * The top of the tree that a mount is in, or 0 where it is deeper than PYI_MOUNTS. Not the mount namespace: the tree of a
 * sandbox whose last descriptor was closed has none any more (fs/namespace.c, dissolve_on_fput), and that of every other
 * such sandbox has none either. The mounts stay below one another.
 */
static __noinline u64 pyi_top(u64 mount)
{
	for (int i = 0; i < PYI_MOUNTS; i++) {
		u64 parent = (u64)BPF_CORE_READ((struct mount *)mount, mnt_parent);
		if (parent == mount)
			return mount;
		mount = parent;
	}
	return 0;
}

static long pyi_alias_step(u32 i, struct pyi_alias *alias)
{
	struct mount *mount = (void *)alias->mount, *parent = NULL;
	if (!mount)
		return 1;
	/* list_del leaves a poisoned address (include/linux/poison.h): it cannot be read */
	if (BPF_CORE_READ_INTO(&parent, mount, mnt_parent)) {
		alias->lost = 1;
		return 1;
	}
	u64 top = pyi_top(alias->mount);
	if (top == alias->top || !top || !alias->top) {
		alias->named = pyi_walk_path(alias->scratch, alias->dentry,
					     alias->mount + bpf_core_field_offset(struct mount, mnt));
		if (alias->named == PYI_NAMED) {
			alias->names = 1;
			alias->answer = pyi_check_path(alias->scratch, alias->own, PYI_METADATA);
		}
		if (alias->answer || alias->named == PYI_TOO_LONG)
			return 1;
	}
	alias->mount = (u64)pyi_next_mount((void *)alias->sb, mount);
	return 0;
}

static __noinline int pyi_every_name(u32 hook, struct dentry *dentry)
{
	struct pyi_task *own = pyi_current();
	if (!own)
		return 0;
	struct pyi_scratch *scratch = pyi_begin(own, hook);
	if (!scratch)
		return -EPERM;
	struct super_block *sb = BPF_CORE_READ(dentry, d_sb);
	struct task_struct *task = bpf_get_current_task_btf();
	struct mount *root = pyi_mount_of(BPF_CORE_READ(task, fs, root.mnt));
	struct pyi_alias alias = {
		.scratch = scratch,
		.own = own,
		.dentry = (u64)dentry,
		.sb = (u64)sb,
		.mount = (u64)pyi_first_mount(sb),
		.top = pyi_top((u64)root),
	};
	if (pyi_is_pseudo(dentry))
		return 0;
	/* An overlay passes the change on to its layer with its own credentials, after it was judged above. */
	if (task->cred != task->real_cred)
		return 0;
	bpf_loop(PYI_ALL_MOUNTS, pyi_alias_step, &alias, 0);
	if (alias.lost) { /* look again, once: it is rare, and to be lost again is refused below */
		alias.mount = (u64)pyi_first_mount(sb);
		bpf_loop(PYI_ALL_MOUNTS, pyi_alias_step, &alias, 0);
	}
	if (alias.answer == -EPERM)
		return -EPERM;
	if (alias.answer)
		return -EACCES;
	if (alias.named == PYI_TOO_LONG)
		return pyi_not_understood(scratch, own, PYI_METADATA, PYI_TOO_LONG);
	if (!alias.names || alias.mount)
		return pyi_not_understood(scratch, own, PYI_METADATA, PYI_UNREACHABLE);
	return 0;
}

/* Times only: mode, owner and size have path hooks. Times that follow from a write or a truncation are no request. */
static __always_inline int pyi_setattr(struct dentry *dentry, struct iattr *attr)
{
	u32 valid = attr->ia_valid;
	if (valid & (ATTR_MODE | ATTR_UID | ATTR_GID | ATTR_SIZE) || !(valid & (ATTR_ATIME | ATTR_MTIME)))
		return 0;
	return pyi_every_name(PYI_H_INODE_SETATTR, dentry);
}

SEC("lsm/inode_setattr")
int BPF_PROG(inode_setattr__args2, struct dentry *dentry, struct iattr *attr)
{
	return pyi_setattr(dentry, attr);
}

SEC("lsm/inode_setattr")
int BPF_PROG(inode_setattr__args3, void *idmap, struct dentry *dentry, struct iattr *attr)
{
	return pyi_setattr(dentry, attr);
}

SEC("lsm/inode_setxattr")
int BPF_PROG(inode_setxattr, void *idmap, struct dentry *dentry)
{
	return pyi_every_name(PYI_H_INODE_XATTR, dentry);
}

SEC("lsm/inode_removexattr")
int BPF_PROG(inode_removexattr, void *idmap, struct dentry *dentry)
{
	return pyi_every_name(PYI_H_INODE_XATTR, dentry);
}

SEC("lsm/inode_set_acl")
int BPF_PROG(inode_set_acl, void *idmap, struct dentry *dentry)
{
	return pyi_every_name(PYI_H_INODE_XATTR, dentry);
}
