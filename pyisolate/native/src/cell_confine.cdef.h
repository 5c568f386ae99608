/* What every cell of a zygote does to itself, whatever its policy: the same for all, so it is made once. */
/* Takes every step, also after one that failed, and writes 0 or -errno for each; returns how many failed.
 * `mapped`: a pipe whose byte says that the zygote has mapped the cell's user; -1: it maps itself.
 * Descriptors 0 to 2 and `channel` stay open. */
int cell_confine_run(const struct cell_confine_order *order, int channel, int mapped, int *results);
