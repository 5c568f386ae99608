/* Was the broker asked about this call? Answered from the asked page (asked.h), which the guest's hooks fill just before
 * the call. Never part of a decision: the page is the guest's own word about itself.
 *
 * A word is taken once, by the first call that it can belong to, allowed or not: what comes after it without another
 * question went round the hooks. Wherever one question stands for several calls, or C code that the interpreter itself
 * calls asks the kernel for things of its own, the answer is "unknown": honest code is never accused. */
#include "facts.h"

SHARED void notify_asked_free(struct notify_asked *a)
{
	if (a && !a->of_threads)
		munmap(a->page, ASKED_BYTES);
	notify_free(a);
}

/* Only of a sealed size: a guest that could cut it would have the supervisor end by SIGBUS. */
SHARED struct notify_asked *notify_asked_new(int fd)
{
	struct notify_asked *a = notify_alloc(1, sizeof *a);
	struct stat about;
	void *page = MAP_FAILED;

	errno = EINVAL;
	if (a && (fcntl(fd, F_GET_SEALS) & ASKED_SEALS) == ASKED_SEALS && !fstat(fd, &about) &&
	    about.st_size == (off_t)ASKED_BYTES)
		page = mmap(NULL, ASKED_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (page == MAP_FAILED) {
		int error = errno;
		notify_free(a);
		errno = error;
		return NULL;
	}
	madvise(page, ASKED_BYTES, MADV_DONTFORK);
	a->page = page;
	return a;
}

/* The page in which this process's own sandbox threads write; it is never unmapped. */
SHARED struct notify_asked *notify_asked_of_threads(void *page)
{
	struct notify_asked *a = notify_alloc(1, sizeof *a);

	if (a) {
		a->page = page;
		a->of_threads = 1;
	}
	return a;
}

/* What the thread calls itself and its process. Reading it anew costs 15 us. */
static const struct notify_name *notify_name_of(const struct notify_call *c)
{
	struct notify_name *name = &c->sandbox->asked->names[(uint32_t)c->tid % NOTIFY_NAMES];
	uint64_t now = notify_now();

	if (name->tid == c->tid && now - name->since_ns < NOTIFY_NAME_NS)
		return name;
	name->tid = 0;
	if (notify_own_ids(c->tid, &name->own_pid, &name->own_tid) || !notify_valid(c))
		return NULL;
	name->tid = c->tid;
	name->since_ns = now;
	return name;
}

/* Does the call map a file's code, and no memory that it could write to? */
SHARED int notify_maps_code(const struct notify_call *c)
{
	return c->nr == SYS_mmap && (c->args[2] & (PROT_EXEC | PROT_WRITE)) == PROT_EXEC &&
	       !(c->args[3] & (MAP_ANONYMOUS | MAP_HUGETLB));
}

/* The capabilities that hooks ask about before this call; how many, 0 for calls that say nothing either way. */
static int notify_asks(const struct notify_call *c, uint8_t capability[2])
{
	capability[1] = PYI_PROCESS_EXEC; /* posix_spawn, and what has the C library fork for it */
	switch (c->nr) {
	case SYS_socket:
		capability[0] = PYI_NET_SOCKET;
		return 1;
	case SYS_connect:
		capability[0] = PYI_NET_CONNECT;
		return 1;
	case SYS_bind:
		capability[0] = PYI_NET_BIND;
		return 1;
	case SYS_listen:
		capability[0] = PYI_NET_LISTEN;
		return 1;
	case SYS_sendto:
	case SYS_sendmsg:
	case SYS_sendmmsg:
		capability[0] = PYI_NET_SEND;
		capability[1] = PYI_NET_CONNECT; /* asked in a cell; on a sandbox thread no hook sees the flags */
		return c->args[c->nr == SYS_sendmsg ? 2 : 3] & MSG_FASTOPEN ? 2 : 1;
	case SYS_clone:
#ifdef SYS_fork
	case SYS_fork:
	case SYS_vfork:
#endif
		capability[0] = PYI_PROCESS_FORK;
		return 2;
	case SYS_execve:
	case SYS_execveat:
		capability[0] = PYI_PROCESS_EXEC;
		return 1;
	case SYS_getrandom:
		capability[0] = PYI_RANDOM_READ;
		return 1;
	case SYS_chroot:
		capability[0] = PYI_KERNEL_MOUNT;
		return 1;
	case SYS_kill:
	case SYS_tkill:
	case SYS_tgkill:
	case SYS_rt_sigqueueinfo:
		capability[0] = PYI_PROCESS_SIGNAL;
		return 1;
	case SYS_unshare:
	case SYS_setns:
		capability[0] = PYI_KERNEL_NAMESPACE;
		return 1;
	case SYS_mmap: /* a library is mapped right after the hook that asked about it */
		capability[0] = PYI_IMPORT_NATIVE;
		return notify_maps_code(c);
	case SYS_ioctl:
		capability[0] = PYI_KERNEL_IOCTL;
		return (uint32_t)c->args[1] == TIOCSTI || (uint32_t)c->args[1] == TIOCLINUX;
	default:
		return 0;
	}
}

/* Only audit events tell of a sandbox thread's calls: the host's functions have no wrappers. And a child that it forks
 * writes into a copy of the page. */
static int notify_says_nothing(const struct notify_call *c, const struct notify_name *name)
{
	struct notify_asked *asked = c->sandbox->asked;

	if (!asked->of_threads)
		return 0;
	switch (c->nr) {
	case SYS_listen:
	case SYS_getrandom:
	case SYS_chroot:
	case SYS_tkill:
	case SYS_tgkill:
	case SYS_rt_sigqueueinfo:
	case SYS_unshare:
	case SYS_setns:
		return 1;
	default:
		return name->own_pid != (int)__atomic_load_n(&asked->page->main, __ATOMIC_RELAXED);
	}
}

/* No question fits. Is that sure to be code that went round the hooks? */
static uint8_t notify_unasked(const struct notify_call *c, const struct notify_name *name)
{
	switch (c->nr) {
	case SYS_execve:
	case SYS_execveat: /* in a child, its parent was asked */
		return name->own_pid == (int)__atomic_load_n(&c->sandbox->asked->page->main, __ATOMIC_RELAXED)
			       ? NOTIFY_NOT_ASKED
			       : NOTIFY_UNKNOWN;
	case SYS_getrandom: /* seeds of C code: the interpreter's, OpenSSL's */
		return NOTIFY_UNKNOWN;
	default:
		return NOTIFY_NOT_ASKED;
	}
}

/* A cell on the host's network makes some calls without us, so that a word may have been about one of those. */
static int notify_may_be_stale(const struct notify_call *c)
{
	return (c->policy->flags & NOTIFY_NATIVE_NET) &&
	       (c->nr == SYS_socket || c->nr == SYS_sendmsg || c->nr == SYS_sendmmsg);
}

static int notify_is_vfork(const struct notify_call *c)
{
	/* _posixsubprocess.fork_exec: a vfork that fails is followed by a fork */
#ifdef SYS_vfork
	if (c->nr == SYS_vfork)
		return 1;
#endif
	return c->nr == SYS_clone && (c->args[0] & CLONE_VFORK);
}

static uint8_t notify_take_word(struct notify_call *c, const struct notify_name *name, uint32_t place,
				uint32_t capability)
{
	int index = asked_word(capability);
	struct notify_taken *taken = &c->sandbox->asked->taken[place][index];
	uint64_t word = __atomic_load_n(&c->sandbox->asked->page[place].words[index], __ATOMIC_ACQUIRE);
	uint32_t flags = word >> 16 & 0xffff, verdict = word >> 8 & 0xff;

	if (!word)
		return NOTIFY_NOT_ASKED;
	if (flags & ASKED_NOTHING || (word & 0xff) != capability ||
	    (verdict != ASKED_ALLOW && verdict != ASKED_WOULD_DENY))
		return NOTIFY_UNKNOWN; /* or forged */
	if (taken->word == word && taken->tid == (uint32_t)name->own_tid) {
		int again = taken->again && !notify_is_vfork(c);
		taken->again = 0;
		return again ? NOTIFY_UNKNOWN : NOTIFY_NOT_ASKED;
	}
	if (notify_may_be_stale(c))
		return NOTIFY_UNKNOWN;
	*taken = (struct notify_taken){.word = word,
				       .id = c->id,
				       .tid = (uint32_t)name->own_tid,
				       .again = flags & ASKED_MANY && notify_is_vfork(c) &&
						c->policy->acts[PYI_PROCESS_FORK] != NOTIFY_ACT_ALLOW};
	c->slot_capability = (uint8_t)capability;
	c->slot_verdict = (uint8_t)verdict;
	return NOTIFY_ASKED;
}

/* Can a question about this capability have been about this call? Hooks ask as the flags of an opening call say, and
 * first to delete (read) what is renamed (linked). */
static int notify_fits(const struct notify_call *c, uint32_t capability)
{
	uint64_t flags = 0, makes = O_CREAT | (O_TMPFILE & ~O_DIRECTORY);

	switch (c->nr) {
#ifdef SYS_open
	case SYS_open:
		flags = c->args[1];
		break;
#endif
	case SYS_openat:
		flags = c->args[2];
		break;
	default: /* a name that does not exist is asked about as one that is made */
		return notify_other_argument(c->nr) >= 0 || c->l->capability[c->nr] == capability;
	}
	if (flags & makes && flags & O_ACCMODE)
		return capability == PYI_FS_CREATE || capability == PYI_FS_WRITE;
	return flags & makes || capability == (flags & (O_ACCMODE | O_TRUNC) ? PYI_FS_WRITE : PYI_FS_READ);
}

static uint64_t notify_name_tag(const struct notify_call *c, int argument)
{
	size_t length;
	const char *name = notify_read_name(c, c->args[argument], &length);

	return name ? asked_name_tag(name, length) : 0;
}

static uint64_t notify_file_tag(const struct notify_call *c)
{
	int argument = c->l->path_argument[c->nr], other = notify_other_argument(c->nr);

	if (argument < 0)
		return 0;
	if (argument & NOTIFY_DESCRIPTOR)
		return asked_descriptor_tag((uint32_t)c->args[argument & ~NOTIFY_DESCRIPTOR]);
	if (c->nr == SYS_utimensat && !c->args[1])
		return asked_descriptor_tag((uint32_t)c->args[0]);
	if (c->nr == SYS_symlinkat) /* hooks ask about the link, by its first argument: where it leads */
		argument = 0;
	if (other >= 0)
		return asked_names_tag(notify_name_tag(c, argument), notify_name_tag(c, other));
	return notify_name_tag(c, argument);
}

/* No hook asks about those. */
static int notify_is_look(const struct notify_call *c)
{
	return c->l->capability[c->nr] == PYI_FS_LOOKUP || c->args[5] == NOTIFY_LOOKED;
}

/* Calls about files. A question that an earlier call used up, or one about another name, says nothing of this one. */
static uint8_t notify_consult_file(struct notify_call *c, struct notify_asked *asked, uint32_t place)
{
	uint64_t word = __atomic_load_n(&asked->page[place].words[ASKED_FILE], __ATOMIC_ACQUIRE);
	uint64_t tag = __atomic_load_n(&asked->page[place].words[ASKED_FILE_TAG], __ATOMIC_ACQUIRE);
	uint32_t capability = word & 0xff, verdict = word >> 8 & 0xff, flags = word >> 16 & 0xffff;

	if (asked_is_resolving(word))
		return NOTIFY_RESOLVES;
	if (notify_is_look(c))
		return NOTIFY_UNKNOWN;
	if (!word || word == asked->taken[place][ASKED_FILE].word || tag != notify_file_tag(c) ||
	    !notify_fits(c, capability))
		return NOTIFY_NOT_ASKED;
	if (!asked_is_file(capability) || (verdict != ASKED_ALLOW && verdict != ASKED_WOULD_DENY))
		return NOTIFY_UNKNOWN; /* forged */
	if (flags & (ASKED_NOTHING | ASKED_IMPORTS)) {
		asked->taken[place][ASKED_FILE] = (struct notify_taken){.word = word, .id = c->id};
		return flags & ASKED_IMPORTS ? NOTIFY_IMPORTS : NOTIFY_UNKNOWN;
	}
	asked->taken[place][ASKED_FILE] = (struct notify_taken){.word = word, .id = c->id};
	c->slot_capability = (uint8_t)capability;
	c->slot_verdict = (uint8_t)verdict;
	return NOTIFY_ASKED;
}

static int notify_is_file_call(const struct notify_call *c)
{
	return c->nr >= 0 && c->nr < NOTIFY_SYSCALLS && (c->l->traits[c->nr] & NOTIFY_REPORTED) &&
	       c->args[5] != NOTIFY_FILE_SIZE && c->args[5] != NOTIFY_NO_SPACE;
}

/* Fill in whether the broker was asked. Runs for every call that hooks ask about, also for those that are allowed. */
SHARED void notify_consult(struct notify_call *c)
{
	struct notify_asked *asked = __atomic_load_n(&c->sandbox->asked, __ATOMIC_ACQUIRE);
	uint8_t capability[2];
	int file = asked && c->policy && notify_is_file_call(c);
	int count = file ? 1 : asked && c->policy ? notify_asks(c, capability) : 0, free = 0;
	const struct notify_name *name;

	if (!count || !__atomic_load_n(&asked->page->main, __ATOMIC_ACQUIRE) || !(name = notify_name_of(c)) ||
	    notify_says_nothing(c, name))
		return;
	for (uint32_t i = 0; i < ASKED_PROBES; i++) {
		uint32_t place = ((uint32_t)name->own_tid + i) % ASKED_THREADS;
		uint32_t owner = __atomic_load_n(&asked->page[place].tid, __ATOMIC_ACQUIRE);
		free |= !owner;
		if (owner != (uint32_t)name->own_tid)
			continue;
		if (file) {
			c->asked = notify_consult_file(c, asked, place);
			return;
		}
		uint8_t found = NOTIFY_NOT_ASKED;
		for (int n = 0; n < count && found != NOTIFY_ASKED; n++) {
			uint8_t said = notify_take_word(c, name, place, capability[n]);
			found = said == NOTIFY_NOT_ASKED ? found : said;
		}
		c->asked = found == NOTIFY_NOT_ASKED ? notify_unasked(c, name) : found;
		return;
	}
	if (file && notify_is_look(c))
		return;
	c->asked = free ? notify_unasked(c, name) : NOTIFY_UNKNOWN; /* all its places are taken by others */
}

/* The call will be made again without another question: a signal came first, or the answer was to try again. */
SHARED void notify_give_back(struct notify_sandbox *s, uint64_t id)
{
	struct notify_asked *asked = s->asked;

	for (int place = 0; asked && place < ASKED_THREADS; place++)
		for (int index = 0; asked->page[place].tid && index < ASKED_WORDS; index++)
			if (asked->taken[place][index].id == id)
				asked->taken[place][index].word = 0;
}

/* Name services ask daemons by these sockets, for any function that looks up a user or a host. */
SHARED int notify_is_lookup(const struct notify_endpoint *e)
{
	static const char *const begins[] = {"/var/run/nscd/", "/run/nscd/", "/run/systemd/"};

	for (size_t i = 0; e && e->family == 1 && i < sizeof begins / sizeof *begins; i++)
		if (!strncmp(e->raw.un.sun_path, begins[i], strlen(begins[i])))
			return 1;
	return 0;
}
