int landlock_abi_version(void);
int landlock_errata(void);
int landlock_create(unsigned long long handled_fs, unsigned long long handled_net, unsigned long long scoped);
int landlock_add_path(int ruleset_fd, unsigned long long allowed, int path_fd);
int landlock_add_port(int ruleset_fd, unsigned long long allowed, unsigned long long port);
int landlock_restrict(int ruleset_fd, unsigned int flags);

struct landlock_probe_result {
    int step;          /* the last step reached, see landlock.c; 0 = all passed */
    int error;         /* errno of that step, 0 where it should have failed and did not */
    int tcp_denied;    /* 1 seen denied, 0 not handled by this ABI or could not tell */
    int signal_denied; /* likewise */
};
int landlock_probe(const char *granted, const char *outside, unsigned long long handled_fs,
                   unsigned long long granted_fs, unsigned long long handled_net, unsigned long long scoped,
                   struct landlock_probe_result *result);
