/* What all parts of the notification listener know: bounds, numbers, structs. notify.c says what is where.
 *
 * Threads: the loop alone decides, acts, pushes records and frees sandboxes. One of several threads runs it, the leader; another one
 * leads where that is stranded in a step for which a guest lets it wait (aside.c, followers.c). Control calls come from any
 * thread and hold `lock` for a few instructions only; what takes a descriptor the loop does for them. Drains pop rings without it. Injector threads
 * put descriptors into guests (socket(), own descriptors), which waits for the guest's task, and close those of guests' files,
 * which may wait for a file system's server (leave.c).
 */
#ifndef PYISOLATE_NOTIFY_H
#define PYISOLATE_NOTIFY_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
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
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/timerfd.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "../account.h"
#include "../asked.h"
#include "../capability.h"
#include "../led.h"
#include "../marks.h"
#include "../shared.h"

#include "newer.h"

#if defined(__x86_64__)
#define NOTIFY_AUDIT_ARCH 0xc000003eU /* AUDIT_ARCH_X86_64 */
#else
#define NOTIFY_AUDIT_ARCH 0xc00000b7U /* AUDIT_ARCH_AARCH64; seccomp.c refuses any other */
#endif

#define NOTIFY_MULTIPATH_TCP 262 /* IPPROTO_MPTCP, linux/in.h 5.6 */
#define NOTIFY_CAPABILITIES  64
#define NOTIFY_SYSCALLS      1024
#define NOTIFY_VERDICTS      4
#define NOTIFY_SLOTS         16384 /* sandboxes at one listener */
#define NOTIFY_BUCKETS       4096
#define NOTIFY_RING    1024   /* a power of two: records of one sandbox that wait for a drain, with those of look-ups */
#define NOTIFY_REPEATS 16     /* how many records back the last one of a thread is looked for */
#define NOTIFY_WAITING_MAX 32 /* unfinished operations of one sandbox; then its notifications wait too */
#define NOTIFY_PAYLOAD     65536  /* bytes of one send; a datagram has at most 65535 */
#define NOTIFY_BUFFER      212992 /* bytes that a guest may ask for as a socket's buffer; the kernel doubles them */
#define NOTIFY_IOV         1024   /* UIO_MAXIOV */
#define NOTIFY_CONTROL     4096   /* bytes of control messages */
#define NOTIFY_NAME        8192   /* bytes of one name: PATH_MAX, from a directory of PATH_MAX */
#define NOTIFY_RIGHTS_MAX  253    /* descriptors of one message: SCM_MAX_FD */
#define NOTIFY_FLIGHT      1024   /* messages of one socket in flight that carry descriptors */
#define NOTIFY_DESCRIPTOR  0x40   /* in path_argument: that argument is an open file */
#define NOTIFY_LOOKS                                                                                                   \
	768 /* of these; beyond that look-ups leave none and are counted, so that no guest waits for the host's */
#define NOTIFY_FOREIGN       0x20000000       /* added to the number of another architecture's call (i386) */
#define NOTIFY_INJECTORS     256              /* sandboxes whose tasks may be waited for at a time */
#define NOTIFY_CLOSERS       128              /* of these, at the most, close: each for another sandbox */
#define NOTIFY_LEFT          16384            /* descriptors that wait to be closed, of all sandboxes */
#define NOTIFY_LEFT_OF_ONE   64               /* of one; then its notifications wait, too */
#define NOTIFY_STACK         131072           /* bytes of an injector's stack */
#define NOTIFY_FOLLOWERS     64               /* threads that may lead the loop: so many less two may be stranded */
#define NOTIFY_BATCH         64               /* events that are taken at once */
#define NOTIFY_QUESTIONS     8                /* connections of one sandbox that wait for an answer; more are refused */
#define NOTIFY_ASKED_NAME    512              /* a file of a longer name is not asked about */
#define NOTIFY_QUESTION_RING 4096             /* questions that were not taken yet */
#define NOTIFY_PATIENCE_NS   3600000000000ULL /* the host is to refuse long before (an hour) */
#define NOTIFY_TICK_MS       20               /* how often unfinished operations are looked at */
#define NOTIFY_CLOSE_NS      1000000000ULL    /* how long its end waits for what is being closed */

