/* The thread, and what Python calls. */
#ifndef NOTIFY_LOOP_H
#define NOTIFY_LOOP_H

#include "calls.h"

/* turns.c */
SHARED uint64_t notify_used(void);
SHARED void notify_had_turn(notify_listener *l, struct notify_sandbox *s);
SHARED void notify_rest_end(notify_listener *l, struct notify_sandbox *s);
SHARED int notify_end_rests(notify_listener *l);

/* table.c */
SHARED int notify_from_host(const notify_listener *l, int fd);
SHARED int notify_own_table(notify_listener *l);
SHARED void notify_leave_table(notify_listener *l, int alone);
SHARED int notify_have_done(notify_listener *l, int wake, int (*run)(notify_listener *l, void *with), void *with);
SHARED void notify_do_orders(notify_listener *l);
SHARED void notify_end_orders(notify_listener *l);

/* bury.c */
SHARED void notify_take_own(notify_listener *l, struct notify_sandbox *s, int own, int shared);
SHARED void notify_drop_looked_at(notify_listener *l, struct notify_sandbox *s);
SHARED void notify_drop_kept(notify_listener *l, struct notify_sandbox *s);
SHARED void notify_close_listener(notify_listener *l, struct notify_sandbox *s);
SHARED void notify_bury(notify_listener *l);
SHARED void notify_free_all(notify_listener *l);

enum { NOTIFY_LEAD_NS = 2000000 }; /* when the leader is looked at first, after it has begun to handle something */

/* followers.c */
SHARED int notify_hold_desk(notify_listener *l, struct notify_desk **desk);
SHARED void notify_free_desk(struct notify_desk *desk);
SHARED int notify_ends(notify_listener *l);
SHARED void notify_watch_leader(notify_listener *l, struct notify_desk *desk);
SHARED void notify_make_spare(notify_listener *l);
SHARED void notify_arm(notify_listener *l, long after_ns);

/* injectors.c */
SHARED int notify_add_follower(notify_listener *l);
SHARED void notify_leave_injectors(notify_listener *l, int followers);

SHARED int notify_wait_for_closers(notify_listener *l, struct notify_sandbox *s);
SHARED int notify_add_injector(notify_listener *l);
SHARED int notify_end_injectors(notify_listener *l);

/* loop.c */
SHARED void *notify_loop(void *argument);

/* page.c */
SHARED struct notify_sandbox **notify_find(notify_listener *l, uint64_t key);

#endif
