/* What other files call of networks.c. */
#ifndef PYISOLATE_NETWORKS_H
#define PYISOLATE_NETWORKS_H

#include "shared.h"

/* Be in an empty network namespace that no other process is in, until networks_leave; 0 and its ticket, or -errno. */
SHARED int networks_enter(unsigned long long *ticket);
SHARED void networks_leave(void);
/* All processes of the cell with this ticket have ended. */
SHARED void networks_give(unsigned long long ticket);
SHARED void networks_forget(void);

#endif