enum notify_verdict { NOTIFY_ALLOW = 1, NOTIFY_DENY = 2, NOTIFY_WOULD_DENY = 3 };
/* What a policy says of a whole capability: refuse, refuse in monitor mode too, let through, let through and record. */
enum notify_act { NOTIFY_ACT_DENY, NOTIFY_ACT_FLOOR, NOTIFY_ACT_ALLOW, NOTIFY_ACT_WATCH };
enum notify_reason {
	NOTIFY_NO_REASON,
	NOTIFY_NOT_GRANTED,
	NOTIFY_SCOPE_INSUFFICIENT,
	NOTIFY_EXPLICIT_DENY,
	NOTIFY_ALWAYS_DENIED,
	NOTIFY_INTERNAL,
	NOTIFY_LIMIT_EXCEEDED,
};
/* NAMING: policy/asking.py, CARRIED */
enum notify_trait { NOTIFY_KNOWN = 1, NOTIFY_REPORTED = 2, NOTIFY_NAMING = 4 };
/* What became of a question; NONE: none was asked. FULL: too many waited. LATE: no answer came in time. GONE: its call was
 * given up before the answer came, which did nothing. */
enum notify_reply {
	NOTIFY_REPLY_NONE,
	NOTIFY_REPLY_YES,
	NOTIFY_REPLY_NO,
	NOTIFY_REPLY_FULL,
	NOTIFY_REPLY_LATE,
	NOTIFY_REPLY_GONE,
};
/* What a call met under its name when it came (met.c). UNKNOWN: it was not looked at, only a disk or a server could tell, or there
 * is no such directory. */
enum notify_met_kind { NOTIFY_MET_UNKNOWN, NOTIFY_MET_NOTHING, NOTIFY_MET_LINK, NOTIFY_MET_OTHER };
enum notify_asked_state { NOTIFY_UNKNOWN, NOTIFY_NOT_ASKED, NOTIFY_ASKED, NOTIFY_RESOLVES, NOTIFY_IMPORTS };
enum notify_flag {
	NOTIFY_CELL = 1,
	NOTIFY_FULL = 2,
	NOTIFY_MONITOR_NET = 4,
	NOTIFY_NATIVE_NET = 8,
	NOTIFY_ASK_CONNECT = 16,
	NOTIFY_OWN_NAMES = 32,
	NOTIFY_MONITOR_FILES = 64,
	NOTIFY_OWN_SOCKETS = 128,
	NOTIFY_OWN_TMP = 256,
	NOTIFY_OWN_SHM = 512, /* names that lead to the workspace */
	NOTIFY_ASK_READ = 1024,
	NOTIFY_ASK_BY_RULE = 2048,
	NOTIFY_ASK_EXEC = 4096,
	NOTIFY_ASK_WRITE = 8192,
	NOTIFY_ASK_NAMES = 16384,
	NOTIFY_ASK_METADATA = 32768
};
/* What the host says to a question: refuse, let it through, or let the kernel decide as if nothing had been asked. */
/* EMPTY: yes, and the file is emptied once the guest has it. BEGIN: yes, and the host is about to carry the call out, which is
 * not interrupted from here on. DONE: it has, with that error. */
