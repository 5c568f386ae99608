/* The C audit hook (PEP 578). One PySys_AddAuditHook per process; nothing happens until a thread or the process is
 * marked as sandboxed, and then only for the events in the table.
 *
 * Cost matters most where the hook has nothing to do: every thread of the host passes here for each audit event.
 * That path is one thread-local load, one global load, return 0. The thread-local model is the default one, not
 * initial-exec: that measures no faster and makes the import fail in hosts whose static TLS surplus (512 bytes, shared by
 * all libraries loaded at run time) is used up.
 *
 * What this is not: a boundary. Guest code shares the interpreter with the hook; memory corruption, native code or
 * gc-walking to the callable reach round it. The kernel is the boundary; sealing only keeps honest Python honest.
 */
#include <Python.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "allowed.h"
#include "asked.h"
#include "audit.h"
#include "audit_table.h"
#include "audit_tag.h"
#include "result.h"
#include "shared.h"

/* struct pyi_slot of bpf/pyisolate.h, a slot of the mmapable BPF array: read by the kernel program, consumed there. */
struct audit_slot {
	uint64_t sequence;
	uint32_t capability;
	uint32_t verdict;
	uint32_t tid;   /* owner in a page that threads share; 0: free */
	uint32_t taken; /* the kernel's */
	uint64_t tag;
};
enum { AUDIT_VERDICT_ALLOW = 1, AUDIT_SLOTS = 128, AUDIT_PROBES = 4 /* PYI_SLOTS, PYI_SLOT_PROBES */ };

/* A thread's state. */
struct audit_thread {
	PyObject *callable;         /* strong; NULL unless this is a sandbox thread */
	struct audit_slot *slot;    /* this thread's own, from set_slot */
	struct audit_slot *shared;  /* its slot in the process's page, once it has one */
	struct asked_thread *asked; /* its place in the asked page, once it has one */
	uint64_t sequence;          /* of the event this thread was last asked about */
	uint64_t token;             /* not 0: sealed */
	int32_t busy;               /* > 0: inside the callable; events it causes pass through */
};
static _Thread_local struct audit_thread audit_self;

static PyObject *audit_process_callable;      /* strong; every thread of the process is then a sandbox thread */
static PyInterpreterState *audit_interpreter; /* the one that the callables belong to */
static uint64_t audit_process_token;
static struct audit_slot *audit_page;    /* AUDIT_SLOTS slots for all threads of the process */
static struct asked_thread *audit_asked; /* ASKED_THREADS places, likewise, for the notification listener */
static int audit_asked_is_own;           /* the page is this process's alone, for its sandbox threads */
static int audit_is_installed;
static void (*audit_quiet_allow)(uint64_t); /* preload/files.c; NULL where that is not loaded */
static _Atomic uint64_t audit_counter;

static _Atomic int audit_events_ready;

/* A sandbox starts no sub-interpreter: the callable belongs to one interpreter. On 3.11 the event is in the table and
 * refused: later, while the new interpreter imports its first modules, a refusal aborts the process. From 3.12 on it is
 * the other way round: 3.12 dereferences NULL where the event is refused (Py_NewInterpreterFromConfig reports no error),
 * 3.13 does not raise it, and both turn the refusal of the first "open" into an exception. */
#define AUDIT_REFUSES_NEW_INTERPRETER (PY_VERSION_HEX < 0x030c0000)
#define AUDIT_NEW_INTERPRETER         "cpython.PyInterpreterState_New"

/* The place of a thread in the asked page, to be given back when it ends. */
static pthread_key_t audit_place_of_thread;

/* A forked child's only thread has another id, and so another slot. */
static void audit_forked(void)
{
	audit_self.shared = NULL;
	audit_self.asked = NULL;
	pthread_setspecific(audit_place_of_thread, NULL); /* the parent's place stays its own */
	if (audit_asked_is_own) {                         /* a copy: of threads that are not here */
		memset(audit_asked, 0, ASKED_PLACES_BYTES);
		audit_asked->main = (uint32_t)getpid();
	}
}

