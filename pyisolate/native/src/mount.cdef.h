int mount_open_tree(int dirfd, const char *path, unsigned int flags);
int mount_move(int from_dirfd, const char *from_path, int to_dirfd, const char *to_path, unsigned int flags);
int mount_setattr_(int dirfd, const char *path, unsigned int flags, unsigned long long attr_set,
		   unsigned long long attr_clr, unsigned long long propagation);
int mount_new_tmpfs(const char **keys, const char **values, int count, unsigned int attributes);
int mount_mount(const char *source, const char *target, const char *type, unsigned long flags, const char *data);
int mount_umount2(const char *target, int flags);
int mount_unshare(int flags);
int mount_openat2(int dirfd, const char *path, unsigned long long flags, unsigned long long resolve);
int mount_renameat2(int from, const char *name, int to, const char *new_name, unsigned int flags);
int mount_chown(int fd, unsigned int uid, unsigned int gid);
int mount_enter_root(int tree_fd);
