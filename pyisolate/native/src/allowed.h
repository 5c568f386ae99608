/* A name that the broker granted, as the native hook (audit.c) gives it to the quiet file calls (preload/files.c). */
#ifndef PYISOLATE_ALLOWED_H
#define PYISOLATE_ALLOWED_H

#include <stddef.h>
#include <stdint.h>

/* Of the whole name as it is passed (FNV-1a). Never 0. */
static inline uint64_t allowed_name(const char *name, size_t length)
{
	uint64_t hash = 14695981039346656037ULL;

	for (size_t i = 0; i < length; i++)
		hash = (hash ^ (unsigned char)name[i]) * 1099511628211ULL;
	return hash ? hash : 1;
}

#endif
