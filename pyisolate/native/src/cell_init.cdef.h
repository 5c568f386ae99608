/* Returns 0 in the guest, 1 in the caller, or -errno. */
int cell_init_fork(unsigned long long flags, struct cell_init_made *made);
/* Once the init is reaped: how its guest ended. Gives the slot back. */
void cell_init_forget(void *slot, struct cell_init_end *end);
