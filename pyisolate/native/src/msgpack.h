/* For files that measure a value of msgpack; the function is in msgpack.c. */
#ifndef PYISOLATE_MSGPACK_H
#define PYISOLATE_MSGPACK_H

#include <stddef.h>
#include <stdint.h>

#include "shared.h"

SHARED int64_t msgpack_measure(const uint8_t *data, size_t length, int max_depth, int64_t limit);

#endif
