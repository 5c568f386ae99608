/* Returns 0; an errno where this process stays as it was; or -errno where it must end: see networks.c. The maps are as in
 * user_namespaces(7). */
int networks_begin(unsigned long long flags, const char *uid_map, const char *gid_map, unsigned long long keep,
		   int maps, unsigned int uid, unsigned int gid);
