/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * The kernel types that the programs read: names and fields only, offsets come from the running kernel's BTF
 * (preserve_access_index), so no vmlinux.h is needed. Constants cite the kernel header they come from.
 */
#ifndef PYI_TYPES_BPF_H
#define PYI_TYPES_BPF_H

#define PYI_BPF 1
#include <linux/bpf.h>
#include <linux/types.h>
#include <stdbool.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
/* bpf_tracing.h names pt_regs fields of user-space headers; only its BPF_PROG is wanted */
struct pt_regs;
#include <bpf/bpf_tracing.h>

typedef __u32 u32;
typedef __u64 u64;
typedef __u16 u16;
typedef __u8 u8;

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct qstr {
	u32 len;
	const unsigned char *name;
};

struct super_block {
	unsigned long s_flags;
	unsigned long s_magic;
};

struct inode {
	unsigned short i_mode;
	struct super_block *i_sb;
	unsigned long i_ino;
	u32 i_nlink;
};

struct hlist_bl_node {
	struct hlist_bl_node *next, **pprev;
};

struct dentry_operations {
	void *d_dname;
};

struct dentry {
	struct hlist_bl_node d_hash;
	const struct dentry_operations *d_op;
	struct dentry *d_parent;
	struct qstr d_name;
	struct inode *d_inode;
	struct super_block *d_sb;
};

struct vfsmount {
	struct dentry *mnt_root;
	struct super_block *mnt_sb;
};

struct mnt_namespace;

struct list_head {
	struct list_head *next, *prev;
};

struct mount {
	struct mount *mnt_parent;
	struct dentry *mnt_mountpoint;
	struct vfsmount mnt;
	struct mnt_namespace *mnt_ns;
};

struct path {
	struct vfsmount *mnt;
	struct dentry *dentry;
};

struct file {
	unsigned int f_flags;
	unsigned int f_mode;
	struct path f_path;
	struct inode *f_inode;
};

struct backing_file {
	struct file file;
	struct path user_path;
};

struct fs_struct {
	struct path root;
};

struct nsproxy {
	struct mnt_namespace *mnt_ns;
};

struct upid {
	int nr;
};

struct pid {
	unsigned int level;
	struct upid numbers[1];
};

struct cred {
	void *security;
};

struct task_struct {
	int pid;
	int tgid;
	u64 start_boottime;
	struct task_struct *group_leader;
	struct pid *thread_pid;
	struct fs_struct *fs;
	struct nsproxy *nsproxy;
	const struct cred *real_cred;
	const struct cred *cred;
};

struct linux_binprm {
	struct file *file;
};

struct anon_vma;

struct vm_area_struct {
	struct anon_vma *anon_vma;
	struct file *vm_file;
};

struct iattr {
	unsigned int ia_valid;
};

struct in6_addr {
	union {
		u8 u6_addr8[16];
		u32 u6_addr32[4];
	} in6_u;
};

struct sock_common {
	unsigned short skc_family;
	u16 skc_num;
	u32 skc_rcv_saddr;
	struct in6_addr skc_v6_rcv_saddr;
};

struct sock {
	struct sock_common __sk_common;
	u16 sk_type;
	u16 sk_protocol;
};

struct unix_address {
	int len;
};

struct unix_sock {
	struct sock sk;
	struct unix_address *addr;
	struct path path;
};

struct socket {
	short type;
	struct sock *sk;
};

struct msghdr {
	void *msg_name;
	int msg_namelen;
	unsigned int msg_flags;
};

struct sockaddr {
	unsigned short sa_family;
};

