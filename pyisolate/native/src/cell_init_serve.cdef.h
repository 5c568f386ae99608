/* Python calls nothing of cell_init_serve.c: cell_init.c does, by cell_init_slot.h. */