enum notify_said {
	NOTIFY_SAID_NO,
	NOTIFY_SAID_YES,
	NOTIFY_SAID_AS_EVER,
	NOTIFY_SAID_EMPTY,
	NOTIFY_SAID_BEGIN,
	NOTIFY_SAID_DONE,
};
/* Where a call is: nowhere (answered, or given up by its task), at the listener, or past it (an exec alone). */
enum notify_stage { NOTIFY_STAGE_GONE, NOTIFY_STAGE_WAITS, NOTIFY_STAGE_WENT_ON };
/* capability.py, NetAction; ASKED_ABOUT: a rule that grants nothing, and says which connections are asked about. */
enum notify_action { NOTIFY_CONNECT = 1, NOTIFY_BIND = 2, NOTIFY_ASKED_ABOUT = 3 };

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
	uint64_t device, inode; /* of a file on a mount of its own, of which the kernel says no name; 0: of none */
	uint32_t count, scope;
	int32_t pid, tid, nr, error, rule, presented;
	uint16_t capability, family, port, path_length;
	uint8_t verdict, reason, address[16];
	uint8_t asked, slot_capability, slot_verdict; /* notify_asked_state; the broker's answer, where it was asked */
	uint16_t other_length;
	uint8_t reply;  /* notify_reply */
	uint8_t looked; /* it has one of the places of look-ups */
	uint8_t met;    /* notify_met_kind */
	uint32_t waited_ms;
	uint64_t question;
	/* The name of what the call is about, then the second one of a call that has two, or the file of a descriptor
	 * that the first one names, or what the link says that it met. Longer ones are in a block of their own, which the ring frees or hands over. */
	char text[512], *names;
};

#define NOTIFY_NO_LIMIT UINT64_MAX

typedef struct notify_policy {
	int references;
	uint32_t flags;
	uint64_t serial;
	uint8_t acts[NOTIFY_CAPABILITIES];
	int rule_count, unix_count, inet_grants;
	uint64_t open_files,
		file_size; /* what the policy bounds; NOTIFY_NO_LIMIT: nothing, so that no refusal is its own */
	struct notify_rule *rules;
	struct notify_unix_rule *unix_rules;
	struct notify_policy *shadow; /* refuses nothing: what it would refuse is recorded under its own serial */
} notify_policy;

/* What an epoll event points at. */
enum notify_kind { NOTIFY_SOURCE_WAKE, NOTIFY_SOURCE_SANDBOX, NOTIFY_SOURCE_WAIT, NOTIFY_SOURCE_FLIGHT };
struct notify_source {
	enum notify_kind kind;
};

struct notify_ring {
	uint32_t head, tail; /* head: producer (loop thread); tail: consumer (the Python side's drain lock) */
	uint32_t base;       /* producer, while nothing waits: the number of the record in the first slot */
	uint32_t looks;      /* atomic: of those that wait, look-ups for which no guest waits; at most NOTIFY_LOOKS */
	struct notify_record slots[NOTIFY_RING];
};

#define NOTIFY_NAMES   64
#define NOTIFY_NAME_NS 1000000000ULL /* how long a thread's number is believed: no host counts round within that */

/* A thread's own number and its process's, by the supervisor's number for it. */
struct notify_name {
	int tid, own_tid, own_pid;
	uint64_t since_ns;
};
struct notify_taken {
	uint64_t word, id; /* id: of the notification that took it, so that it can be given back */
	uint32_t tid;
	int again; /* it may stand for one more call */
};
struct notify_asked {
	struct asked_thread *page; /* the guest writes while this reads: load once, then judge */
	int of_threads;            /* the page is this process's own (audit.c), for all of its sandbox threads */
	uint64_t announced;        /* reloads; the page has a copy */
	struct notify_name names[NOTIFY_NAMES];
	struct notify_taken taken[ASKED_THREADS][ASKED_WORDS];
};

/* Descriptors in flight; open files that the supervisor keeps for guests; KiB that it sent and that were not received. */
enum notify_kept { NOTIFY_KEPT_RIGHTS, NOTIFY_KEPT_FILES, NOTIFY_KEPT_KIB, NOTIFY_KEPT };

