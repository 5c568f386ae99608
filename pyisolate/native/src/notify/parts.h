/* What the parts of the listener call of each other, by the file that it is in. */
#ifndef NOTIFY_PARTS_H
#define NOTIFY_PARTS_H

#include "notify.h"

/* wait.c */
SHARED int notify_asked_capability(const struct notify_call *c);
SHARED void notify_settle_question(struct notify_wait *w, int reply, int verdict, int error);
SHARED void notify_refuse_question(notify_listener *l, struct notify_wait *w, int reply);
SHARED void notify_give_up_question(notify_listener *l, struct notify_wait *w);
SHARED int notify_still_waits(struct notify_wait *w);
SHARED int notify_answer(struct notify_sandbox *s, uint64_t id, int64_t value, int error, uint32_t flags);
SHARED void notify_result(const struct notify_call *c, int64_t result);
SHARED void notify_continue(const struct notify_call *c);
SHARED void notify_tell(const struct notify_call *c, int capability, int verdict, int error,
			const struct notify_decision *d, const struct notify_endpoint *e);
SHARED void notify_tell_shadow(const struct notify_call *c, int capability, struct notify_decision d,
			       const struct notify_endpoint *e);
SHARED void notify_refuse(const struct notify_call *c, int capability, int error, const struct notify_decision *d,
			  const struct notify_endpoint *e);
SHARED void notify_refuse_always(const struct notify_call *c, int capability, const struct notify_endpoint *e);
SHARED void notify_give_up(const struct notify_call *c, int capability, int error);
SHARED int notify_pass(const struct notify_call *c, int capability, const struct notify_decision *d,
		       const struct notify_endpoint *e);
SHARED int notify_connect_now(int fd, const struct notify_endpoint *to, int *blocking);
SHARED void notify_wait_end(notify_listener *l, struct notify_wait *w);
SHARED int notify_park(const struct notify_call *c, int fd, const struct notify_wait *what);
SHARED void notify_wait_step(notify_listener *l, struct notify_wait *w);
SHARED void notify_tick(notify_listener *l);
SHARED void notify_wait_finish(notify_listener *l, struct notify_wait *w, int64_t result);
SHARED int notify_wait_connect(notify_listener *l, struct notify_wait *w);

/* question.c */
SHARED int notify_ask(const struct notify_call *c, int fd, const struct notify_endpoint *to,
		      const struct notify_decision *d);
SHARED int notify_ask_open(const struct notify_call *c);
SHARED int notify_changes_names(int nr);
SHARED int notify_ask_names(const struct notify_call *c);
SHARED void notify_ask_exec(const struct notify_call *c);
SHARED void notify_take_answers(notify_listener *l);

/* policy.c */
SHARED struct notify_decision notify_without_rule(int nearest);
SHARED struct notify_decision notify_judge(const notify_policy *p, int action, int family, const uint8_t *address,
					   uint16_t port, int picked);
SHARED struct notify_decision notify_judge_unix(const notify_policy *p, int action, const char *path, size_t length);
SHARED notify_policy *notify_policy_hold(notify_policy *p);
SHARED void notify_policy_drop(notify_policy *p);

/* inject.c */
SHARED int notify_give_fd(const struct notify_job *job, int fd, int close_on_exec);
SHARED int notify_give_file(const struct notify_job *job);
SHARED void notify_say(int heard, int done);
SHARED void notify_ask_injector(const struct notify_call *c, int domain, int kind, int protocol, int heard);

/* socket.c */
SHARED void notify_inject(const struct notify_job *job);
SHARED void notify_do_socket(const struct notify_call *c);
SHARED void notify_do_setsockopt(const struct notify_call *c);
SHARED int notify_unix_destination(const struct notify_call *c, const struct notify_endpoint *to);
SHARED void notify_do_connect(const struct notify_call *c);
SHARED void notify_do_bind(const struct notify_call *c);
SHARED void notify_do_listen(const struct notify_call *c);

/* own.c */
SHARED void notify_inject_own(const struct notify_job *job);
SHARED int notify_opens_own(const struct notify_call *c);

/* look.c */
SHARED void notify_do_look(const struct notify_call *c);
SHARED void notify_watch_look(const struct notify_call *c);
SHARED uint8_t notify_met(const struct notify_call *c, char *name, size_t *length, size_t room, size_t *says);

/* kin.c */
SHARED int notify_reaches(const struct notify_call *c, int group);

/* ring.c */
SHARED void notify_count(struct notify_sandbox *s, int capability, int verdict);
SHARED void notify_push(notify_listener *l, struct notify_sandbox *s, const struct notify_record *record);
SHARED void notify_receive_again(notify_listener *l, struct notify_sandbox *s);
SHARED void notify_ring_free(struct notify_ring *ring);
SHARED uint32_t notify_ring_looks(const struct notify_sandbox *s);
SHARED int notify_ring_full(const struct notify_ring *ring);
SHARED int notify_ring_pop(struct notify_ring *ring, struct notify_record *out, int max);
SHARED int notify_any_dirty(notify_listener *l);

