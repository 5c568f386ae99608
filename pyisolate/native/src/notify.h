/* What the parts of the notification listener share.
 *
 *   notify_memory.c   allocation that no fork of a sandbox thread can stop
 *   notify_policy.c   rules: which one decides about an address
 *   notify_ring.c     records out, counters
 *   notify_target.c   the task that asked: its memory, its descriptors, its signals
 *   notify_asked.c    whether the guest's broker was asked about a call
 *   notify_address.c  socket addresses: copied, normalised, never read twice
 *   notify_wait.c     operations that cannot finish at once
 *   notify_socket.c   socket, setsockopt, connect, bind, listen
 *   notify_send.c     sendto, sendmsg, sendmmsg
 *   notify_decide.c   dispatch by system call
 *   notify_loop.c     the thread; notify_api.c what Python calls
 *
 * Threads: the loop thread alone decides, acts, pushes records and frees sandboxes. Control calls come from any
 * thread and hold `lock` for a few instructions only. Drains pop rings without it. The injector thread only
 * answers socket() for sandboxes that made the loop wait before.
 */
#ifndef PYISOLATE_NOTIFY_H
#define PYISOLATE_NOTIFY_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <linux/seccomp.h>
#include <linux/types.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "asked.h"

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
#define NOTIFY_PIDFD_THREAD O_EXCL /* 6.9 */
#define NOTIFY_RESTART 512 /* ERESTARTSYS, linux/errno.h: the kernel restarts the call or turns it into EINTR */

#if defined(__x86_64__)
#define NOTIFY_AUDIT_ARCH 0xc000003eU /* AUDIT_ARCH_X86_64 */
#else
#define NOTIFY_AUDIT_ARCH 0xc00000b7U /* AUDIT_ARCH_AARCH64; seccomp.c refuses any other */
#endif

#define NOTIFY_CAPABILITIES 64
#define NOTIFY_SYSCALLS 1024
#define NOTIFY_VERDICTS 4
#define NOTIFY_SLOTS 16384	/* sandboxes at one listener */
#define NOTIFY_BUCKETS 4096
#define NOTIFY_RING 256		/* records of one sandbox that wait for a drain */
#define NOTIFY_WAITING_MAX 32	/* unfinished operations of one sandbox; then its notifications wait too */
#define NOTIFY_PAYLOAD 65536	/* bytes of one send; a datagram has at most 65535 */
#define NOTIFY_IOV 1024	/* UIO_MAXIOV */
#define NOTIFY_CONTROL 4096	/* bytes of control messages */
#define NOTIFY_TICK_MS 20	/* how often unfinished operations are looked at */

enum notify_verdict { NOTIFY_ALLOW = 1, NOTIFY_DENY = 2, NOTIFY_WOULD_DENY = 3 };
/* What a policy says of a whole capability: refuse, refuse in monitor mode too, let through, let through and record. */
enum notify_act { NOTIFY_ACT_DENY, NOTIFY_ACT_FLOOR, NOTIFY_ACT_ALLOW, NOTIFY_ACT_WATCH };
enum notify_reason {
	NOTIFY_NO_REASON, NOTIFY_NOT_GRANTED, NOTIFY_SCOPE_INSUFFICIENT, NOTIFY_EXPLICIT_DENY,
	NOTIFY_ALWAYS_DENIED, NOTIFY_INTERNAL,
};
enum notify_trait { NOTIFY_KNOWN = 1, NOTIFY_REPORTED = 2 };
enum notify_asked_state { NOTIFY_UNKNOWN, NOTIFY_NOT_ASKED, NOTIFY_ASKED };
enum notify_flag { NOTIFY_CELL = 1, NOTIFY_FULL = 2, NOTIFY_MONITOR_NET = 4, NOTIFY_NATIVE_NET = 8 };
/* capability.py, CAPABILITY_NUMBER; only those that are not looked up by system call */
enum notify_capability {
	NOTIFY_CAP_NET_CONNECT = 7, NOTIFY_CAP_NET_BIND = 8, NOTIFY_CAP_NET_LISTEN = 9, NOTIFY_CAP_NET_SEND = 10,
	NOTIFY_CAP_NET_SOCKET = 11, NOTIFY_CAP_PROCESS_EXEC = 12, NOTIFY_CAP_PROCESS_FORK = 13,
	NOTIFY_CAP_RANDOM_READ = 18, NOTIFY_CAP_IPC_UNIX = 22, NOTIFY_CAP_KERNEL_MOUNT = 23,
	NOTIFY_CAP_KERNEL_NAMESPACE = 24, NOTIFY_CAP_KERNEL_IOCTL = 31, NOTIFY_CAP_KERNEL_SYSCALL = 32,
};
enum notify_action { NOTIFY_CONNECT = 1, NOTIFY_BIND = 2 }; /* policy/compiled.py, NetAction */

