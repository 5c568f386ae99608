/* Python calls nothing of cell_start.c: zygote_loop.c does, by cell_start.h. */