/* numbered.c */
SHARED int notify_number_argument(const struct notify_call *c);
SHARED void notify_do_numbered(const struct notify_call *c, int argument);
SHARED int notify_raises(const struct notify_call *c);

/* decide.c */
SHARED void notify_refuse_floor(const struct notify_call *c, int capability, int error);
SHARED void notify_by_capability(const struct notify_call *c, int capability, int known);
SHARED void notify_decide(const struct notify_call *c);

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
SHARED void notify_take_own(struct notify_sandbox *s, int own);
SHARED void notify_close_own(struct notify_sandbox *s);
SHARED int notify_hold_own(const struct notify_call *c, const struct notify_endpoint *e, struct notify_endpoint *held);
SHARED int notify_binds_own(const struct notify_call *c, const struct notify_endpoint *e);

/* asked.c */
SHARED void notify_asked_free(struct notify_asked *a);
SHARED struct notify_asked *notify_asked_new(int fd);
SHARED struct notify_asked *notify_asked_of_threads(void *page);
SHARED void notify_consult(struct notify_call *c);
SHARED void notify_give_back(struct notify_sandbox *s, uint64_t id);
SHARED int notify_is_lookup(const struct notify_endpoint *e);

/* message.c */
SHARED struct cmsghdr *notify_next_control(char *control, size_t bytes, const struct cmsghdr *at);
SHARED void notify_close_rights(char *control, size_t bytes);
SHARED int64_t notify_send_message(int fd, const struct notify_message *m, const char *data, char *control);

/* send.c */
SHARED void notify_do_sendto(const struct notify_call *c);
SHARED void notify_do_sendmsg(const struct notify_call *c);

/* flight.c */
SHARED void notify_make_room(notify_listener *l);
SHARED int notify_keep(notify_listener *l, struct notify_sandbox *s, enum notify_kept what, int count);
SHARED void notify_let_go(notify_listener *l, struct notify_sandbox *s, enum notify_kept what, int count);
SHARED void notify_flight_end(notify_listener *l, struct notify_flight *f);
SHARED void notify_flight_settle(notify_listener *l, struct notify_flight *f);
SHARED int notify_may_queue(notify_listener *l, struct notify_sandbox *s, size_t bytes);
SHARED int64_t notify_send_kept(notify_listener *l, struct notify_sandbox *s, int fd, const struct notify_message *m,
				const char *data, char *control);
SHARED void notify_settle_all(notify_listener *l, struct notify_sandbox *s);

/* hidden.c */
SHARED void notify_do_lock(const struct notify_call *c);
SHARED void notify_do_huge(const struct notify_call *c);
SHARED void notify_do_pipe_size(const struct notify_call *c);
SHARED int notify_table_full(const struct notify_call *c);

/* memory.c */
SHARED void *notify_alloc(size_t count, size_t size);
SHARED void notify_free(void *data);

/* target.c */
SHARED int notify_proc_text(int tid, const char *file, char *text, size_t bytes);
SHARED int notify_valid(const struct notify_call *c);
SHARED ssize_t notify_read_some(int tid, uint64_t address, void *into, size_t bytes);
SHARED int notify_read(const struct notify_call *c, uint64_t address, void *into, size_t bytes);
SHARED int notify_write(struct notify_sandbox *s, uint64_t id, int tid, uint64_t address, const void *from,
			size_t bytes);
SHARED int notify_pid(struct notify_sandbox *s, int tid);
SHARED int notify_own_ids(int tid, int *own_pid, int *own_tid);
SHARED int notify_real_uid(int tid, uid_t *uid);
SHARED int notify_permitted(int tid, uint64_t *capabilities);
SHARED int notify_interrupted(int tid);
SHARED int notify_hard_limit(int tid, int resource, uint64_t *hard);
SHARED int notify_take_fd_of(const struct notify_call *c, int pid, uint64_t number);
SHARED int notify_take_fd(const struct notify_call *c, uint64_t number);
SHARED void notify_drop_held(int *tid, int descriptor);
SHARED const char *notify_read_name(const struct notify_call *c, uint64_t address, size_t *length);
SHARED int notify_stat(int at, const char *name, struct statx *found);
SHARED size_t notify_read_path(const struct notify_call *c, int argument, char *out, size_t room);
SHARED int notify_other_argument(int nr);
SHARED size_t notify_read_linked(const struct notify_call *c, const char *name, size_t length, char *out, size_t room);

/* turns.c */
SHARED uint64_t notify_used(void);
SHARED void notify_had_turn(notify_listener *l, struct notify_sandbox *s);
SHARED void notify_rest_end(notify_listener *l, struct notify_sandbox *s);
SHARED int notify_end_rests(notify_listener *l);

/* page.c */
SHARED struct notify_sandbox **notify_find(notify_listener *l, uint64_t key);

/* loop.c */
SHARED void notify_bury(notify_listener *l);
SHARED void notify_fail_closed(notify_listener *l);
SHARED void *notify_loop(void *argument);
SHARED int notify_add_injector(notify_listener *l);
SHARED void *notify_injector(void *argument);

#endif
