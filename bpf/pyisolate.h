/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * What BPF programs and Python both read and write: map keys and values, records, numbers.
 *
 * Three readers: clang (bpf), the C compiler through cffi (native/src/bpf/libbpf.c), and a test that compares the
 * compiled objects' BTF with cffi's view (tests/host/test_bpf_layout.py). Fixed-width types, no bit fields, no
 * implicit padding. Numbers of capabilities are those of pyisolate/capability.py and are never renumbered.
 */
#ifndef PYISOLATE_H
#define PYISOLATE_H

#ifndef PYI_BPF /* BPF programs take these types from types.bpf.h */
#include <linux/types.h>
#endif

#define PYI_ABI 1

/* ---- limits ------------------------------------------------------------------------------------------------ */

#define PYI_KEY_BYTES   256  /* LPM_DATA_SIZE_MAX, kernel/bpf/lpm_trie.c */
#define PYI_TEXT_BYTES  4096 /* PATH_MAX, include/uapi/linux/limits.h */
#define PYI_TEXT_SENT   1024 /* of a target that leave in a record; the rest is cut and flagged */
#define PYI_NET_RULES   32   /* port ranges that one address prefix may carry */
#define PYI_SLOTS       128  /* broker slots in a page of 4096 bytes */
#define PYI_SLOT_PROBES 4    /* neighbouring slots that one thread may use */

/* ---- numbers ----------------------------------------------------------------------------------------------- */

#include "capability.h"

/* FsRight of pyisolate/capability.py, then rights that only the kernel tables know. */
enum pyi_right {
	PYI_READ = 1,
	PYI_WRITE = 2,
	PYI_CREATE = 4,
	PYI_DELETE = 8,
	PYI_METADATA = 16,
	PYI_EXEC = 32,
	PYI_MAP_EXEC = 64,
	PYI_LIST = 128, /* reading the directory itself, nothing below */
	PYI_UNIX_CONNECT = 256,
	PYI_UNIX_BIND = 512,
	PYI_LOOK = 1024, /* stat: implied by any right, and on the way to a grant */
};

/* Rule groups, as bits: which of them only watch (pyi_policy.monitored). */
enum pyi_group {
	PYI_GROUP_FS = 1,
	PYI_GROUP_NET = 2,
	PYI_GROUP_PROCESS = 4,
	PYI_GROUP_IMPORT = 8,
	PYI_GROUP_RANDOM = 16,
	PYI_GROUP_FLOOR = 32, /* never monitored */
};

enum pyi_verdict { PYI_ALLOW = 0, PYI_DENY = 1, PYI_WOULD_DENY = 2 };

enum pyi_code {
	PYI_GRANTED = 0,
	PYI_NOT_GRANTED = 1,
	PYI_SCOPE_INSUFFICIENT = 2,
	PYI_EXPLICIT_DENY = 3,
	PYI_ALWAYS_DENIED = 4,
	PYI_INTERNAL = 5,
};

enum pyi_flag {
	PYI_F_SHADOW = 1,         /* the shadow policy's opinion */
	PYI_F_TRUNCATED = 2,      /* target longer than PYI_TEXT_SENT */
	PYI_F_CLOSED = 4,         /* the sandbox is closed: its surviving tasks may do nothing */
	PYI_F_UNREACHABLE = 8,    /* the file is not below the task's root: its name means nothing */
	PYI_F_TOO_LONG = 16,      /* a path too long or too deep to be read */
	PYI_F_DELETED = 32,       /* target is the name the file had */
	PYI_F_WIDENS = 64,        /* a new name would carry rights that the old one lacks */
	PYI_F_PSEUDO = 128,       /* a memfd, pipe or other file without a path */
	PYI_F_SLOT_UNKNOWN = 256, /* no broker slot for this thread: consultation cannot be known */
	PYI_F_CONSULTED = 512,    /* sequence, slot_capability and slot_verdict come from the thread's slot */
};

