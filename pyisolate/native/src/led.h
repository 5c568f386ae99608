/* Whose connections to the egress proxy are: a table that the listener writes and the proxy reads (egress/peers.py). */
#ifndef PYISOLATE_LED_H
#define PYISOLATE_LED_H

#include <stdint.h>

#define LED_SLOTS 65536

/* In slot `cookie % LED_SLOTS`. `key`: the sandbox's at the listener. */
struct led {
	uint64_t cookie, key;
};

#endif
