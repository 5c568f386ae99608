/* The listener of seccomp user notifications: one thread without the GIL that decides, acts and records. */
struct notify_rule {
	uint8_t action, allow, family, prefix; /* NetAction; family 4 or 6 */
	uint16_t port_low, port_high;
	uint8_t address[16];
	int32_t index; /* in CompiledPolicy.net */
};
struct notify_unix_rule {
	uint8_t action, allow;
	uint16_t length;
	int32_t index;
	char path[108];
};
struct notify_record {
	uint64_t key, policy_serial, monotonic_ns, args[6];
	uint64_t device, inode;
	uint32_t count, scope;
	int32_t pid, tid, nr, error, rule, presented;
	uint16_t capability, family, port, path_length;
	uint8_t verdict, reason, address[16];
	uint8_t asked, slot_capability, slot_verdict; /* notify_asked_state; the broker's answer, where it was asked */
	uint16_t other_length;
	uint8_t reply; /* notify_reply */
	uint8_t looked;
	uint8_t met; /* notify_met_kind */
	uint32_t waited_ms;
	uint64_t question;
	char text[512], *names;
};
struct notify_question {
	uint64_t key, number, id;
	uint32_t scope;
	int32_t pid, tid, nr;
	uint16_t capability, family, port, name_bytes, other_bytes;
	uint8_t address[16];
	uint32_t flags, mode;
	char name[...];
};
enum notify_said {
	NOTIFY_SAID_NO,
	NOTIFY_SAID_YES,
	NOTIFY_SAID_AS_EVER,
	NOTIFY_SAID_EMPTY,
	NOTIFY_SAID_BEGIN,
	NOTIFY_SAID_DONE,
	...
};
enum notify_stage { NOTIFY_STAGE_GONE, NOTIFY_STAGE_WAITS, NOTIFY_STAGE_WENT_ON, ... };
enum notify_reply {
	NOTIFY_REPLY_NONE,
	NOTIFY_REPLY_YES,
	NOTIFY_REPLY_NO,
	NOTIFY_REPLY_FULL,
	NOTIFY_REPLY_LATE,
	NOTIFY_REPLY_GONE,
	...
};
#define NOTIFY_DESCRIPTOR   ...
#define NOTIFY_NO_LIMIT     ...
#define NOTIFY_FOREIGN      ...
#define NOTIFY_CAPABILITIES ...
#define NOTIFY_SYSCALLS     ...
#define NOTIFY_VERDICTS     ...
enum notify_verdict { NOTIFY_ALLOW, NOTIFY_DENY, NOTIFY_WOULD_DENY, ... };
enum notify_act { NOTIFY_ACT_DENY, NOTIFY_ACT_FLOOR, NOTIFY_ACT_ALLOW, NOTIFY_ACT_WATCH, ... };
enum notify_reason {
	NOTIFY_NO_REASON,
	NOTIFY_NOT_GRANTED,
	NOTIFY_SCOPE_INSUFFICIENT,
	NOTIFY_EXPLICIT_DENY,
	NOTIFY_ALWAYS_DENIED,
	NOTIFY_INTERNAL,
	NOTIFY_LIMIT_EXCEEDED,
	...
};
enum notify_trait { NOTIFY_KNOWN, NOTIFY_REPORTED, NOTIFY_NAMING, ... };
enum notify_met_kind { NOTIFY_MET_UNKNOWN, NOTIFY_MET_NOTHING, NOTIFY_MET_LINK, NOTIFY_MET_OTHER, ... };
enum notify_asked_state { NOTIFY_UNKNOWN, NOTIFY_NOT_ASKED, NOTIFY_ASKED, NOTIFY_RESOLVES, NOTIFY_IMPORTS, ... };
enum notify_flag {
	NOTIFY_CELL,
	NOTIFY_FULL,
	NOTIFY_MONITOR_NET,
	NOTIFY_NATIVE_NET,
	NOTIFY_ASK_CONNECT,
	NOTIFY_OWN_NAMES,
	NOTIFY_MONITOR_FILES,
	NOTIFY_OWN_SOCKETS,
	NOTIFY_OWN_TMP,
	NOTIFY_OWN_SHM,
	NOTIFY_ASK_READ,
	NOTIFY_ASK_BY_RULE,
	NOTIFY_ASK_EXEC,
	NOTIFY_ASK_WRITE,
	NOTIFY_ASK_NAMES,
	NOTIFY_ASK_METADATA,
	...
};
enum notify_action { NOTIFY_ASKED_ABOUT, ... };

