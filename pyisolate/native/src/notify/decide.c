/* Dispatch by system call. What has no handler of its own is decided by its capability alone. */
#include "calls.h"

#define NOTIFY_CLONE_NEW     0x7e020000ULL /* CLONE_NEW*, linux/sched.h */
#define NOTIFY_CLONE_NEWTIME 0x80ULL       /* clone3's only */
#define NOTIFY_CLONE_PTRACE  0x2000ULL
#define NOTIFY_SET_ID_BITS   06000ULL
/* By this signal the C library has each thread make a set*id call, before it makes its own, which is refused and recorded.
 * The others are the host's: no thread of the sandbox's would follow. (glibc, sysdeps/unix/sysv/linux/internal-signals.h) */
#define NOTIFY_SIGSETXID 33

/* What no mknod makes: devices are the host's, and a socket is made by bind, which is asked about. */
static int notify_special(uint64_t mode)
{
	return S_ISCHR(mode) || S_ISBLK(mode) || S_ISDIR(mode) || S_ISSOCK(mode);
}

/* The filter's own conditions for calls that the "full" program always notifies (kernel/seccomp/syscalls.py). */
static int notify_makes_set_id(int nr, const uint64_t *a)
{
	uint64_t mode = 0, creates = 1;

	switch (nr) {
#ifdef SYS_open
	case SYS_open:
		mode = a[2];
		creates = a[1] & (O_CREAT | (O_TMPFILE & ~O_DIRECTORY));
		break;
	case SYS_creat:
	case SYS_chmod:
	case SYS_mknod:
		mode = a[1];
		break;
#endif
	case SYS_openat:
		mode = a[3];
		creates = a[2] & (O_CREAT | (O_TMPFILE & ~O_DIRECTORY));
		break;
	case SYS_fchmod:
		mode = a[1];
		break;
	case SYS_fchmodat:
	case SYS_mknodat:
	case NOTIFY_FCHMODAT2:
		mode = a[2];
		break;
	default:
		return 0;
	}
#ifdef SYS_mknod
	if (nr == SYS_mknod && notify_special(mode))
		return 1;
#endif
	if (nr == SYS_mknodat && notify_special(mode))
		return 1;
	return creates && (mode & NOTIFY_SET_ID_BITS);
}

/* A limit that the kernel keeps and the guest has met: it will answer the same to this call. */
static void notify_tell_limit(const struct notify_call *c, int capability, int error)
{
	struct notify_decision d = {.reason = NOTIFY_LIMIT_EXCEEDED, .rule = -1, .presented = -1};
	struct notify_call met = *c;

	met.asked = NOTIFY_NOT_ASKED; /* about a file, not about the limit */
	notify_tell(&met, capability, NOTIFY_DENY, error, &d, NULL);
}

/* A limit that the guest's C library has met; the fifth argument is the call, 0 where it is this one. */
static void notify_do_limit(const struct notify_call *c)
{
	struct notify_call met = *c;
	int size = c->args[5] == NOTIFY_FILE_SIZE, room = c->args[5] == NOTIFY_NO_SPACE;
	uint64_t hard;

	if (c->args[4] && c->args[4] < NOTIFY_SYSCALLS)
		met.nr = (int)c->args[4];
	if (room)
		notify_tell_limit(&met, PYI_LIMIT_WORKSPACE, ENOSPC);
	else if (!size && notify_table_full(c))
		notify_tell_limit(&met, PYI_LIMIT_OPEN_FILES, EMFILE);
	else if (size && !notify_hard_limit(c->tid, RLIMIT_FSIZE, &hard) && hard >= c->policy->file_size)
		notify_tell_limit(&met, PYI_LIMIT_FILE_SIZE, EFBIG);
	if (c->args[4])
		notify_result(c, -EMFILE);
	else
		notify_continue(c); /* it says so to the guest */
}

/* Its flags are in memory: they are read for the record alone, and name the capability as open's would. */
static void notify_do_openat2(const struct notify_call *c)
{
	struct notify_call named = *c;
	uint64_t flags;

	named.args[2] = notify_read(c, c->args[2], &flags, sizeof flags) || !notify_valid(c) ? 0 : flags;
	flags = named.args[2];
	notify_refuse_floor(&named,
			    flags & O_CREAT     ? PYI_FS_CREATE
			    : flags & O_ACCMODE ? PYI_FS_WRITE
						: PYI_FS_READ,
			    ENOSYS);
}

/* Capabilities that the caller does not have. Giving up some goes on. */
static void notify_do_capset(const struct notify_call *c)
{
	uint32_t header[2],
		sets[6] = {0}; /* effective, permitted, inheritable: of 32 capabilities, then of the others */
	uint64_t wanted, own;

	if (notify_read(c, c->args[0], header, sizeof header) ||
	    notify_read(c, c->args[1], sets, header[0] == 0x19980330 ? 12 : 24) || /* _LINUX_CAPABILITY_VERSION_1 */
	    notify_permitted(c->tid, &own) || !notify_valid(c)) {
		notify_continue(c);
		return;
	}
	wanted = (sets[0] | sets[1] | sets[2]) | (uint64_t)(sets[3] | sets[4] | sets[5]) << 32;
	if (wanted & ~own)
		notify_refuse_floor(c, PYI_KERNEL_CAPABILITY, EPERM);
	else
		notify_continue(c);
}

