/* Where the quiet file calls of this process return to (preload/files.c, loaded by LD_PRELOAD). */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dlfcn.h>
#include <stddef.h>
#include <stdint.h>

#include "shared.h"

/* 0 where the file is not loaded: a statically linked interpreter, a set-id one. */
SHARED uintptr_t quiet_address(void)
{
	union {
		void *address;
		uintptr_t (*call)(void);
	} found = {dlsym(RTLD_DEFAULT, "pyisolate_quiet_address")};

	return found.address ? found.call() : 0;
}

SHARED void quiet_tell_all(int all)
{
	union {
		void *address;
		void (*call)(int);
	} found = {dlsym(RTLD_DEFAULT, "pyisolate_quiet_tell_all")};

	if (found.address)
		found.call(all);
}

SHARED void quiet_never_files(void)
{
	union {
		void *address;
		void (*call)(void);
	} found = {dlsym(RTLD_DEFAULT, "pyisolate_quiet_never_files")};

	if (found.address)
		found.call();
}

SHARED void quiet_report_sizes(void)
{
	union {
		void *address;
		void (*call)(void);
	} found = {dlsym(RTLD_DEFAULT, "pyisolate_report_sizes")};

	if (found.address)
		found.call();
}
