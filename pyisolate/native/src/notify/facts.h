/* What a decision is made from: the task that made the call, the policy, what was asked and announced, what names lead to. */
#ifndef NOTIFY_FACTS_H
#define NOTIFY_FACTS_H

#include "notify.h"

struct notify_entry { /* struct linux_dirent64, getdents64(2) */
	uint64_t inode;
	int64_t offset;
	uint16_t bytes;
	uint8_t type;
	char name[];
};

/* memory.c */
SHARED void *notify_alloc(size_t count, size_t size);
SHARED void notify_free(void *data);

/* aside.c */
SHARED struct notify_desk *notify_step_aside(notify_listener *l);
SHARED void notify_step_back(notify_listener *l, struct notify_desk *desk);
SHARED int notify_is_stale(const struct notify_call *c);

/* policy.c */
SHARED struct notify_decision notify_without_rule(int nearest);
SHARED struct notify_decision notify_judge(const notify_policy *p, int action, int family, const uint8_t *address,
					   uint16_t port, int picked);
SHARED struct notify_decision notify_judge_unix(const notify_policy *p, int action, const char *path, size_t length);
SHARED notify_policy *notify_policy_hold(notify_policy *p);
SHARED void notify_policy_drop(notify_policy *p);

/* target.c */
SHARED int notify_proc_text(int tid, const char *file, char *text, size_t bytes);
SHARED int notify_valid(const struct notify_call *c);
SHARED int notify_keeps_ids(const struct notify_call *c);
SHARED ssize_t notify_read_some(const struct notify_call *c, uint64_t address, void *into, size_t bytes);
SHARED int notify_read(const struct notify_call *c, uint64_t address, void *into, size_t bytes);
SHARED int notify_read_all(const struct notify_call *c, const struct iovec *from, size_t count, void *into,
			   size_t bytes);
SHARED int notify_write(notify_listener *l, struct notify_sandbox *s, uint64_t id, int tid, uint64_t address,
			const void *from, size_t bytes);
SHARED int notify_pid(struct notify_sandbox *s, int tid);
SHARED int notify_own_ids(int tid, int *own_pid, int *own_tid);
SHARED int notify_real_uid(int tid, uid_t *uid);
SHARED int notify_permitted(int tid, uint64_t *capabilities);
SHARED int notify_interrupted(int tid);
SHARED int notify_hard_limit(int tid, int resource, uint64_t *hard);
SHARED const char *notify_read_name(const struct notify_call *c, uint64_t address, size_t *length);
SHARED int notify_stat(int at, const char *name, struct statx *found);
SHARED void notify_is_given(uint64_t file[2], const struct statx *about);
SHARED size_t notify_read_path(const struct notify_call *c, int argument, char *out, size_t room);
SHARED int notify_other_argument(int nr);
SHARED size_t notify_read_linked(const struct notify_call *c, const char *name, size_t length, char *out, size_t room);

/* details.c */
SHARED void notify_read_modes(const struct notify_call *c, uint32_t *flags, uint32_t *mode);
SHARED ssize_t notify_read_details(const struct notify_call *c, char *into, size_t room);

/* open_files.c */
SHARED int notify_take_fd_of(const struct notify_call *c, int pid, uint64_t number);
SHARED int notify_take_fd(const struct notify_call *c, uint64_t number);
SHARED int notify_take_socket(const struct notify_call *c, uint64_t number);
SHARED long notify_about_open(const struct notify_call *c, int descriptor, const char *field, int base);
SHARED void notify_drop_held(int *tid, int descriptor);

/* asked.c */
SHARED void notify_asked_free(struct notify_asked *a);
SHARED struct notify_asked *notify_asked_new(int fd);
SHARED struct notify_asked *notify_asked_of_threads(void *page);
SHARED void notify_consult(struct notify_call *c);
SHARED void notify_give_back(struct notify_sandbox *s, uint64_t id);
SHARED int notify_maps_code(const struct notify_call *c);
SHARED int notify_is_lookup(const struct notify_endpoint *e);

/* address.c */
SHARED void notify_any_is_loopback(struct notify_endpoint *e);
SHARED int notify_decode_inet(struct notify_endpoint *e);
SHARED int notify_decode_inet6(struct notify_endpoint *e);
SHARED int notify_read_endpoint(const struct notify_call *c, uint64_t where, uint64_t length,
				struct notify_endpoint *e);
SHARED int notify_socket_option(int fd, int level, int option);
SHARED size_t notify_unix_path(const struct notify_endpoint *e);
SHARED int notify_names_path(const struct notify_endpoint *e);
SHARED void notify_by_descriptor(int fd, struct notify_endpoint *held);
SHARED int notify_hold_path(const struct notify_endpoint *e, struct notify_endpoint *held);
SHARED struct notify_decision notify_judge_local(const notify_policy *p, int fd, const struct notify_endpoint *e,
						 int picked);
SHARED int notify_may_continue(const struct notify_call *c);

/* own_socket.c */
SHARED int notify_hold_own(const struct notify_call *c, const struct notify_endpoint *e, struct notify_endpoint *held);
SHARED int notify_binds_own(const struct notify_call *c, const struct notify_endpoint *e);

/* kin.c */
SHARED int notify_reaches(const struct notify_call *c, int group);

/* met.c */
SHARED uint8_t notify_met(const struct notify_call *c, char *name, size_t *length, size_t room, size_t *says);
SHARED int notify_root(const struct notify_call *c);

#endif
