/* fork-like clone3(2). Returns the child's pid (0 in the child), or -errno. */
int process_clone_cell(unsigned long long flags, int cgroup_fd, int *pidfd);
int process_pidfd_getfd(int pidfd, int target_fd);
int process_close_range(unsigned int first, unsigned int last);
int process_prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d);
int process_set_name(const char *name);
/* Have a signal write a byte to `pipe_end`, without the interpreter; -1: back to the signal's default action. */
int process_wake_on(int number, int pipe_end);
/* Returns 1 when the bounding set was emptied too, 0 when only the thread's own sets could be. */
int process_limit_capabilities(uint64_t keep);
int process_set_capabilities(uint64_t keep);
int process_keep_capabilities(void);
int process_own_confinement(uint64_t *words, int room);
int process_write_id_maps(unsigned int uid, unsigned int gid);
int process_set_hostname(const char *name, size_t length);
int process_bring_up_loopback(void);
