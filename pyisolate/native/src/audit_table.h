/* What audit.c calls of audit_table.c. */
#ifndef PYISOLATE_AUDIT_TABLE_H
#define PYISOLATE_AUDIT_TABLE_H

#include <Python.h>
#include <stddef.h>
#include <stdint.h>

#include "shared.h"

/* The events asked about: open addressing, never changed once published. */
enum { AUDIT_TABLE_SIZE = 1024, AUDIT_EVENTS_MAX = 512 }; /* CPython 3.13 documents about 150 events */

struct audit_event {
	const char *name;
	PyObject *text;
	uint32_t hash;
};

SHARED uint32_t audit_table_hash(const char *name);
SHARED struct audit_event *audit_table_find(const char *name);
SHARED int audit_table_place(void *owners, size_t stride, uint32_t count, uint32_t probes, int rounds);

#endif
