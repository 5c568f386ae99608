/* Calls that are not answered at once: they wait for a socket, for a thread that acts, or for the host. */
#ifndef NOTIFY_UNFINISHED_H
#define NOTIFY_UNFINISHED_H

#include "outcome.h"

/* leave.c */
SHARED void notify_close_later(notify_listener *l, struct notify_sandbox *s, int fd);
SHARED void notify_close_taken(notify_listener *l, struct notify_sandbox *s, int fd);
SHARED void notify_result_later(const struct notify_call *c, int64_t result);
SHARED int notify_may_leave(notify_listener *l, int count);

/* message.c */
SHARED struct cmsghdr *notify_next_control(char *control, size_t bytes, const struct cmsghdr *at);
SHARED void notify_close_rights(notify_listener *l, struct notify_sandbox *s, char *control, size_t bytes);
SHARED int64_t notify_send_message(int fd, const struct notify_message *m, const char *data, char *control);

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

/* inject.c */
SHARED int notify_give_fd(const struct notify_job *job, int fd, int close_on_exec);
SHARED int notify_give_file(notify_listener *l, const struct notify_job *job);
SHARED void notify_say(int heard, int done);
SHARED void notify_ask_injector(const struct notify_call *c, int domain, int kind, int protocol, int heard);

/* led.c */
SHARED void notify_end_lead(notify_listener *l);
SHARED void notify_write_led(const struct notify_call *c, int fd, const struct notify_endpoint *to);

/* wait.c */
SHARED int notify_connect_now(notify_listener *l, int fd, const struct notify_endpoint *to, int *blocking);
SHARED void notify_wait_end(notify_listener *l, struct notify_wait *w);
SHARED int notify_park(const struct notify_call *c, int fd, const struct notify_wait *what);
SHARED void notify_wait_step(notify_listener *l, struct notify_wait *w);
SHARED void notify_wait_finish(notify_listener *l, struct notify_wait *w, int64_t result);
SHARED int notify_wait_connect(notify_listener *l, struct notify_wait *w);

/* stranded.c */
SHARED void notify_wake_loop(int wake);
SHARED void notify_take_up(notify_listener *l, struct notify_sandbox *s);
SHARED void notify_unwatch(notify_listener *l, struct notify_wait *w);
SHARED int notify_put_down(notify_listener *l);

/* question.c */
SHARED int notify_ask(const struct notify_call *c, int fd, const struct notify_endpoint *to,
		      const struct notify_decision *d);
SHARED int notify_ask_open(const struct notify_call *c);
SHARED int notify_ask_names(const struct notify_call *c);
SHARED void notify_ask_exec(const struct notify_call *c);
SHARED void notify_take_answers(notify_listener *l);
SHARED void notify_tick_question(notify_listener *l, struct notify_wait *w, uint64_t now);

#endif
