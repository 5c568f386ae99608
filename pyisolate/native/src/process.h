/* What other files call of process.c. */
#ifndef PYISOLATE_PROCESS_H
#define PYISOLATE_PROCESS_H

#include <stddef.h>
#include <stdint.h>

#include "shared.h"

/* Hold the capabilities in `keep` (bits of linux/capability.h) and no others; 0 or -errno. */
SHARED int process_set_capabilities(uint64_t keep);
SHARED int process_limit_capabilities(uint64_t keep);
SHARED int process_close_range(unsigned int first, unsigned int last);
SHARED int process_prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d);
SHARED int process_wake_on(int number, int pipe_end);
SHARED int process_write_file(const char *path, const char *text, size_t length);
SHARED int process_set_hostname(const char *name, size_t length);
SHARED int process_write_id_maps(unsigned int uid, unsigned int gid);
SHARED int process_write_id_maps_of(int pid, unsigned int inside, unsigned int outside, unsigned int gid);

#endif
