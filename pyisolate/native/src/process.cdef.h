/* fork-like clone3(2). Returns the child's pid (0 in the child), or -errno. */
int process_clone_cell(unsigned long long flags, int cgroup_fd, int *pidfd);
