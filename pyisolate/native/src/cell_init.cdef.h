/* Python calls nothing of cell_init.c: zygote_loop.c does, by cell_init.h. */