#define NOTIFY_DEVICES 8 /* of local file systems without a disk, remembered */
#define NOTIFY_LOCKERS 64
/* A process that locks files: its calls since its locks were counted, and how many to refuse before they are again. */
struct notify_locker {
	int pid, calls, refusals;
};

/* A descriptor that waits to be closed, or, where that is -1, the answer of a call that waits until those before it are. `next`: a
 * place in the listener's table of these, counted from 1, 0: none. */
struct notify_left {
	int fd, next, error;
	uint64_t id;
	int64_t value;
};
/* Those of one sandbox, or, where that is NULL, of none that is known any more. Under job_lock, but for `count`. */
struct notify_leaving {
	struct notify_sandbox *sandbox;
	int first, last, count; /* count: atomic; also those that are being closed */
	int queued;             /* it is among those that have some, or a thread closes them */
	struct notify_leaving *next;
};

struct notify_sandbox {
	struct notify_source source;
	uint64_t key;
	int fd, slot;
	int own;       /* a descriptor of its workspace; -1: it has none of its own */
	int shared;    /* a directory of the host's is mounted in it */
	int stopped;   /* under lock: no event is handled any more */
	int forgotten; /* under lock: to be freed by the loop thread */
	int tuned;
	int hung_up;   /* every task is gone */
	int readers;   /* under lock: drains that hold a pointer */
	int stranded;  /* a thread that does not lead is in a call or wait of it: all others leave it alone */
	int jobs;      /* atomic: with the injectors */
	int clogged;   /* atomic: no call is received until fewer of its descriptors wait to be closed */
	int passes;    /* descriptors may be in flight in its unix sockets */
	int had_inet;  /* an INET socket was given to it: nothing on a descriptor may be continued any more */
	int injecting; /* under job_lock: an injector waits for one of its tasks */
	int waiting_count, paused;
	int questions;               /* of its unfinished connections, those that wait for an answer */
	uint64_t spent_ns;           /* atomic: of the loop's and the injectors' processor time, in all */
	struct account *account;     /* what the host spends for it, here and elsewhere */
	uint64_t injected_ns;        /* atomic: of that, the injectors' since its last turn at the loop */
	int64_t owed_ns;             /* of the loop's time, past what it may have; below 0: what it may have yet */
	uint64_t last_ns, resume_ns; /* when its last turn ended; when its rest does */
	int resting;                 /* atomic: no call is received until `resume_ns` */
	struct notify_sandbox *next_resting;
	int brims;              /* atomic: its ring is full, and no call is received until a drain makes room */
	int last_tid, last_pid; /* a thread and its process, as they were then */
	uint64_t last_pid_ns;
	int root, root_tid; /* what that thread sees as "/" (notify/met.c); root_tid 0: none is held */
	uint64_t root_ns;
	int thread,
		thread_tid; /* a pidfd of the thread that asked last (notify/open_files.c); thread_tid 0: none is held */
	notify_policy *policy;      /* under lock; NULL: a warm cell, no guest code yet */
	uint64_t went_on;           /* atomic: its last exec that was let go on */
	struct notify_asked *asked; /* atomic, set once; NULL: no hook writes what was asked */
	struct notify_ring *ring;
	uint64_t lost, unlooked; /* atomic: records that did not fit, and look-ups among them */
	uint64_t counters[NOTIFY_CAPABILITIES][NOTIFY_VERDICTS];
	struct notify_sandbox *next, *next_dead;
	struct notify_wait *waits;
	struct notify_flight *flights;
	struct notify_leaving leaving;
	int kept[NOTIFY_KEPT];
	struct notify_locker lockers[NOTIFY_LOCKERS];
};

/* Where a socket address points, after normalisation. family 4, 6, or 1 (unix). */
struct notify_endpoint {
	int family;
	uint8_t address[16];
	uint16_t port;
	uint32_t scope;
	int held;         /* `raw` names a descriptor of the supervisor's (notify_hold_path) */
	socklen_t length; /* of `raw` as it goes to the kernel */
	union {
		struct sockaddr any;
		struct sockaddr_in in;
		struct sockaddr_in6 in6;
		struct sockaddr_un un;
		struct sockaddr_storage storage;
	} raw;
};

