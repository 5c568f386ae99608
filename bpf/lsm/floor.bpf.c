// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * The floor: what no policy grants and no mode lets through.
 *
 * Hooks: sb_mount sb_umount sb_pivotroot move_mount sb_kern_mount sb_remount fs_context_parse_param · userns_create
 * capable settime syslog quotactl · uring_* inode_init_security_anon · perf_event_open · key_alloc key_permission ·
 * kernel_load_data kernel_read_file kernel_module_request · file_ioctl (terminal injection).
 * SysV objects are refused when made and when used: they live outside every path rule.
 */
#include "../hook.bpf.h"

/* include/uapi/linux/capability.h. Rules decide on files by path, so the rights over files stay as they are. */
#define CAP_CHOWN           0
#define CAP_DAC_OVERRIDE    1
#define CAP_DAC_READ_SEARCH 2
#define CAP_FOWNER          3
#define CAP_FSETID          4
#define CAP_OPT_NOAUDIT     2 /* include/linux/security.h: the kernel asks for itself; a no is not a refusal */

#define FLOOR(hook_name, number, which)                                                                                \
	SEC("lsm/" #hook_name)                                                                                         \
	int BPF_PROG(hook_name)                                                                                        \
	{                                                                                                              \
		return pyi_floor(number, which, 0);                                                                    \
	}

FLOOR(sb_mount, PYI_H_SB_MOUNT, PYI_KERNEL_MOUNT)
FLOOR(sb_umount, PYI_H_SB_UMOUNT, PYI_KERNEL_MOUNT)
FLOOR(sb_remount, PYI_H_SB_REMOUNT, PYI_KERNEL_MOUNT)
FLOOR(sb_pivotroot, PYI_H_SB_PIVOTROOT, PYI_KERNEL_MOUNT)
FLOOR(move_mount, PYI_H_MOVE_MOUNT, PYI_KERNEL_MOUNT)
FLOOR(fs_context_parse_param, PYI_H_FS_CONTEXT, PYI_KERNEL_MOUNT)
FLOOR(userns_create, PYI_H_USERNS_CREATE, PYI_KERNEL_NAMESPACE)
FLOOR(uring_sqpoll, PYI_H_URING, PYI_KERNEL_IO_URING)
FLOOR(uring_override_creds, PYI_H_URING, PYI_KERNEL_IO_URING)
FLOOR(uring_cmd, PYI_H_URING, PYI_KERNEL_IO_URING)
FLOOR(uring_allowed, PYI_H_URING, PYI_KERNEL_IO_URING)
FLOOR(perf_event_open, PYI_H_PERF_EVENT_OPEN, PYI_KERNEL_PERF)
FLOOR(key_alloc, PYI_H_KEY, PYI_KERNEL_KEYS)
FLOOR(key_permission, PYI_H_KEY, PYI_KERNEL_KEYS)
FLOOR(kernel_load_data, PYI_H_KERNEL_LOAD, PYI_KERNEL_MODULE)
FLOOR(kernel_read_file, PYI_H_KERNEL_LOAD, PYI_KERNEL_MODULE)
FLOOR(kernel_module_request, PYI_H_KERNEL_LOAD, PYI_KERNEL_MODULE)
FLOOR(settime, PYI_H_SETTIME, PYI_KERNEL_CAPABILITY)
FLOOR(syslog, PYI_H_SYSLOG, PYI_KERNEL_CAPABILITY)
FLOOR(quotactl, PYI_H_QUOTA, PYI_KERNEL_MOUNT)
FLOOR(ipc_permission, PYI_H_IPC, PYI_IPC_SYSV)
FLOOR(shm_alloc_security, PYI_H_IPC, PYI_IPC_SYSV)
FLOOR(sem_alloc_security, PYI_H_IPC, PYI_IPC_SYSV)
FLOOR(msg_queue_alloc_security, PYI_H_IPC, PYI_IPC_SYSV)

SEC("lsm/capable")
int BPF_PROG(capable, const struct cred *cred, struct user_namespace *ns, int capability, unsigned int options)
{
	if (capability <= CAP_FSETID)
		return 0;
	if (!pyi_current())
		return 0;
	if (options & CAP_OPT_NOAUDIT)
		return -EPERM;
	/* An overlay reads its layers with the credentials of who mounted it, after the call was judged above. What it
	 * cannot read there (what is opaque, what was renamed) it remembers for everybody. */
	struct task_struct *task = bpf_get_current_task_btf();
	if (cred == task->cred && task->cred != task->real_cred)
		return 0;
	struct pt_regs *regs = (struct pt_regs *)bpf_task_pt_regs(task);
	u32 number = PYI_SYSCALL_NR(regs);
	const struct pyi_syscall *call = bpf_map_lookup_elem(&syscalls, &number);
	return pyi_floor(PYI_H_CAPABLE, call && call->floor ? call->floor : PYI_KERNEL_CAPABILITY, capability);
}

/* io_uring_setup and userfaultfd have no hook of their own on every kernel; both make a secure anonymous inode. */
SEC("lsm/inode_init_security_anon")
int BPF_PROG(inode_init_security_anon, struct inode *inode, const struct qstr *name)
{
	char first[8] = {};
	if (!pyi_current())
		return 0;
	bpf_probe_read_kernel(first, sizeof(first), name->name);
	return pyi_floor(PYI_H_ANON_INODE,
			 first[1] == 'i' && first[2] == 'o' ? PYI_KERNEL_IO_URING : PYI_KERNEL_SYSCALL, 0);
}

/* include/uapi/asm-generic/ioctls.h, linux/tiocl.h: input pushed into, or read from, a terminal that others use */
#define TIOCSTI   0x5412
#define TIOCCONS  0x541D
#define TIOCSETD  0x5423
#define TIOCLINUX 0x541C

static __always_inline int pyi_ioctl(unsigned int command)
{
	if (command != TIOCSTI && command != TIOCCONS && command != TIOCSETD && command != TIOCLINUX)
		return 0;
	return pyi_floor(PYI_H_FILE_IOCTL, PYI_KERNEL_IOCTL, command);
}

SEC("lsm/file_ioctl")
int BPF_PROG(file_ioctl, struct file *file, unsigned int command)
{
	return pyi_ioctl(command);
}

SEC("lsm/file_ioctl_compat")
int BPF_PROG(file_ioctl_compat, struct file *file, unsigned int command)
{
	return pyi_ioctl(command);
}
