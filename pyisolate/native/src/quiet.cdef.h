/* quiet.c */
uintptr_t quiet_address(void);
void quiet_tell_all(int all);
void quiet_report_sizes(void);