#if defined(__TARGET_ARCH_x86)
struct pt_regs { /* arch/x86/include/asm/ptrace.h */
	unsigned long r8, dx, si, di, orig_ax, ip, sp;
};
#define PYI_NR_FSTAT          5
#define PYI_NR_CONNECT        42
#define PYI_SYSCALL_NR(regs)  BPF_CORE_READ(regs, orig_ax)
#define PYI_ARG1(regs)        BPF_CORE_READ(regs, di)
#define PYI_ARG2(regs)        BPF_CORE_READ(regs, si)
#define PYI_ARG3(regs)        BPF_CORE_READ(regs, dx)
#define PYI_ARG5(regs)        BPF_CORE_READ(regs, r8)
#define PYI_STACK(regs)       BPF_CORE_READ(regs, sp)
#define PYI_INSTRUCTION(regs) BPF_CORE_READ(regs, ip)
#elif defined(__TARGET_ARCH_arm64)
struct pt_regs { /* arch/arm64/include/asm/ptrace.h */
	unsigned long regs[31], sp, pc, orig_x0;
	int syscallno;
};
#define PYI_NR_FSTAT          80
#define PYI_NR_CONNECT        203
#define PYI_SYSCALL_NR(regs)  BPF_CORE_READ(regs, syscallno)
#define PYI_ARG1(regs)        BPF_CORE_READ(regs, orig_x0)
#define PYI_ARG2(regs)        BPF_CORE_READ(regs, regs[1])
#define PYI_ARG3(regs)        BPF_CORE_READ(regs, regs[2])
#define PYI_ARG5(regs)        BPF_CORE_READ(regs, regs[4])
#define PYI_STACK(regs)       BPF_CORE_READ(regs, sp)
#define PYI_INSTRUCTION(regs) BPF_CORE_READ(regs, pc)
#else
#error "pyisolate: system call arguments are only known for x86_64 and arm64"
#endif

struct user_namespace;
struct mnt_idmap;
struct kern_ipc_perm;
struct kernel_siginfo;

#pragma clang attribute pop

/* Not CO-RE: fixed by the system call interface (include/uapi/linux/in.h, in6.h). */
struct pyi_sockaddr_in {
	u16 family;
	u16 port;
	u32 address;
};

struct pyi_sockaddr_in6 {
	u16 family;
	u16 port;
	u32 flow;
	u8 address[16];
};

#define EPERM  1
#define ENOENT 2
#define EACCES 13

/* include/linux/fs.h */
#define FMODE_READ     0x1
#define FMODE_WRITE    0x2
#define FMODE_EXEC     0x20
#define FMODE_PATH     0x4000
#define SB_NOUSER      (1UL << 31)
#define ATTR_MODE      1
#define ATTR_UID       2
#define ATTR_GID       4
#define ATTR_SIZE      8
#define ATTR_ATIME     16
#define ATTR_MTIME     32
#define ATTR_ATIME_SET 128
#define ATTR_MTIME_SET 256

/* include/uapi/linux/magic.h */
#define ANON_INODE_FS_MAGIC 0x09041934
#define SOCKFS_MAGIC        0x534F434B
#define PROC_SUPER_MAGIC    0x9fa0

/* include/uapi/asm-generic/fcntl.h */
#define O_TRUNC 01000

/* include/uapi/linux/stat.h */
#define S_IFMT   00170000
#define S_IFSOCK 0140000
#define S_IFREG  0100000
#define S_IFBLK  0060000
#define S_IFDIR  0040000
#define S_IFCHR  0020000
#define S_IFIFO  0010000

/* include/uapi/asm-generic/mman-common.h, linux/mman.h */
#define PROT_WRITE 2
#define PROT_EXEC  4
#define MAP_SHARED 1
#define MAP_TYPE   15

/* include/linux/socket.h */
#define AF_UNSPEC     0
#define AF_UNIX       1
#define AF_INET       2
#define AF_INET6      10
#define SOCK_STREAM   1
#define SOCK_DGRAM    2
#define IPPROTO_TCP   6
#define IPPROTO_UDP   17
#define IPPROTO_MPTCP 262
#define MSG_FASTOPEN  0x20000000

/* include/uapi/linux/sched.h */
#define CLONE_THREAD 0x00010000

#endif
