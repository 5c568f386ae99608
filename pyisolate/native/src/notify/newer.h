/* Numbers that headers of older systems lack, by the kernel that has them. */
#ifndef NOTIFY_NEWER_H
#define NOTIFY_NEWER_H

#include <fcntl.h>
#include <linux/openat2.h>
#include <linux/seccomp.h>
#include <linux/types.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

/* linux/seccomp.h of later kernels */
#ifndef SECCOMP_IOCTL_NOTIF_SET_FLAGS
#define SECCOMP_IOCTL_NOTIF_SET_FLAGS SECCOMP_IOW(4, __u64) /* 6.6 */
#endif
#define NOTIFY_SYNC_WAKE_UP (1UL << 0) /* SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP, 6.6 */
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
#ifndef SYS_pidfd_getfd
#define SYS_pidfd_getfd 438
#endif
#ifndef SYS_clone3
#define SYS_clone3 435
#endif
#ifndef SYS_openat2
#define SYS_openat2 437
#endif
#define NOTIFY_FCHMODAT2 452 /* 6.6 */
#ifndef RESOLVE_CACHED
#define RESOLVE_CACHED 0x20 /* 5.12 */
#endif
#define NOTIFY_PIDFD_THREAD       O_EXCL               /* 6.9 */
#define NOTIFY_PID_FROM_NAMESPACE _IOR(0xb7, 0x6, int) /* NS_GET_PID_FROM_PIDNS, linux/nsfs.h, 6.11 */
#define NOTIFY_RESTART 512 /* ERESTARTSYS, linux/errno.h: the kernel restarts the call or turns it into EINTR */

#endif
