/* What other files call of cell_start.c. */
#ifndef PYISOLATE_CELL_START_H
#define PYISOLATE_CELL_START_H

#include "cell_start.types.h"
#include "shared.h"

/* In a fresh cell of a policy zygote: be confined, report, await the hand-out that was foreseen, and apply it. Returns how
 * far it came (CELL_START_*). All other descriptors are closed. `mapped` as of cell_confine_run. */
SHARED int cell_start_run(const struct cell_start_order *order, int channel, int out, int err, int asked, int mapped,
			  struct cell_start_outcome *outcome);

#endif
