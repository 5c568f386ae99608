/* Small files in which the kernel shows and takes settings, each whole in one call: cgroups(7). */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
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