enum pyi_net_action { PYI_ACTION_CONNECT = 1, PYI_ACTION_BIND = 2 };

enum pyi_policy_flag {
	PYI_P_READY = 1,
	PYI_P_FORK = 2,
	PYI_P_CONNECT = 4,
	PYI_P_BIND = 8,
	PYI_P_UNIX = 16,
	PYI_P_MEMORY = 32,
};

/* ---- map values -------------------------------------------------------------------------------------------- */

/* policies[index]; immutable once PYI_P_READY is set. Index 0 is never ready: "no policy" refuses everything. */
struct pyi_policy {
	__u32 flags;
	__u32 monitored; /* bits of pyi_group */
	__u32 generation;
	__u32 granted;       /* every right that any rule allows: NOT_GRANTED or SCOPE_INSUFFICIENT */
	__u32 explicit_deny; /* every right that any rule denies */
	__u32 reserved;
};

/* inner maps of paths[index] */
struct pyi_path_key {
	__u32 prefixlen;          /* bits */
	char text[PYI_KEY_BYTES]; /* the path and one '/': so that a rule ends where a component does */
};

struct pyi_path_rule {
	__u32 allow;
	__u32 deny;  /* denied by a rule's own words, not for want of a grant */
	__u32 exact; /* rights of the path itself alone */
	__u16 bytes; /* of the key, slash included: is the target this very path? */
	__u16 below; /* rules exist below: the directory must keep its name */
};

/* inner maps of nets[index]; IPv4 is its v4-mapped IPv6 form */
struct pyi_net_key {
	__u32 prefixlen;
	__u8 address[16];
};

struct pyi_net_rule {
	__u16 low;
	__u16 high;
	__u8 action;
	__u8 allow;
	__u16 reserved;
};

struct pyi_net_rules {
	__u32 count;
	__u32 reserved;
	struct pyi_net_rule rules[PYI_NET_RULES]; /* most specific first; the first match decides */
};

/* sandboxes[index]; written by the supervisor through mmap, one 64-bit store swaps both policies. */
struct pyi_sandbox {
	__u64 policies;     /* low half: enforced policy; high half: shadow policy or 0 */
	__u32 epoch;        /* which use of this entry; a task of another epoch is refused everything */
	__u32 events_per_s; /* ring buffer budget */
	__u64 window_ns;
	__u64 window_events;
	__u64 delivered;
	__u64 suppressed;
	__u64 lost;
	__u64 reserved;
};

/* syscalls[number] */
struct pyi_syscall {
	__u8 floor; /* what a right of root that it asks for is wanted for; 0: kernel.capability */
};

/*
 * One broker slot: stored by the guest's audit hook just before a system call (native/src/audit.c), copied by the first
 * kernel program that sees the call. A sequence that differs from the last one taken is a new consultation.
 * `tag` ties it to that call's own argument, so that a slot whose call never reached a program (no such file) is not
 * taken for the consultation of a later raw call: the length of the path as passed, in the top byte, xor its last
 * 8 bytes (little endian, zero-filled); 0 where the operation has no path or the hook does not say.
 */
struct pyi_slot {
	__u64 sequence; /* written last */
	__u32 capability;
	__u32 verdict; /* pyi_slot_verdict */
	__u32 tid;     /* owner, as the guest sees it; 0 where the thread was attached with a slot number */
	__u32 taken;   /* kernel's: low half of the sequence last taken, where no task storage remembers it */
	__u64 tag;
};

enum pyi_slot_verdict { PYI_SLOT_ALLOW = 1, PYI_SLOT_DENY = 2, PYI_SLOT_WOULD_DENY = 3 };
#define PYI_SLOT_NONE 0xffff /* no number known: look for the thread's own id */

struct pyi_slot_page {
	struct pyi_slot slots[PYI_SLOTS];
};

