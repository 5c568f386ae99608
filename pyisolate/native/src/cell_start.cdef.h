/* In a fresh cell of a policy zygote: be confined, report, await the hand-out that was foreseen, and apply it. Returns how
 * far it came (CELL_START_*). All other descriptors are closed. `mapped` as of cell_confine_run. */
int cell_start_run(const struct cell_start_order *order, int channel, int out, int err, int asked, int mapped,
		   struct cell_start_outcome *outcome);
