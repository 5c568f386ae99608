/* What other files call of audit.c. */
#ifndef PYISOLATE_AUDIT_H
#define PYISOLATE_AUDIT_H

#include "shared.h"

/* Make an asked page (asked.h) for one cell and for the listener: its descriptor, or -errno. */
SHARED int audit_make_asked(void);

#endif
