/* What becomes of a decision: counters, records, answers. */
#ifndef NOTIFY_OUTCOME_H
#define NOTIFY_OUTCOME_H

#include "facts.h"

/* ring.c */
SHARED void notify_count(struct notify_sandbox *s, int capability, int verdict);
SHARED void notify_push(notify_listener *l, struct notify_sandbox *s, const struct notify_record *record);
SHARED void notify_receive_again(notify_listener *l, struct notify_sandbox *s);
SHARED void notify_ring_free(struct notify_ring *ring);
SHARED uint32_t notify_ring_looks(const struct notify_sandbox *s);
SHARED int notify_ring_full(const struct notify_ring *ring);
SHARED int notify_ring_pop(struct notify_ring *ring, struct notify_record *out, int max);
SHARED int notify_any_dirty(notify_listener *l);

/* answer.c */
SHARED int notify_answer(struct notify_sandbox *s, uint64_t id, int64_t value, int error, uint32_t flags);
SHARED void notify_result(const struct notify_call *c, int64_t result);
SHARED void notify_continue(const struct notify_call *c);

/* record.c */
SHARED void notify_tell(const struct notify_call *c, int capability, int verdict, int error,
			const struct notify_decision *d, const struct notify_endpoint *e);
SHARED void notify_tell_shadow(const struct notify_call *c, int capability, struct notify_decision d,
			       const struct notify_endpoint *e);

/* outcome.c */
SHARED void notify_refuse(const struct notify_call *c, int capability, int error, const struct notify_decision *d,
			  const struct notify_endpoint *e);
SHARED void notify_refuse_always(const struct notify_call *c, int capability, const struct notify_endpoint *e);
SHARED void notify_give_up(const struct notify_call *c, int capability, int error);
SHARED int notify_pass(const struct notify_call *c, int capability, const struct notify_decision *d,
		       const struct notify_endpoint *e);
SHARED void notify_refuse_floor(const struct notify_call *c, int capability, int error);
SHARED void notify_by_capability(const struct notify_call *c, int capability, int known);

#endif