/* A thread ends: its place is free at once. Left to the next thread to find, ends of many would fill the page. */
static void audit_thread_ends(void *place)
{
	__atomic_store_n(&((struct asked_thread *)place)->tid, 0, __ATOMIC_RELEASE);
}

static struct audit_slot *audit_find_slot(struct audit_thread *self)
{
	int place = audit_table_place(&audit_page->tid, sizeof *audit_page, AUDIT_SLOTS, AUDIT_PROBES, 2);

	return self->shared = place < 0 ? NULL : &audit_page[place];
}

/* Clear the words of the thread that had the place before. */
static struct asked_thread *audit_find_asked(struct audit_thread *self)
{
	/* a sandbox thread gives its place back, and its filter would refuse it the signal that asks after another */
	int rounds = audit_asked_is_own ? 1 : 2;
	int place = audit_table_place(&audit_asked->tid, sizeof *audit_asked, ASKED_THREADS, ASKED_PROBES, rounds);

	if (place < 0)
		return NULL;
	memset(audit_asked[place].words, 0, sizeof audit_asked[place].words);
	pthread_setspecific(audit_place_of_thread, &audit_asked[place]);
	return self->asked = &audit_asked[place];
}

/* One word, stored whole, for the listener: it runs on another processor while this thread waits for it. */
static void audit_store_word(struct audit_thread *self, uint32_t capability, uint64_t rest)
{
	int word = asked_word(capability);
	struct asked_thread *place = self->asked;

	if (word >= 0 && (place != NULL || (place = audit_find_asked(self)) != NULL))
		__atomic_store_n(&place->words[word], rest | capability, __ATOMIC_RELEASE);
}

/* The word goes last: the listener reads it while this thread waits for the call that it is about. */
static void audit_store_file(struct audit_thread *self, uint64_t word, uint64_t tag)
{
	struct asked_thread *place = self->asked;

	if (tag == 0 || (place == NULL && (place = audit_find_asked(self)) == NULL))
		return;
	place->words[ASKED_FILE_TAG] = tag;
	__atomic_store_n(&place->words[ASKED_FILE], word, __ATOMIC_RELEASE);
}

static void audit_store_asked(struct audit_thread *self, long answer, uint64_t sequence, uint64_t file_tag)
{
	static const uint8_t resolver[] = {PYI_NET_CONNECT, PYI_NET_SEND, PYI_NET_SOCKET};
	uint32_t flags = (uint32_t)answer >> 8 & 0xff, verdict = (uint32_t)answer >> 16;
	uint64_t rest = sequence << 32 | (verdict ? verdict : AUDIT_VERDICT_ALLOW) << 8;

	if (audit_asked == NULL || flags & ASKED_AHEAD)
		return;
	if (asked_is_file((uint32_t)answer & 0xff)) {
		audit_store_file(self, rest | flags << 16 | ((uint32_t)answer & 0xff), file_tag);
	} else if (flags & ASKED_RESOLVES) {
		for (size_t i = 0; i < sizeof resolver; i++)
			audit_store_word(self, resolver[i], rest | ASKED_NOTHING << 16);
		audit_store_file(self, rest | ASKED_RESOLVES << 16, 1);
	} else {
		asked_end_resolving(self->asked);
		audit_store_word(self, (uint32_t)answer & 0xff, rest | flags << 16);
		if (flags & ASKED_IMPORTS)
			audit_store_file(self, rest | flags << 16 | PYI_FS_READ, file_tag);
	}
}

/* The sequence goes last: a kernel program that runs on this thread sees either the old slot or the whole new one. */
static void audit_store_slot(struct audit_thread *self, struct audit_slot *slot, long answer, PyObject *args)
{
	uint32_t verdict = (uint32_t)answer >> 16;
	slot->capability = (uint32_t)answer & 0xff;
	slot->verdict = verdict ? verdict : AUDIT_VERDICT_ALLOW;
	slot->tag = audit_tag(args);
	atomic_signal_fence(memory_order_release);
	*(volatile uint64_t *)&slot->sequence = self->sequence;
}