typedef struct notify_listener notify_listener;
typedef struct notify_policy notify_policy;

/* `patience_ns`: how long what the thread does for another one waits for it (-ETIMEDOUT). */
notify_listener *notify_create(const uint8_t *capability, const uint8_t *traits, const int8_t *path_argument,
			       uint64_t patience_ns);
int notify_start(notify_listener *l);
void notify_halt(notify_listener *l);
void notify_destroy(notify_listener *l);
/* What stands in the place of one that was destroyed: every function finds that it knows nothing. */
notify_listener *notify_none(void);
int notify_alive(notify_listener *l);
/* Write down, in the table (src/led.h) that `fd` is of, whose connections to that port of 127.0.0.1 are. Once. */
int notify_lead(notify_listener *l, int fd, uint16_t port);
#define LED_SLOTS ...

notify_policy *notify_policy_new(uint32_t flags, uint64_t serial, const uint8_t *acts, const struct notify_rule *rules,
				 int rule_count, const struct notify_unix_rule *unix_rules, int unix_count);
void notify_policy_drop(notify_policy *p);
void notify_policy_watch(notify_policy *p, notify_policy *shadow);
void notify_policy_bound(notify_policy *p, uint64_t open_files, uint64_t file_size);
int notify_policy_ask(const notify_policy *p, int action, int family, const uint8_t *address, int port, int picked,
		      int *rule, int *presented);

int notify_add(notify_listener *l, uint64_t key, int fd, notify_policy *policy, struct account *account);
void notify_charge(notify_listener *l, uint64_t key, uint64_t spent_ns);
/* `own`: a descriptor of the sandbox's workspace, which is the listener's from here on; -1: as before. `shared`: a directory
 * of the host's is mounted in it, and there are no sockets in either. */
int notify_bind(notify_listener *l, uint64_t key, notify_policy *policy, int own, int shared);
/* Map the sandbox's asked page (src/asked.h); the descriptor stays the caller's. Once. */
uint64_t notify_announce(notify_listener *l, uint64_t key);
int notify_map_asked(notify_listener *l, uint64_t key, int fd);
int notify_lend_asked(notify_listener *l, uint64_t key, uintptr_t page);
int notify_refusals(notify_listener *l, uint64_t key, uint64_t *out);
int notify_stop(notify_listener *l, uint64_t key);
#define ASKED_REFUSALS ...
int notify_forget(notify_listener *l, uint64_t key);
uint64_t notify_unlooked(notify_listener *l, uint64_t key);
int notify_counters(notify_listener *l, uint64_t key, uint64_t *counters, uint64_t *lost);
uint64_t notify_spent(notify_listener *l, uint64_t key);

int notify_next_question(notify_listener *l, struct notify_question *out, int timeout_ms);
void notify_stop_asking(notify_listener *l);
int notify_reply_to(notify_listener *l, uint64_t number, int said, int fd, int heard, int error);
int notify_stage_of(notify_listener *l, uint64_t key, uint64_t id);
int notify_wait(notify_listener *l, int timeout_ms);
void notify_wake(notify_listener *l);
uint64_t notify_next(notify_listener *l);
int notify_pending(notify_listener *l, uint64_t key);
int notify_quiet(notify_listener *l, uint64_t key, uint64_t lost);
/* `names`, where it is not NULL, is the caller's to free. */
int notify_pop(notify_listener *l, uint64_t key, struct notify_record *out, int max);
void notify_free(void *data);
