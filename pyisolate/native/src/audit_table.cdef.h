/* Python calls nothing of audit_table.c: audit.c does, by audit_table.h. */
