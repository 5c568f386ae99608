/* Connections to the egress proxy: before one is made, it is written down whose it is.
 *
 * The proxy asks the kernel for the other end of what it accepts (sock_diag(7)) and finds its cookie here, so that it
 * knows the sandbox before the first byte. A socket's cookie is no other one's (SO_COOKIE, 4.6), and the entry is there
 * before the kernel sends anything. A guest that makes the numbers go round between a connect and its accept has its
 * neighbour's connection closed, and no more: the cookie is compared. */
#include "unfinished.h"

/* Write to this table from now on; the descriptor stays the caller's, and its size is sealed. Once. */
SHARED int notify_lead(notify_listener *l, int fd, uint16_t port)
{
	if (l->forked || l->led)
		return l->forked ? -ESRCH : -EEXIST;
	void *at = mmap(NULL, LED_SLOTS * sizeof(struct led), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (at == MAP_FAILED)
		return -errno;
	l->led_port = port;
	__atomic_store_n(&l->led, (struct led *)at, __ATOMIC_RELEASE);
	return 0;
}

SHARED void notify_end_lead(notify_listener *l)
{
	if (l->led)
		munmap(l->led, LED_SLOTS * sizeof(struct led));
}

/* A granted connection is about to be made on `fd`. */
SHARED void notify_write_led(const struct notify_call *c, int fd, const struct notify_endpoint *to)
{
	static const uint8_t loopback[4] = {127, 0, 0, 1};
	struct led *table = __atomic_load_n(&c->l->led, __ATOMIC_ACQUIRE);
	uint64_t cookie;
	socklen_t length = sizeof cookie;

	if (!table || to->family != 4 || to->port != c->l->led_port || memcmp(to->address, loopback, sizeof loopback) ||
	    getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &length))
		return;
	struct led *slot = table + cookie % LED_SLOTS;
	__atomic_store_n(&slot->cookie, 0, __ATOMIC_RELAXED); /* no cookie is 0 */
	__atomic_store_n(&slot->key, c->sandbox->key, __ATOMIC_RELEASE);
	__atomic_store_n(&slot->cookie, cookie, __ATOMIC_RELEASE);
}