/* The limit of a policy that a resource limit stands for; raising any other takes CAP_SYS_RESOURCE, which no cell has. */
static int notify_limit_of(int resource)
{
	switch (resource) {
	case RLIMIT_NOFILE:
		return PYI_LIMIT_OPEN_FILES;
	case RLIMIT_NPROC:
		return PYI_LIMIT_PROCESSES;
	case RLIMIT_FSIZE:
		return PYI_LIMIT_FILE_SIZE;
	case RLIMIT_CPU:
		return PYI_LIMIT_CPU;
	case RLIMIT_AS:
	case RLIMIT_DATA:
		return PYI_LIMIT_MEMORY;
	default:
		return PYI_KERNEL_CAPABILITY;
	}
}

/* A cell's own limits. The kernel refuses to raise a hard one (setrlimit(2)); so does this, and records it. Whatever goes
 * on is judged by the kernel as well, so that a guest gains nothing by changing its memory. */
static void notify_do_setrlimit(const struct notify_call *c)
{
	int resource = (int)c->args[c->nr == SYS_prlimit64 ? 1 : 0];
	struct rlimit wanted;
	uint64_t hard;

	if (!notify_read(c, c->args[c->nr == SYS_prlimit64 ? 2 : 1], &wanted, sizeof wanted) &&
	    !notify_hard_limit(c->tid, resource, &hard) && notify_valid(c) && wanted.rlim_cur <= wanted.rlim_max &&
	    wanted.rlim_max > hard)
		notify_refuse_floor(c, notify_limit_of(resource), EPERM);
	else
		notify_continue(c);
}

/* Calls on oneself by one's own number, which the filter cannot know. By value, so they may go on. */
static int notify_on_oneself(const struct notify_call *c)
{
	int pid, tid, who = (int)c->args[0];

	switch (c->nr) {
	case SYS_prlimit64:
		if (!(c->policy->flags & NOTIFY_CELL) && c->args[2]) /* the host's limits */
			return 0;
		return !notify_own_ids(c->tid, &pid, &tid) && (who == 0 || who == pid);
	case SYS_sched_setaffinity:
	case SYS_sched_setattr:
		return !notify_own_ids(c->tid, &pid, &tid) && (who == 0 || who == tid);
	case SYS_tgkill:
		return !notify_own_ids(c->tid, &pid, &tid) && who == pid && (int)c->args[1] == tid;
	default:
		return 0;
	}
}

/* Flags travel in a register, so what is judged is what the kernel uses. */
static void notify_do_clone(const struct notify_call *c)
{
	uint64_t flags = c->nr == SYS_clone ? c->args[0] : 0;

	if (flags & NOTIFY_CLONE_NEW)
		notify_refuse_always(c, PYI_KERNEL_NAMESPACE, NULL);
	else if (flags & NOTIFY_CLONE_PTRACE)
		notify_refuse_always(c, c->l->capability[SYS_ptrace], NULL);
	else
		notify_by_capability(c, PYI_PROCESS_FORK, 1);
}

/* Its flags are in memory, where the guest could change them: never allowed. libc has a fallback for ENOSYS, clone,
 * which is judged; a refusal that the fallback would meet as well is one here, so that it is recorded once. */
static void notify_do_clone3(const struct notify_call *c)
{
	struct notify_call named = *c;
	struct notify_decision none = notify_without_rule(-1);
	uint64_t flags;

	if (notify_read(c, c->args[0], &flags, sizeof flags) || !notify_valid(c)) {
		notify_result(c, -ENOSYS);
		return;
	}
	named.args[0] = flags; /* the record shows them as clone's */
	if (flags & (NOTIFY_CLONE_NEW | NOTIFY_CLONE_NEWTIME))
		notify_refuse_always(&named, PYI_KERNEL_NAMESPACE, NULL);
	else if (!(flags & CLONE_THREAD) && c->policy->acts[PYI_PROCESS_FORK] == NOTIFY_ACT_DENY)
		notify_by_capability(&named, PYI_PROCESS_FORK, 1);
	else if (!(flags & CLONE_THREAD) && c->policy->acts[PYI_PROCESS_FORK] == NOTIFY_ACT_WATCH)
		notify_refuse(&named, PYI_PROCESS_FORK, ENOSYS, &none,
			      NULL); /* also in monitor mode, which is no grant */
	else
		notify_result(c, -ENOSYS);
}

static int notify_is_lock(int command)
{
	return command == F_SETLK || command == F_SETLKW || command == F_OFD_SETLK || command == F_OFD_SETLKW;
}

