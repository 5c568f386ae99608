/* Fork cells as the supervisor asks, and reap them, until there is something for Python. Returns ZYGOTE_LOOP_..., or -errno. */
int zygote_loop_run(struct zygote_loop *loop);
/* Signal the cell whose guest has this process id. */
void zygote_loop_signal(const struct zygote_loop *loop, int guest, int number);
/* End every cell and wait for its end. */
void zygote_loop_end_cells(struct zygote_loop *loop);
/* In a forked child, whose cells they are not. */
void zygote_loop_forget(struct zygote_loop *loop);