/* Tell the quiet file calls (preload/files.c) of which name to report no absence: one granted, or looked for as one's own. */
static void audit_tell_allowed(const struct audit_event *event, long answer, PyObject *args)
{
	const char *name;
	Py_ssize_t length = 0;
	uint32_t said = (uint32_t)answer >> 8;

	if (audit_quiet_allow != NULL && asked_is_file((uint32_t)answer & 0xff) &&
	    (said == AUDIT_VERDICT_ALLOW << 8 || said == ASKED_OWN_LOOK) && strcmp(event->name, "open") == 0 &&
	    (name = audit_name(PyTuple_GET_ITEM(args, 0), &length)) != NULL)
		audit_quiet_allow(allowed_name(name, (size_t)length));
}

static int audit_consult(PyObject *callable, struct audit_event *event, PyObject *args)
{
	struct audit_thread *self = &audit_self;

	if (AUDIT_REFUSES_NEW_INTERPRETER && strcmp(event->name, AUDIT_NEW_INTERPRETER) == 0) {
		PyErr_Format(PyExc_PermissionError, "%s: a sandbox starts no sub-interpreter", event->name);
		return -1;
	}
	if (PyInterpreterState_Get() != audit_interpreter) {
		/* Objects must not cross interpreters (with a GIL each, since 3.12, that is memory corruption). */
		PyErr_Format(PyExc_PermissionError, "%s: not in a sub-interpreter of a sandbox", event->name);
		return -1;
	}
	self->sequence = atomic_fetch_add_explicit(&audit_counter, 1, memory_order_relaxed) + 1;
	if (audit_quiet_allow != NULL)
		audit_quiet_allow(0); /* what was granted before was about another call */
	Py_INCREF(callable);          /* the call may release() it */
	self->busy++;
	PyObject *arguments[] = {event->text, args};
	/* As around a hook of sys.addaudithook (Python/sysmodule.c): what the hook does is no code of who traces or profiles. */
	PyThreadState *own = PyThreadState_Get();
	PyThreadState_EnterTracing(own);
	PyObject *result = PyObject_Vectorcall(callable, arguments, 2, NULL);
	PyThreadState_LeaveTracing(own);
	self->busy--;
	Py_DECREF(callable);
	if (result == NULL)
		return -1;
	long answer = result == Py_None ? 0 : PyLong_AsLong(result);
	Py_DECREF(result);
	if (answer == -1 && PyErr_Occurred())
		return -1; /* an answer that is not an answer refuses */
	audit_tell_allowed(event, answer, args);
	if (answer != 0 && !(answer >> 8 & ASKED_OWN_LOOK))
		audit_store_asked(self, answer, self->sequence, audit_answer_tag(answer, event->name, args));
	if (answer != 0 && !(answer >> 8 & (ASKED_NOTHING | ASKED_OWN_LOOK)) && !audit_is_imported(answer)) {
		struct audit_slot *slot = self->slot ? self->slot : self->shared;
		if (slot == NULL && audit_page != NULL)
			slot = audit_find_slot(self);
		if (slot != NULL)
			audit_store_slot(self, slot, answer, args);
	}
	return 0;
}

static int audit_hook(const char *event, PyObject *args, void *unused)
{
	struct audit_thread *self = &audit_self;
	PyObject *callable = self->callable;
	(void)unused;
	if (__builtin_expect(callable == NULL, 1)) {
		callable = audit_process_callable;
		if (__builtin_expect(callable == NULL, 1))
			return 0;
	}
	if (self->busy > 0)
		return 0;
	struct audit_event *entry = audit_table_find(event);
	return entry->name == NULL ? 0 : audit_consult(callable, entry, args);
}

