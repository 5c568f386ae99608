/* Dispatch by system call. What has no handler of its own is decided by its capability alone. */

#define NOTIFY_CLONE_NEW 0x7e020000ULL /* CLONE_NEW*, linux/sched.h */
#define NOTIFY_CLONE_PTRACE 0x2000ULL
#define NOTIFY_SET_ID_BITS 06000ULL

/* The filter's own conditions for calls that the "full" program always notifies (kernel/syscall_table.py). */
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
	case 452: /* fchmodat2, 6.6 */
		mode = a[2];
		break;
	default:
		return 0;
	}
#ifdef SYS_mknod
	if (nr == SYS_mknod && (S_ISCHR(mode) || S_ISBLK(mode) || S_ISDIR(mode)))
		return 1;
#endif
	if (nr == SYS_mknodat && (S_ISCHR(mode) || S_ISBLK(mode) || S_ISDIR(mode)))
		return 1;
	return creates && (mode & NOTIFY_SET_ID_BITS);
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

static void notify_by_capability(const struct notify_call *c, int capability, int known)
{
	struct notify_decision d = notify_without_rule(-1);
	const notify_policy *shadow = c->policy->shadow;
	int other = shadow ? shadow->acts[capability % NOTIFY_CAPABILITIES] : NOTIFY_ACT_ALLOW;

	if (other == NOTIFY_ACT_DENY || other == NOTIFY_ACT_WATCH) /* the floor is no policy's doing */
		notify_tell_shadow(c, capability, d, NULL);
	switch (c->policy->acts[capability % NOTIFY_CAPABILITIES]) {
	case NOTIFY_ACT_ALLOW:
		notify_count(c->sandbox, capability, NOTIFY_ALLOW);
		notify_continue(c);
		return;
	case NOTIFY_ACT_WATCH:
		notify_tell(c, capability, NOTIFY_WOULD_DENY, 0, &d, NULL);
		notify_continue(c);
		return;
	case NOTIFY_ACT_FLOOR:
		d.reason = NOTIFY_ALWAYS_DENIED;
		/* a call that nobody knew when this was written: libc has a fallback for ENOSYS, for EPERM it has not */
		notify_refuse(c, capability, known ? EPERM : ENOSYS, &d, NULL);
		return;
	default:
		notify_refuse(c, capability, EACCES, &d, NULL);
	}
}

/* Flags travel in a register, so what is judged is what the kernel uses. */
static void notify_do_clone(const struct notify_call *c)
{
	uint64_t flags = c->nr == SYS_clone ? c->args[0] : 0;

	if (flags & NOTIFY_CLONE_NEW)
		notify_refuse_always(c, NOTIFY_CAP_KERNEL_NAMESPACE, NULL);
	else if (flags & NOTIFY_CLONE_PTRACE)
		notify_refuse_always(c, c->l->capability[SYS_ptrace], NULL);
	else
		notify_by_capability(c, NOTIFY_CAP_PROCESS_FORK, 1);
}

static void notify_decide(const struct notify_call *c)
{
	int nr = c->nr;

	if (!c->policy) { /* a warm cell: our own code, no guest's yet */
		notify_continue(c);
		return;
	}
	if (nr < 0 || nr >= NOTIFY_SYSCALLS) {
		notify_by_capability(c, NOTIFY_CAP_KERNEL_SYSCALL, 0);
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
	}
	if (notify_on_oneself(c)) {
		notify_continue(c);
	} else if ((c->l->traits[nr] & NOTIFY_REPORTED) && !notify_makes_set_id(nr, c->args)) {
		if (c->policy->flags & NOTIFY_FULL)
			notify_tell(c, c->l->capability[nr], NOTIFY_ALLOW, 0, NULL, NULL);
		notify_continue(c); /* Landlock or BPF-LSM decides */
	} else {
		notify_by_capability(c, c->l->capability[nr], c->l->traits[nr] & NOTIFY_KNOWN);
	}
}
