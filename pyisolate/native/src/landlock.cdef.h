int landlock_abi_version(void);
int landlock_errata(void);
int landlock_create(unsigned long long handled_fs, unsigned long long handled_net, unsigned long long scoped);
int landlock_add_path(int ruleset_fd, unsigned long long allowed, int path_fd);
int landlock_add_port(int ruleset_fd, unsigned long long allowed, unsigned long long port);
int landlock_restrict(int ruleset_fd, unsigned int flags);
int landlock_probe(const char *granted, const char *outside, unsigned long long handled_fs,
		   unsigned long long granted_fs, unsigned long long handled_net, unsigned long long scoped,
		   struct landlock_probe_result *result);