/* task storage, cgroup membership and the hand-over by tid */
struct pyi_task {
	__u32 sandbox;
	__u32 epoch;
	__u64 start_ticks; /* hand-over: field 22 of /proc/TID/stat, so that a reused tid is not taken */
	__u32 slot_number; /* in the sandbox's page, or PYI_SLOT_NONE; not inherited */
	__u32 own_tid;     /* the thread's id as the guest sees it; 0: not looked up yet */
	/* the slot last taken, and by which system call: later hooks of the same call share it */
	__u64 call[3]; /* user stack pointer, instruction pointer, second argument */
	struct pyi_slot slot;
};

struct pyi_counter_key {
	__u32 sandbox;
	__u32 epoch;
	__u32 policy;
	__u8 capability;
	__u8 verdict;
	__u8 code;
	__u8 kind; /* pyi_counter_kind bits */
};

/* Whose verdict was counted: the shadow policy's; another enforcer's, seen on the way out of the system call. */
enum pyi_counter_kind { PYI_C_SHADOW = 1 };

struct pyi_control {
	__u64 pending;       /* entries in handovers: 0 keeps that map off every other task's path */
	__u64 uncounted;     /* denials whose counter could not be made */
	__u64 unattributed;  /* denials of tasks whose sandbox entry is gone */
	__u64 cgroup_strict; /* refuse tasks in an attached cgroup that no sandbox owns */
};

/* ---- records ----------------------------------------------------------------------------------------------- */

struct pyi_record {
	__u64 monotonic_ns;
	__u32 sandbox;
	__u32 epoch;
	__u32 policy;
	__u32 shadow;
	__u32 generation;
	__u32 pid; /* tgid, initial pid namespace */
	__u32 tid;
	__u32 reserved;
	__u64 sequence; /* of the broker slot */
	__u16 hook;     /* pyi_hook */
	__u16 flags;
	__s16 error;   /* errno that the caller sees, positive; 0 in monitor mode */
	__s16 syscall; /* number, or -1 */
	__u8 capability;
	__u8 verdict;
	__u8 code;
	__u8 slot_capability;
	__u8 slot_verdict;
	__u8 family;      /* AF_* where address is set */
	__u16 port;       /* host order */
	__u8 address[16]; /* network order; IPv4 mapped */
	__u64 detail;     /* hook's own: signal, ioctl command, capability number, socket type << 32 | protocol ... */
	__u32 rights;     /* pyi_right bits that were wanted */
	__u32 text_bytes; /* of the target that follows */
};

/* What a hook works in: one per sandbox thread. The key's prefixlen and text double as record target. */
struct pyi_scratch {
	struct pyi_record record;
	struct pyi_path_key key; /* key.text runs on into more[] */
	char more[PYI_TEXT_BYTES];
	char walk[PYI_TEXT_BYTES + PYI_TEXT_BYTES]; /* filled from its middle down, component by component */
};

/* Argument and answer of the "syscall" programs. */
struct pyi_ask {
	__u32 policy;
	__u32 kind; /* PYI_ASK_* */
	__u32 rights;
	__u32 port;
	__u32 action;
	__u32 capability; /* whose rule group says whether it is refused or watched */
	struct pyi_net_key net;
	struct pyi_path_key path;
	__u32 bytes;      /* of path.text, slash included, uncut */
	__s32 code;       /* answer: pyi_code */
	__u32 missing;    /* answer: rights that decided */
	__u32 generation; /* answer */
	__u32 verdict;    /* answer: pyi_verdict */
	__u32 reserved2;
};

enum pyi_ask_kind { PYI_ASK_PATH = 1, PYI_ASK_NET = 2, PYI_ASK_FORK = 3 };

struct pyi_enter {
	__u32 sandbox;
	__u32 epoch;
	__u32 slot_number;
	__u32 reserved;
};

struct pyi_landlock {
	__u32 pid;
	__u32 blob_offset; /* landlock_blob_sizes.lbs_cred */
	__s32 result;      /* 0, or a negative errno */
	__u32 layers;
	__u64 domain;
	__u64 denials;
};

