/* Small files in which the kernel shows and takes settings, each whole in one call: cgroups(7). */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "result.h"
#include "shared.h"

/* Returns how many bytes were read, `size` at most. */
SHARED int control_files_read(const char *path, char *text, size_t size)
{
	int file = open(path, O_RDONLY | O_CLOEXEC), result;

	if (file < 0)
		return -errno;
	do
		result = result_of(read(file, text, size));
	while (result == -EINTR);
	close(file);
	return result;
}

SHARED int control_files_write(const char *path, const char *text, size_t size)
{
	int file = open(path, O_WRONLY | O_CLOEXEC), result;

	if (file < 0)
		return -errno;
	do
		result = result_of(write(file, text, size));
	while (result == -EINTR);
	close(file);
	return result;
}

/* The same text for `count` files one after the other, whose names are each followed by a NUL. `failed`: which one did. */
SHARED int control_files_write_each(const char *paths, int count, const char *text, size_t size, int *failed)
{
	int result = 0;

	for (int i = 0; i < count && result >= 0; i++, paths += strlen(paths) + 1) {
		result = control_files_write(paths, text, size);
		*failed = i;
	}
	return result;
}
