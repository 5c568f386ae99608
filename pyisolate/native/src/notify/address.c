/* Socket addresses: copied out of the task once, normalised, and only that copy is judged and used. */
#include "facts.h"

static const uint8_t notify_v4_mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

static int notify_is_zero(const uint8_t *bytes, size_t length)
{
	for (size_t i = 0; i < length; i++)
		if (bytes[i])
			return 0;
	return 1;
}

/* "Any" as a destination means this host (ip_route_output, ipv6_addr_any): say so before it is judged, because the
 * kernel would otherwise take the socket's own address for it. */
SHARED void notify_any_is_loopback(struct notify_endpoint *e)
{
	static const uint8_t loopback[4] = {127, 0, 0, 1};

	if (e->family == 4) {
		if (!notify_is_zero(e->address, 4))
			return;
		memcpy(e->address, loopback, 4);
		if (e->raw.any.sa_family == AF_INET)
			memcpy(&e->raw.in.sin_addr, loopback, 4);
		else
			memcpy((uint8_t *)&e->raw.in6.sin6_addr + 12, loopback, 4);
	} else if (notify_is_zero(e->address, 16)) {
		e->address[15] = 1;
		((uint8_t *)&e->raw.in6.sin6_addr)[15] = 1;
	}
}

SHARED int notify_decode_inet(struct notify_endpoint *e)
{
	if (e->length < sizeof e->raw.in)
		return -EINVAL;
	e->family = 4;
	memcpy(e->address, &e->raw.in.sin_addr, 4);
	e->port = ntohs(e->raw.in.sin_port);
	memset(e->raw.in.sin_zero, 0, sizeof e->raw.in.sin_zero);
	e->length = sizeof e->raw.in;
	return 0;
}

SHARED int notify_decode_inet6(struct notify_endpoint *e)
{
	const uint8_t *bytes = (const uint8_t *)&e->raw.in6.sin6_addr;

	if (e->length < offsetof(struct sockaddr_in6, sin6_scope_id)) /* SIN6_LEN_RFC2133 */
		return -EINVAL;
	if (e->length < sizeof e->raw.in6)
		e->raw.in6.sin6_scope_id = 0;
	e->raw.in6.sin6_flowinfo = 0; /* a flow label may carry a routing header of its own */
	e->port = ntohs(e->raw.in6.sin6_port);
	e->scope = e->raw.in6.sin6_scope_id;
	if (!memcmp(bytes, notify_v4_mapped, sizeof notify_v4_mapped)) {
		e->family = 4;
		memcpy(e->address, bytes + 12, 4);
	} else {
		e->family = 6;
		memcpy(e->address, bytes, 16);
	}
	e->length = sizeof e->raw.in6;
	return 0;
}

/* Copy the address at `where`. 0 with family 0 for AF_UNSPEC, or -errno. */
SHARED int notify_read_endpoint(const struct notify_call *c, uint64_t where, uint64_t length, struct notify_endpoint *e)
{
	memset(e, 0, sizeof *e);
	if ((int32_t)length < 0 || (uint32_t)length > sizeof e->raw.storage)
		return -EINVAL;
	e->length = (socklen_t)(uint32_t)length;
	int result = notify_read(c, where, &e->raw, e->length);
	if (result)
		return result;
	if (e->length < sizeof e->raw.any.sa_family)
		return -EINVAL;
	switch (e->raw.any.sa_family) {
	case AF_UNSPEC:
		return 0;
	case AF_UNIX:
		e->family = 1;
		if (e->length > sizeof e->raw.un)
			return -EINVAL;
		return 0;
	case AF_INET:
		return notify_decode_inet(e);
	case AF_INET6:
		return notify_decode_inet6(e);
	default:
		return -EAFNOSUPPORT;
	}
}

SHARED int notify_socket_option(int fd, int level, int option)
{
	int value = -1;
	socklen_t length = sizeof value;

	return getsockopt(fd, level, option, &value, &length) ? -errno : value;
}

/* A pathname (not abstract, not unnamed) unix address: its length, else 0. */
SHARED size_t notify_unix_path(const struct notify_endpoint *e)
{
	size_t room = e->length - offsetof(struct sockaddr_un, sun_path);

	if (e->length <= offsetof(struct sockaddr_un, sun_path) || !e->raw.un.sun_path[0])
		return 0;
	return strnlen(e->raw.un.sun_path, room);
}

SHARED int notify_names_path(const struct notify_endpoint *e)
{
	return e->family == 1 && !e->held && notify_unix_path(e) > 0;
}

/* The address of a socket that is held open. */
SHARED void notify_by_descriptor(int fd, struct notify_endpoint *held)
{
	memset(held, 0, sizeof *held);
	held->family = 1;
	held->held = 1;
	held->raw.un.sun_family = AF_UNIX;
	int length = snprintf(held->raw.un.sun_path, sizeof held->raw.un.sun_path, "/proc/thread-self/fd/%d", fd);
	held->length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + (size_t)length + 1);
}

/* Open the socket at a granted path and name it by descriptor in `held`, which holds while the descriptor is open.
 * No part of the path may be a link: a guest that may write there could lead the supervisor to another socket.
 * The descriptor, or -errno: ELOOP for a link, ENOTSOCK for another kind of file. openat2: Linux 5.6. */
SHARED int notify_hold_path(const struct notify_endpoint *e, struct notify_endpoint *held)
{
	const struct open_how how = {.flags = O_PATH | O_CLOEXEC | O_NOFOLLOW, .resolve = RESOLVE_NO_SYMLINKS};
	char path[sizeof e->raw.un.sun_path + 1] = {0};
	struct stat about;

	memcpy(path, e->raw.un.sun_path, notify_unix_path(e));
	int fd = (int)syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof how);
	if (fd < 0)
		return -errno;
	if (fstat(fd, &about) || !S_ISSOCK(about.st_mode)) {
		close(fd);
		return -ENOTSOCK;
	}
	notify_by_descriptor(fd, held);
	return fd;
}

/* bind() of [::] without IPV6_V6ONLY takes every IPv4 address as well, so both must be granted. IPV6_V6ONLY is set
 * by this thread only (notify_set_v6only), so that it cannot change between this question and the bind. */
SHARED struct notify_decision notify_judge_local(const notify_policy *p, int fd, const struct notify_endpoint *e,
						 int picked)
{
	static const uint8_t any[16];
	struct notify_decision d = notify_judge(p, NOTIFY_BIND, e->family, e->address, e->port, picked);

	if (d.allow && e->family == 6 && notify_is_zero(e->address, 16) &&
	    notify_socket_option(fd, IPPROTO_IPV6, IPV6_V6ONLY) != 1)
		return notify_judge(p, NOTIFY_BIND, 4, any, e->port, picked);
	return d;
}

/* A call on a unix socket may go on as it is only where nothing else can be put in its descriptor's place: in a cell
 * that never had an INET socket and cannot get one. There it reaches the cell's own processes. */
SHARED int notify_may_continue(const struct notify_call *c)
{
	return (c->policy->flags & NOTIFY_CELL) && !c->sandbox->had_inet && !c->policy->inet_grants &&
	       !(c->policy->flags & (NOTIFY_MONITOR_NET | NOTIFY_NATIVE_NET));
}
