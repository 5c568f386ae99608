/* The calls that have a handler of their own, and the dispatch to them. */
#ifndef NOTIFY_CALLS_H
#define NOTIFY_CALLS_H

#include "unfinished.h"

/* socket.c */
SHARED void notify_inject(const struct notify_job *job);
SHARED void notify_do_socket(const struct notify_call *c);
SHARED void notify_do_setsockopt(const struct notify_call *c);
SHARED int notify_unix_destination(const struct notify_call *c, const struct notify_endpoint *to);
SHARED void notify_do_connect(const struct notify_call *c);
SHARED void notify_do_bind(const struct notify_call *c);
SHARED void notify_do_listen(const struct notify_call *c);

/* send.c */
SHARED void notify_do_sendto(const struct notify_call *c);
SHARED void notify_do_sendmsg(const struct notify_call *c);

/* own.c */
SHARED void notify_inject_own(notify_listener *l, const struct notify_job *job);
SHARED int notify_opens_own(const struct notify_call *c);

/* look.c */
SHARED void notify_do_look(const struct notify_call *c);
SHARED void notify_watch_look(const struct notify_call *c);

/* map.c */
SHARED void notify_do_map(const struct notify_call *c);

/* hidden.c */
SHARED void notify_do_lock(const struct notify_call *c);
SHARED void notify_do_huge(const struct notify_call *c);
SHARED void notify_do_pipe_size(const struct notify_call *c);
SHARED int notify_table_full(const struct notify_call *c);

/* numbered.c */
SHARED int notify_number_argument(const struct notify_call *c);
SHARED void notify_do_numbered(const struct notify_call *c, int argument);
SHARED int notify_raises(const struct notify_call *c);

/* decide.c */
SHARED void notify_decide(const struct notify_call *c);

#endif
