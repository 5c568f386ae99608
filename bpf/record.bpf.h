/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * From a refusal to a counter and a record. The counter comes first and is exact; the record may be suppressed (per
 * sandbox budget) or lost (ring buffer full): both are counted, and neither changes a verdict.
 */
#ifndef PYI_RECORD_BPF_H
#define PYI_RECORD_BPF_H

#include "maps.bpf.h"

static __always_inline struct pyi_control *pyi_controls(void)
{
	u32 zero = 0;
	return bpf_map_lookup_elem(&control, &zero);
}

static __always_inline void pyi_count(const struct pyi_record *record)
{
	struct pyi_counter_key key = {
		.sandbox = record->sandbox,
		.epoch = record->epoch,
		.policy = record->flags & PYI_F_SHADOW ? record->shadow : record->policy,
		.capability = record->capability,
		.verdict = record->verdict,
		.code = record->code,
		.kind = record->flags & PYI_F_SHADOW ? PYI_C_SHADOW : 0,
	};
	u64 *count = bpf_map_lookup_elem(&counters, &key);
	if (!count) {
		u64 zero = 0; /* NOEXIST: another CPU's first count must not be overwritten */
		bpf_map_update_elem(&counters, &key, &zero, BPF_NOEXIST);
		count = bpf_map_lookup_elem(&counters, &key);
	}
	if (count) {
		__sync_fetch_and_add(count, 1); /* atomic: the program may be preempted on this CPU */
		return;
	}
	struct pyi_control *control = pyi_controls();
	if (control)
		__sync_fetch_and_add(&control->uncounted, 1);
}

/* Token bucket of one second. Races between CPUs make the budget inexact, never the counters. */
static __always_inline bool pyi_within_budget(struct pyi_sandbox *sandbox, u64 now)
{
	if (now - sandbox->window_ns >= 1000000000ULL) {
		sandbox->window_ns = now;
		sandbox->window_events = 0;
	}
	return __sync_fetch_and_add(&sandbox->window_events, 1) < sandbox->events_per_s;
}

/* Count the refusal and send `bytes` of record (header, then target). */
static __noinline void pyi_emit(struct pyi_record *record, u32 bytes)
{
	u32 index = record->sandbox;
	pyi_count(record);
	struct pyi_sandbox *sandbox = bpf_map_lookup_elem(&sandboxes, &index);
	if (!sandbox)
		return;
	record->monotonic_ns = bpf_ktime_get_ns();
	if (!pyi_within_budget(sandbox, record->monotonic_ns)) {
		__sync_fetch_and_add(&sandbox->suppressed, 1);
		return;
	}
	u64 sent = bytes;
	if (sent > sizeof(*record) + sizeof(u32) + PYI_TEXT_SENT)
		sent = sizeof(*record) + sizeof(u32) + PYI_TEXT_SENT;
	barrier_var(sent);
	sent &= 2047; /* changes nothing; it is what the verifier believes */
	if (!sent || bpf_ringbuf_output(&events, record, sent, 0))
		__sync_fetch_and_add(&sandbox->lost, 1);
	else
		__sync_fetch_and_add(&sandbox->delivered, 1);
}

#endif
