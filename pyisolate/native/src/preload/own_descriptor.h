/* Names of /dev that stand for what this process has open: part of files.c. */
#ifndef PYISOLATE_OWN_DESCRIPTOR_H
#define PYISOLATE_OWN_DESCRIPTOR_H

#include <errno.h>
#include <fcntl.h>
#include <string.h>

/* The descriptor that a name of /dev stands for, or -1. There is no /proc in a root view that they could lead to. */
static int named_descriptor(const char *path)
{
	static const char *const streams[] = {"/dev/stdin", "/dev/stdout", "/dev/stderr"};
	int number = 0;

	for (int i = 0; i < 3; i++)
		if (!strcmp(path, streams[i]))
			return i;
	if (strncmp(path, "/dev/fd/", 8) || !path[8] || strlen(path) > 8 + 7)
		return -1;
	for (path += 8; *path; path++) {
		if (*path < '0' || *path > '9')
			return -1;
		number = 10 * number + *path - '0';
	}
	return number;
}

/* Open what this process has open already: no right comes with it, so the kernel is not asked again. */
static int open_own(int number, int flags)
{
	int held = fcntl(number, F_GETFL);
	int wanted = flags & O_ACCMODE;

	if (held < 0)
		errno = ENOENT;
	else if (flags & O_DIRECTORY)
		errno = ENOTDIR;
	else if ((flags & O_CREAT) && (flags & O_EXCL))
		errno = EEXIST;
	else if ((held & O_ACCMODE) != O_RDWR && (held & O_ACCMODE) != wanted)
		errno = EACCES;
	else
		return fcntl(number, flags & O_CLOEXEC ? F_DUPFD_CLOEXEC : F_DUPFD, 0);
	return -1;
}

#endif