/* What one send is made of, all of it the supervisor's own copy. */
struct notify_message {
	struct notify_endpoint to;
	int named; /* an address was given */
	int flags;
	int rights; /* descriptors in the control messages, which are kept */
	int local;  /* on a unix socket */
	size_t bytes, control_bytes;
	uint64_t written_to; /* sendmmsg: where the guest wants msg_len */
};

/* One notification in the loop thread's hands. */
struct notify_call {
	struct notify_listener *l;
	struct notify_sandbox *sandbox;
	struct notify_desk
		*desk; /* of the thread that has received it; NULL: it has been parked since, or an injector has it */
	notify_policy *policy;
	uint64_t id;
	int tid, nr;
	uint64_t args[6];
	uint8_t asked, slot_capability, slot_verdict, reply; /* as in a record */
	uint32_t waited_ms;
	uint64_t question;
	const char *
		name; /* of a file or program that the host was asked about: the copy; NULL: the guest's memory has it */
	uint64_t unnamed[2]; /* device and inode of a file that the host gave, whose name is no more than "/" */
	size_t name_bytes, other_bytes; /* the second name of a call that has two comes right after the first */
};

struct notify_decision {
	int allow, reason, rule, presented;
};

enum notify_step { NOTIFY_STEP_CONNECT, NOTIFY_STEP_SEND, NOTIFY_STEP_ASK };
/* An operation that waits for its socket; the guest's task sleeps until then. */
struct notify_wait {
	struct notify_source source;
	struct notify_sandbox *sandbox;
	uint64_t id, deadline_ns;
	int tid, fd, dead;
	int gone;  /* a question whose call was given up: it keeps its place until the host has answered */
	int begun; /* the host carries it out */
	enum notify_step step;
	int then_send; /* MSG_FASTOPEN: connect, then send */
	struct notify_message message;
	int unwatched; /* its socket was ready while its sandbox was stranded, and is out of the epoll set until that ends */
	int on_tick; /* epoll cannot tell when: try at every tick */
	char *payload, *control;
	struct notify_call call; /* of a question: with its policy held; the policy is NULL elsewhere */
	struct notify_decision refusal;
	uint64_t since_ns;
	struct notify_wait *next, *next_all, *previous_all, *next_dead;
};

/* A guest's unix socket of which much, or descriptors, may not have been received yet. */
struct notify_flight {
	struct notify_source source;
	struct notify_sandbox *sandbox;
	uint64_t cookie;
	int fd, dead, first, count, kib;
	uint8_t messages[NOTIFY_FLIGHT]; /* a ring: how many descriptors each message has */
	struct notify_flight *next;
};

/* What the host is asked: about an address, or about a file or a program by its name. */
struct notify_question {
	uint64_t key, number, id; /* id: the call (notify_stage) */
	uint32_t scope;
	int32_t pid, tid, nr;
	uint16_t capability, family, port, name_bytes, other_bytes;
	uint8_t address[16];
	uint32_t flags, mode; /* of the call */
	char name[NOTIFY_ASKED_NAME];
};
struct notify_answered {
	uint64_t number;
	int said, fd, heard,
		error; /* fd: what the guest is given, -1: nothing; heard: a socket that hears it (notify_say) */
	struct notify_answered *next;
};

#include "desk.h"

#define NOTIFY_JOB_OWN  (-1)
#define NOTIFY_JOB_FILE (-2)

/* A socket. NOTIFY_JOB_OWN: a descriptor of the guest's own, `kind` its flags, `protocol` its number. NOTIFY_JOB_FILE: a file
 * of the supervisor's, the same, which is closed then; O_TRUNC: it is emptied once the guest has it. */
