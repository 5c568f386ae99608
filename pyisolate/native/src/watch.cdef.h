int watch_open(void);
/* `paths`: `count` texts, each with its NUL. Writes for each 0, or why it is not watched. */
int watch_add(int fd, const char *paths, unsigned int count, int *errors);
/* Returns 1 where a name was made, removed or moved in a directory since, which is watched no more; else 0 or -errno. */
int watch_changed(int fd);
/*
 * Returns bits: 1 where a name has changed, 2 where the mounts have since this was last asked of `mounts`, a descriptor
 * of mountinfo. Either descriptor may be -1.
 */
int watch_poll(int fd, int mounts);