/* Hooks, by number in records; names in kernel/bpf/records.py. Never renumber. */
enum pyi_hook {
	PYI_H_NONE = 0,
	PYI_H_FILE_OPEN = 1,
	PYI_H_FILE_RECEIVE = 2,
	PYI_H_FILE_TRUNCATE = 3,
	PYI_H_INODE_GETATTR = 4,
	PYI_H_INODE_SETATTR = 5,
	PYI_H_INODE_XATTR = 6,
	PYI_H_PATH_MKNOD = 7,
	PYI_H_PATH_MKDIR = 8,
	PYI_H_PATH_RMDIR = 9,
	PYI_H_PATH_UNLINK = 10,
	PYI_H_PATH_SYMLINK = 11,
	PYI_H_PATH_LINK = 12,
	PYI_H_PATH_RENAME = 13,
	PYI_H_PATH_TRUNCATE = 14,
	PYI_H_PATH_CHMOD = 15,
	PYI_H_PATH_CHOWN = 16,
	PYI_H_PATH_CHROOT = 17,
	PYI_H_PATH_NOTIFY = 18,
	PYI_H_FILE_IOCTL = 19,
	PYI_H_MMAP_FILE = 30,
	PYI_H_FILE_MPROTECT = 31,
	PYI_H_BPRM_CHECK = 32,
	PYI_H_BPRM_CREDS = 33,
	PYI_H_TASK_ALLOC = 34,
	PYI_H_TASK_KILL = 35,
	PYI_H_PTRACE_ACCESS = 36,
	PYI_H_PTRACE_TRACEME = 37,
	PYI_H_TASK_PRLIMIT = 38,
	PYI_H_TASK_SETNICE = 39,
	PYI_H_TASK_SETSCHEDULER = 40,
	PYI_H_TASK_SETIOPRIO = 41,
	PYI_H_TASK_SETPGID = 42,
	PYI_H_TASK_MOVEMEMORY = 43,
	PYI_H_SOCKET_CREATE = 50,
	PYI_H_SOCKET_BIND = 51,
	PYI_H_SOCKET_CONNECT = 52,
	PYI_H_SOCKET_LISTEN = 53,
	PYI_H_SOCKET_ACCEPT = 54,
	PYI_H_SOCKET_SENDMSG = 55,
	PYI_H_SOCKET_SETSOCKOPT = 56,
	PYI_H_UNIX_CONNECT = 57,
	PYI_H_UNIX_SEND = 58,
	PYI_H_NETLINK_SEND = 59,
	PYI_H_CGROUP_CONNECT4 = 60,
	PYI_H_CGROUP_CONNECT6 = 61,
	PYI_H_CGROUP_SENDMSG4 = 62,
	PYI_H_CGROUP_SENDMSG6 = 63,
	PYI_H_CGROUP_BIND4 = 64,
	PYI_H_CGROUP_BIND6 = 65,
	PYI_H_CGROUP_SOCK_CREATE = 66,
	PYI_H_SB_MOUNT = 70,
	PYI_H_SB_UMOUNT = 71,
	PYI_H_SB_REMOUNT = 72,
	PYI_H_SB_PIVOTROOT = 73,
	PYI_H_MOVE_MOUNT = 74,
	PYI_H_CAPABLE = 75,
	PYI_H_USERNS_CREATE = 76,
	PYI_H_URING = 77,
	PYI_H_PERF_EVENT_OPEN = 78,
	PYI_H_KEY = 79,
	PYI_H_IPC = 80,
	PYI_H_KERNEL_LOAD = 81,
	PYI_H_ANON_INODE = 82,
	PYI_H_BPF = 83,
	PYI_H_SETTIME = 84,
	PYI_H_SYSLOG = 85,
	PYI_H_QUOTA = 86,
	PYI_H_FS_CONTEXT = 87,
};

#endif
