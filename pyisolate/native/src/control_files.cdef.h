int control_files_read(const char *path, char *text, size_t size);
int control_files_write(const char *path, const char *text, size_t size);
int control_files_write_each(const char *paths, int count, const char *text, size_t size, int *failed);