struct notify_rule {
	uint8_t action, allow, family, prefix;
	uint16_t port_low, port_high;
	uint8_t address[16];
	int32_t index;
};
struct notify_unix_rule {
	uint8_t action, allow;
	uint16_t length;
	int32_t index;
	char path[108];
};
struct notify_record {
	uint64_t key, policy_serial, monotonic_ns, args[6];
	uint32_t count, scope;
	int32_t pid, tid, nr, error, rule, presented;
	uint16_t capability, family, port, path_length;
	uint8_t verdict, reason, address[16];
	uint8_t asked, slot_capability, slot_verdict; /* notify_asked_state; the broker's answer, where it was asked */
	char path[256];
};

typedef struct notify_policy {
	int references;
	uint32_t flags;
	uint64_t serial;
	uint8_t acts[NOTIFY_CAPABILITIES];
	int rule_count, unix_count, inet_grants;
	struct notify_rule *rules;
	struct notify_unix_rule *unix_rules;
	struct notify_policy *shadow; /* refuses nothing: what it would refuse is told under its own serial */
} notify_policy;

/* What an epoll event points at. */
enum notify_kind { NOTIFY_SOURCE_WAKE, NOTIFY_SOURCE_SANDBOX, NOTIFY_SOURCE_WAIT };
struct notify_source { enum notify_kind kind; };

struct notify_ring {
	uint32_t head, tail; /* head: producer (loop thread); tail: consumer (the Python side's drain lock) */
	struct notify_record slots[NOTIFY_RING];
};

struct notify_sandbox {
	struct notify_source source;
	uint64_t key;
	int fd, slot;
	int stopped;		/* under lock: no event is handled any more */
	int forgotten;		/* under lock: to be freed by the loop thread */
	int tuned;
	int hung_up;		/* every task is gone */
	int readers;		/* under lock: drains that hold a pointer */
	int jobs;		/* atomic: with the injector */
	int had_inet;		/* an INET socket was given to it: nothing on a descriptor may be continued any more */
	int slow;		/* the loop waited for it once: its socket() calls go to the injector */
	int waiting_count, paused;
	int last_tid, last_pid;
	notify_policy *policy;	/* under lock; NULL: a warm cell, no guest code yet */
	struct notify_asked *asked; /* atomic, set once; NULL: nobody tells what was asked */
	struct notify_ring *ring;
	uint64_t lost, counters[NOTIFY_CAPABILITIES][NOTIFY_VERDICTS];
	struct notify_sandbox *next, *next_dead;
	struct notify_wait *waits;
};

/* Where a socket address points, after normalisation. family 4, 6, or 1 (unix). */
struct notify_endpoint {
	int family;
	uint8_t address[16];
	uint16_t port;
	uint32_t scope;
	socklen_t length;	/* of `raw` as it goes to the kernel */
	union {
		struct sockaddr any;
		struct sockaddr_in in;
		struct sockaddr_in6 in6;
		struct sockaddr_un un;
		struct sockaddr_storage storage;
	} raw;
};

enum notify_step { NOTIFY_STEP_CONNECT, NOTIFY_STEP_SEND };
/* An operation that waits for its socket; the guest's task sleeps meanwhile. */
struct notify_wait {
	struct notify_source source;
	struct notify_sandbox *sandbox;
	uint64_t id, deadline_ns;
	int tid, fd, dead;
	enum notify_step step;
	int then_send;		/* MSG_FASTOPEN: connect, then send */
	int send_flags;
	struct notify_endpoint to;
	int on_tick;		/* epoll cannot tell when: try at every tick */
	char *payload, *control;
	size_t payload_bytes, control_bytes;
	uint64_t written_to;	/* sendmmsg: where the guest wants msg_len */
	struct notify_wait *next, *next_all, *previous_all, *next_dead;
};

struct notify_job {
	struct notify_sandbox *sandbox;
	uint64_t id;
	int fd, flags;
	struct notify_job *next;
};

typedef struct notify_listener {
	int epoll, wake, drain, forked, running, stopping;
	int broken;		/* under lock: the loop ended by itself */
	pthread_t thread, injector;
	pthread_mutex_t lock, job_lock;
	pthread_cond_t job_ready;
	struct notify_job *jobs;
	struct notify_sandbox *buckets[NOTIFY_BUCKETS], *slots[NOTIFY_SLOTS], *dead;
	int next_slot;
	struct notify_wait *waits, *tick_cursor, *dead_waits;
	uint64_t dirty[NOTIFY_SLOTS / 64];
	int halted, drained; /* drained: where notify_next goes on */
	int drain_waits;
	struct notify_source wake_source;
	size_t notif_bytes, response_bytes;
	uint8_t capability[NOTIFY_SYSCALLS], traits[NOTIFY_SYSCALLS];
	int8_t path_argument[NOTIFY_SYSCALLS];
	char *payload, *control;	/* loop thread's scratch */
	struct iovec iov[NOTIFY_IOV];
	struct notify_listener *next;
} notify_listener;

/* One notification in the loop thread's hands. */
struct notify_call {
	notify_listener *l;
	struct notify_sandbox *sandbox;
	notify_policy *policy;
	uint64_t id;
	int tid, nr;
	uint64_t args[6];
	uint8_t asked, slot_capability, slot_verdict; /* as in a record */
};

struct notify_decision {
	int allow, reason, rule, presented;
};

static inline uint64_t notify_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

#endif