struct notify_job {
	struct notify_sandbox *sandbox;
	uint64_t id;
	int domain, kind, protocol, tid, pid, heard; /* heard: as of an answer, -1: none */
	struct notify_job *next;
};

/* What a thread of the host's has the loop do: no other thread reaches the loop's descriptors. */
struct notify_order {
	int (*run)(struct notify_listener *l, void *with);
	void *with;
	int result, done; /* under lock */
	struct notify_order *next;
};

typedef struct notify_listener {
	int wake, drain, ask, forked, running, stopping;
	/* Of the loop's own table of descriptors (table.c), as all that its sandboxes hold; -1: not open */
	int epoll, self, own_wake, own_drain, own_ask, timer;
	int ending;                                /* atomic: injectors begin nothing more */
	struct notify_order *orders, **orders_end; /* under lock */
	pthread_cond_t order_done;
	uint64_t patience_ns; /* how long the host's threads wait for it */
	int begun;            /* under lock: 1, or -errno, once the loop has its table */
	int ended;            /* under lock: no order is taken any more */
	int bound;            /* atomic: sandboxes that have a policy */
	struct notify_sandbox *resting;
	int resting_count;
	pthread_t thread; /* the first one that led */
	void *(*follow)(void *listener);
	/* Who has the turn has the rest of this, but for what `lock` and `job_lock` guard (aside.c). */
	pthread_mutex_t turn;
	pthread_cond_t lead_ready;
	struct notify_desk *leader, *desk; /* who runs the loop, and who has the turn */
	int aside;                         /* the leader is in a step aside */
	uint64_t steps;                    /* aside, of leaders */
	int armed, watched, spare;         /* the timer is; a thread waits for it; another one waits to do so */
	int stranded;                      /* atomic: threads */
	int event_count, event_at;         /* the leader's batch, which the next one goes on with */
	struct epoll_event events[NOTIFY_BATCH];
	uint64_t last_tick_ns;
	int first_stranded;
	int over, joins; /* under job_lock: the loop has ended; its first thread is not stranded */
	int followers;   /* under job_lock: threads that may lead, among the injectors */
	pthread_mutex_t lock, job_lock;
	pthread_cond_t job_ready;
	int injectors, idle;                 /* under job_lock: threads; those that have no job */
	struct notify_job *jobs, *spare_job; /* atomic: the memory of one that is done */
	int closers, abandoned;              /* under job_lock: injectors that close; the last one frees all */
	struct notify_leaving *to_close, **to_close_end, nobodys;
	struct notify_left left[NOTIFY_LEFT];
	int left_used, left_free, left_count; /* places taken ever; the first free one of these; atomic: in use */
	struct notify_sandbox *buckets[NOTIFY_BUCKETS], *slots[NOTIFY_SLOTS], *dead;
	int next_slot;
	struct notify_wait *waits, *tick_cursor, *dead_waits;
	struct notify_flight *dead_flights;
	int room[NOTIFY_KEPT], kept[NOTIFY_KEPT]; /* for all sandboxes together */
	uint64_t dirty[NOTIFY_SLOTS / 64];
	struct notify_question *questions; /* a ring: its head is the loop's, its tail the asking thread's */
	uint32_t question_head, question_tail;
	uint64_t last_question;
	struct notify_answered *answered; /* under lock */
	int halted, drained;              /* drained: where notify_next goes on */
	int drain_waits;
	struct notify_source wake_source;
	size_t notif_bytes, response_bytes;
	uint8_t capability[NOTIFY_SYSCALLS], traits[NOTIFY_SYSCALLS];
	int8_t path_argument[NOTIFY_SYSCALLS];
	uint64_t local[NOTIFY_DEVICES];
	struct led *led; /* atomic, set once; NULL: no connection is led to a proxy */
	uint16_t led_port;
	struct notify_listener *next;
} notify_listener;

static inline uint64_t notify_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

#endif