SHARED int audit_install(void)
{
	PyGILState_STATE gil = PyGILState_Ensure();
	int result = 0;
	if (!audit_is_installed) {
		union {
			void *address;
			void (*call)(uint64_t);
		} found = {dlsym(RTLD_DEFAULT, "pyisolate_quiet_allow")};

		audit_quiet_allow = found.call;
		audit_interpreter = PyInterpreterState_Get();
		result = PySys_AddAuditHook(audit_hook, NULL);
		if (result == 0)
			audit_is_installed = 1;
		else {
			/* Another hook vetoed the addition, or memory is short; the exception is turned into an errno. */
			PyErr_Clear();
			result = -EACCES;
		}
	}
	PyGILState_Release(gil);
	return result;
}

SHARED int audit_installed(void)
{
	return audit_is_installed;
}

/* The names live as long as the process. */
static int audit_add_event(const char *name)
{
	struct audit_event *entry = audit_table_find(name);
	if (entry->name != NULL)
		return 0;
	PyObject *text = PyUnicode_InternFromString(name);
	char *copy = strdup(name);
	if (text == NULL || copy == NULL) {
		PyErr_Clear();
		Py_XDECREF(text);
		free(copy);
		return -ENOMEM;
	}
	*entry = (struct audit_event){copy, text, audit_table_hash(copy)};
	return 0;
}

SHARED int audit_set_events(const char **names, int count)
{
	if (count > AUDIT_EVENTS_MAX - 1)
		return -E2BIG;
	PyGILState_STATE gil = PyGILState_Ensure();
	int result = atomic_load(&audit_events_ready) ? -EALREADY : 0;
	if (result == 0 && AUDIT_REFUSES_NEW_INTERPRETER)
		result = audit_add_event(AUDIT_NEW_INTERPRETER);
	for (int i = 0; i < count && result == 0; i++)
		result = audit_add_event(names[i]);
	if (result == 0)
		atomic_store(&audit_events_ready, 1);
	PyGILState_Release(gil);
	return result;
}

static int audit_replace(PyObject **place, uintptr_t callable)
{
	if (!audit_is_installed || !atomic_load(&audit_events_ready))
		return -ENOTCONN;
	PyGILState_STATE gil = PyGILState_Ensure();
	PyObject *old = *place;
	Py_XINCREF((PyObject *)callable);
	*place = (PyObject *)callable;
	Py_XDECREF(old);
	PyGILState_Release(gil);
	return 0;
}

SHARED int audit_set_thread(uintptr_t callable)
{
	return audit_self.token || audit_process_token ? -EACCES : audit_replace(&audit_self.callable, callable);
}

SHARED int audit_set_process(uintptr_t callable)
{
	return audit_self.token || audit_process_token ? -EACCES : audit_replace(&audit_process_callable, callable);
}

/* Seals the process where a process callable is set, else this thread. */
SHARED int audit_seal(unsigned long long token)
{
	uint64_t *place = audit_process_callable != NULL ? &audit_process_token : &audit_self.token;
	if (token == 0)
		return -EINVAL;
	if (*place != 0)
		return -EACCES;
	*place = token;
	return 0;
}

SHARED int audit_set_slot(int fd, unsigned long long page, unsigned int offset);

SHARED int audit_release(unsigned long long token)
{
	if (token == 0 || audit_self.token != token)
		return -EACCES; /* a process seal is for ever */
	int result = audit_replace(&audit_self.callable, 0);
	if (result == 0) {
		audit_self.token = 0;
		result = audit_set_slot(-1, 0, 0);
	}
	return result;
}

SHARED int audit_is_sealed(void)
{
	return audit_self.token != 0 || audit_process_token != 0;
}

SHARED unsigned long long audit_sequence(void)
{
	return audit_self.sequence;
}

SHARED int audit_set_slot(int fd, unsigned long long page, unsigned int offset)
{
	size_t page_bytes = (size_t)sysconf(_SC_PAGESIZE);
	struct audit_slot *slot = NULL;

	if (audit_self.token || audit_process_token)
		return -EACCES;
	if (offset % sizeof(uint64_t) != 0 || offset > page_bytes - sizeof *slot)
		return -EINVAL;
	if (fd >= 0) {
		char *mapped =
			mmap(NULL, page_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)(page * page_bytes));
		if (mapped == MAP_FAILED)
			return -errno;
		slot = (struct audit_slot *)(mapped + offset);
	}
	if (audit_self.slot != NULL)
		munmap((void *)((uintptr_t)audit_self.slot & ~(uintptr_t)(page_bytes - 1)), page_bytes);
	audit_self.slot = slot;
	return 0;
}