SHARED void notify_decide(const struct notify_call *c)
{
	int nr = c->nr, argument;

	if (!c->policy) { /* a warm cell: our own code, no guest's yet */
		notify_continue(c);
		return;
	}
	if (nr < 0 || nr >= NOTIFY_SYSCALLS) {
		notify_by_capability(c, PYI_KERNEL_SYSCALL, 0);
		return;
	}
	switch (nr) {
	case SYS_socket:
	case SYS_socketpair:
		notify_do_socket(c);
		return;
	case SYS_connect:
		notify_do_connect(c);
		return;
	case SYS_bind:
		notify_do_bind(c);
		return;
	case SYS_listen:
		notify_do_listen(c);
		return;
	case SYS_sendto:
		notify_do_sendto(c);
		return;
	case SYS_sendmsg:
	case SYS_sendmmsg:
		notify_do_sendmsg(c);
		return;
	case SYS_setsockopt:
		notify_do_setsockopt(c);
		return;
	case SYS_clone:
#ifdef SYS_fork
	case SYS_fork:
	case SYS_vfork:
#endif
		notify_do_clone(c);
		return;
	case SYS_clone3:
		notify_do_clone3(c);
		return;
	case SYS_openat2:
		notify_do_openat2(c);
		return;
	case SYS_chdir: /* a look-up of a cell's; of a sandbox thread the directory is the host's */
		if (c->policy->flags & NOTIFY_CELL)
			break;
		notify_by_capability(c, PYI_FS_METADATA, 1);
		return;
	case SYS_tgkill:
		if (c->policy->flags & NOTIFY_CELL || c->args[2] != NOTIFY_SIGSETXID)
			break;
		notify_result(c, -ESRCH);
		return;
	case SYS_fcntl:
		if ((int)c->args[1] == F_SETPIPE_SZ) {
			notify_do_pipe_size(c);
			return;
		}
		if (!notify_is_lock((int)c->args[1]))
			break;
		notify_do_lock(c);
		return;
	case SYS_mmap:
		if (notify_maps_code(c)) {
			notify_do_map(c);
			return;
		}
		if (!(c->args[3] & MAP_HUGETLB))
			break;
		notify_do_huge(c);
		return;
	case SYS_memfd_create: /* of memory that any code may be mapped from: where that is granted */
		if (!(c->args[1] & MFD_HUGETLB) || !(c->policy->flags & NOTIFY_CELL) ||
		    c->policy->acts[PYI_IMPORT_NATIVE] == NOTIFY_ACT_DENY)
			break;
		notify_do_huge(c);
		return;
	}
	if (c->policy->flags & NOTIFY_CELL &&
	    ((nr == SYS_prlimit64 && !c->args[0] && c->args[2]) || nr == SYS_setrlimit)) {
		notify_do_setrlimit(c);
		return;
	}
	if (c->policy->flags & NOTIFY_CELL && nr == SYS_capset) {
		notify_do_capset(c);
		return;
	}
	if (c->policy->flags & NOTIFY_CELL && notify_keeps_ids(c)) {
		notify_result(c, 0);
		return;
	}
	argument = c->policy->flags & NOTIFY_CELL ? notify_raises(c) : 0;
	if (argument) {
		notify_refuse_floor(c, PYI_KERNEL_CAPABILITY, argument);
		return;
	}
	argument = c->policy->flags & NOTIFY_CELL ? notify_number_argument(c) : -1;
	if (argument >= 0) {
		notify_do_numbered(c, argument);
		return;
	}
	if (notify_on_oneself(c)) {
		notify_continue(c);
	} else if (notify_makes_set_id(nr, c->args)) {
		int opens = c->l->capability[nr] == PYI_FS_READ; /* open, openat: to make a file */
		notify_refuse_floor(c, opens ? PYI_FS_CREATE : c->l->capability[nr], EACCES);
	} else if (c->policy->flags & NOTIFY_OWN_NAMES && notify_opens_own(c)) {
		return;
	} else if (c->l->traits[nr] & NOTIFY_REPORTED) {
		int reports = nr == SYS_openat && c->policy->flags & NOTIFY_CELL;
		if (reports && c->args[5] == NOTIFY_LOOKED) {
			notify_do_look(c);
			return;
		}
		if (reports && (c->args[5] == NOTIFY_TABLE_FULL || c->args[5] == NOTIFY_FILE_SIZE ||
				c->args[5] == NOTIFY_NO_SPACE)) {
			notify_do_limit(c);
			return;
		}
		if (notify_ask_open(c) || notify_ask_names(c))
			return;
		if (c->l->capability[nr] == PYI_FS_LOOKUP)
			notify_watch_look(c);
		else if (c->policy->flags & NOTIFY_FULL)
			notify_tell(c, c->l->capability[nr], NOTIFY_ALLOW, 0, NULL, NULL);
		notify_continue(c); /* Landlock or BPF-LSM decides */
	} else if (c->policy->flags & NOTIFY_ASK_EXEC && c->l->capability[nr] == PYI_PROCESS_EXEC) {
		notify_ask_exec(c);
	} else {
		notify_by_capability(c, c->l->capability[nr], c->l->traits[nr] & NOTIFY_KNOWN);
	}
}
