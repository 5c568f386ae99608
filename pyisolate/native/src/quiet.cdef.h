/* quiet.c */
uintptr_t quiet_address(void);
void quiet_tell_all(int all);
void quiet_never_files(void);
void quiet_report_sizes(void);
