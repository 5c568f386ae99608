/* What other files call of channel.c. */
#ifndef PYISOLATE_CHANNEL_H
#define PYISOLATE_CHANNEL_H

#include <stddef.h>

#include "shared.h"

SHARED int channel_receive(int peer, unsigned char *data, size_t size, int *descriptors, int most, int *count);

#endif