static int audit_follow_forks(void)
{
	static int registered;

	if (!registered && pthread_atfork(NULL, NULL, audit_forked) != 0)
		return -ENOMEM;
	registered = 1;
	return 0;
}

static int audit_map(int fd, unsigned long long page, size_t bytes, void **into)
{
	if (audit_self.token || audit_process_token || *into != NULL)
		return -EACCES;
	void *mapped = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)(page * bytes));
	if (mapped == MAP_FAILED)
		return -errno;
	if (audit_follow_forks()) {
		munmap(mapped, bytes);
		return -ENOMEM;
	}
	*into = mapped;
	return 0;
}

/* One page of `fd` for all threads of the process, each in a slot by its thread id. */
SHARED int audit_set_page(int fd, unsigned long long page)
{
	return audit_map(fd, page, sizeof(struct audit_slot) * AUDIT_SLOTS, (void **)&audit_page);
}

SHARED int audit_make_asked(void)
{
	int fd = memfd_create("pyisolate asked", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd >= 0 && (ftruncate(fd, ASKED_BYTES) || fcntl(fd, F_ADD_SEALS, ASKED_SEALS))) {
		int error = errno;
		close(fd);
		errno = error;
		fd = -1;
	}
	return fd < 0 ? -errno : fd;
}

SHARED int audit_set_asked(int fd)
{
	int error = audit_asked == NULL ? pthread_key_create(&audit_place_of_thread, audit_thread_ends) : 0;
	int result = error ? -error : audit_map(fd, 0, ASKED_BYTES, (void **)&audit_asked);

	if (result == 0) /* from now on a thread without a place has asked nothing */
		__atomic_store_n(&audit_asked->main, (uint32_t)getpid(), __ATOMIC_RELEASE);
	return result;
}

static int audit_own_error;

static void audit_make_own(void)
{
	void *made = mmap(NULL, ASKED_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	audit_own_error = audit_asked != NULL || made == MAP_FAILED ||
			  pthread_key_create(&audit_place_of_thread, audit_thread_ends) || audit_follow_forks();
	if (audit_own_error)
		return;
	audit_asked_is_own = 1;
	audit_asked = made;
	audit_asked->main = (uint32_t)getpid();
}

/* The page of this process's own sandbox threads: a forked child has a copy, of which no listener of the parent's knows.
 * Never unmapped, since threads give their places back. */
SHARED uintptr_t audit_own_asked(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	if (pthread_once(&once, audit_make_own) || audit_own_error)
		return 0;
	return (uintptr_t)audit_asked;
}

/* An answer for what raises no audit event. Its number is not the thread's last: that names an event. */
SHARED void audit_tell(unsigned int answer, uint64_t file_tag)
{
	if (audit_asked != NULL)
		audit_store_asked(&audit_self, (long)answer,
				  atomic_fetch_add_explicit(&audit_counter, 1, memory_order_relaxed) + 1, file_tag);
}

SHARED uint64_t audit_name_tag(const char *name, size_t length)
{
	return asked_name_tag(name, length);
}

SHARED uint64_t audit_descriptor_tag(unsigned int descriptor)
{
	return asked_descriptor_tag(descriptor);
}

/* How many reloads the host has announced; 0 without a page. */
SHARED uint64_t audit_announced(void)
{
	return audit_asked == NULL ? 0
				   : __atomic_load_n(asked_refusals(audit_asked) + ASKED_ANNOUNCED, __ATOMIC_ACQUIRE);
}

/* One more refusal, whose report comes after it. Threads and forked children add at the same time. */
SHARED void audit_note_refusal(unsigned int index)
{
	if (audit_asked != NULL && index < ASKED_REFUSALS)
		__atomic_fetch_add(asked_refusals(audit_asked) + index, 1, __ATOMIC_RELAXED);
}
