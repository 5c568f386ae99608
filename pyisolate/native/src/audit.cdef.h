int audit_install(void);
int audit_installed(void);
int audit_set_events(const char **names, int count);
/* `callable` is id(object), 0 to clear; the hook takes its own reference. -EACCES after sealing. */
int audit_set_thread(uintptr_t callable);
int audit_set_process(uintptr_t callable);
int audit_seal(unsigned long long token);
int audit_release(unsigned long long token);
int audit_is_sealed(void);
unsigned long long audit_sequence(void);
/* Maps one page of `fd` and stores into the slot at `offset` in it; fd -1 clears. */
int audit_set_slot(int fd, unsigned long long page, unsigned int offset);
/* Maps one page of `fd`: every thread of the process then stores into the slot of its thread id. Once. */
int audit_set_page(int fd, unsigned long long page);
enum { ASKED_MANY, ASKED_AHEAD, ASKED_RESOLVES, ASKED_NOTHING, ASKED_IMPORTS, ... };
/* Maps the asked page of `fd` for every thread of the process. Once. */
int audit_set_asked(int fd);
/* Makes such a page for this process's own sandbox threads, once, and returns its address; 0: no memory. */
uintptr_t audit_own_asked(void);
/* Stores an answer about what raises no audit event there; nothing without a page. */
void audit_tell(unsigned int answer, uint64_t file_tag);
uint64_t audit_name_tag(const char *name, size_t length);
uint64_t audit_descriptor_tag(unsigned int descriptor);
/* How many reloads the host has announced in that page. */
uint64_t audit_announced(void);
/* Counts a refusal (capability * 2, 1 more where it was let through) in that page, before it is reported. */
void audit_note_refusal(unsigned int index);
