/* sendto, sendmsg, sendmmsg: address, data and control messages are copied once, judged, and sent from the copy. */
#include "calls.h"

#define NOTIFY_SEND_FLAGS (MSG_OOB | MSG_DONTROUTE | MSG_DONTWAIT | MSG_EOR | MSG_CONFIRM | MSG_MORE | MSG_FASTOPEN)

/* Which control messages of an INET socket may pass: none that changes where the packet goes (IP_RETOPTS and
 * IPV6_RTHDR carry routes, IP_PKTINFO chooses an interface). */
static int notify_harmless_control(const struct cmsghdr *m)
{
	return (m->cmsg_level == IPPROTO_UDP && m->cmsg_type == 103 /* UDP_SEGMENT */) ||
	       (m->cmsg_level == IPPROTO_IP && (m->cmsg_type == IP_TOS || m->cmsg_type == IP_TTL)) ||
	       (m->cmsg_level == IPPROTO_IPV6 && (m->cmsg_type == IPV6_TCLASS || m->cmsg_type == IPV6_HOPLIMIT));
}

static int notify_whole_control(const char *control, size_t bytes, const struct cmsghdr *m)
{
	return m->cmsg_len >= sizeof *m && m->cmsg_len <= (size_t)(control + bytes - (const char *)m);
}

/* How many descriptors the control messages carry: one message has NOTIFY_RIGHTS_MAX at most (scm_fp_copy). -EINVAL. */
static int notify_count_rights(char *control, size_t bytes)
{
	size_t count = 0;

	for (struct cmsghdr *m = notify_next_control(control, bytes, NULL); m;
	     m = notify_next_control(control, bytes, m)) {
		if (!notify_whole_control(control, bytes, m))
			return -EINVAL;
		if (m->cmsg_level == SOL_SOCKET && m->cmsg_type == SCM_RIGHTS)
			count += (m->cmsg_len - CMSG_LEN(0)) / sizeof(int);
	}
	return count > NOTIFY_RIGHTS_MAX ? -EINVAL : (int)count;
}

/* Replace the guest's descriptor numbers by descriptors of the supervisor's; on failure none is left open. */
static int notify_take_rights(const struct notify_call *c, struct cmsghdr *m)
{
	int *fds = (int *)CMSG_DATA(m);
	size_t count = (m->cmsg_len - CMSG_LEN(0)) / sizeof(int);
	int error = 0;

	for (size_t i = 0; i < count; i++) {
		int fd = error ? -1 : notify_take_fd(c, (uint32_t)fds[i]);
		if (fd < 0 && !error)
			error = fd;
		fds[i] = error ? -1 : fd;
	}
	return error;
}

/* Judge and translate the control messages in `control`. 0, -errno, or 1 when refused and answered. */
static int notify_vet_control(const struct notify_call *c, struct notify_message *m, char *control, int domain)
{
	int result = 0;

	for (struct cmsghdr *at = notify_next_control(control, m->control_bytes, NULL); at && !result;
	     at = notify_next_control(control, m->control_bytes, at)) {
		if (!notify_whole_control(control, m->control_bytes, at))
			result = -EINVAL;
		else if (domain == AF_UNIX && at->cmsg_level == SOL_SOCKET && at->cmsg_type == SCM_RIGHTS)
			result = notify_take_rights(c, at);
		else if (domain == AF_UNIX || !notify_harmless_control(at))
			result = 1;
		if (result) /* close what was taken before, and nothing that is still the guest's numbering */
			notify_close_rights(
				c->l, c->sandbox, control,
				(size_t)((char *)at - control) +
					(result < 0 && notify_whole_control(control, m->control_bytes, at) &&
							 at->cmsg_type == SCM_RIGHTS && domain == AF_UNIX
						 ? at->cmsg_len
						 : 0));
	}
	if (result == 1)
		notify_refuse_always(c, PYI_NET_SEND, m->named ? &m->to : NULL);
	return result;
}

/* The destination, judged. `to` is emptied where the kernel would not look at it. 0, -errno, or 1 when answered. */
static int notify_vet_destination(const struct notify_call *c, struct notify_message *m, int domain, int type)
{
	struct notify_decision d;
	int capability = PYI_NET_SEND;

	if (domain == AF_UNIX) {
		if (!m->named)
			return 0;
		return m->to.family != 1 ? -EINVAL : notify_unix_destination(c, &m->to) ? 1 : 0;
	}
	if (m->named && m->to.family == 1)
		return -EAFNOSUPPORT;
	if (type == SOCK_STREAM) {
		if (!(m->flags & MSG_FASTOPEN)) {
			m->to.length = 0; /* tcp_sendmsg does not read it */
			m->named = 0;
			return 0;
		}
		if (!m->named || !m->to.family)
			return -EOPNOTSUPP;
		capability = PYI_NET_CONNECT; /* that is what MSG_FASTOPEN does */
	} else if (m->named && !m->to.family) {
		if (domain == AF_INET6) { /* udpv6_sendmsg: no address */
			m->to.length = 0;
			m->named = 0;
		} else { /* udp_sendmsg takes AF_UNSPEC for AF_INET */
			m->to.raw.any.sa_family = AF_INET;
			int result = notify_decode_inet(&m->to);
			if (result)
				return result;
		}
	}
	if (!m->named) {
		notify_count(c->sandbox, capability, NOTIFY_ALLOW);
		return 0;
	}
	notify_any_is_loopback(&m->to);
	d = notify_judge(c->policy, NOTIFY_CONNECT, m->to.family, m->to.address, m->to.port, 0);
	if (c->policy->shadow)
		notify_tell_shadow(
			c, capability,
			notify_judge(c->policy->shadow, NOTIFY_CONNECT, m->to.family, m->to.address, m->to.port, 0),
			&m->to);
	return notify_pass(c, capability, &d, &m->to) ? 0 : 1;
}

/* Keep the descriptors of a message that is to be sent: 0, or 1 when refused and answered. The bound is the kernel's own:
 * what the sender may have open. */
static int notify_keep_rights(const struct notify_call *c, int count)
{
	struct notify_decision d = {.reason = NOTIFY_LIMIT_EXCEEDED, .rule = -1, .presented = -1};
	struct notify_call named = *c;
	struct notify_sandbox *s = c->sandbox;
	uint64_t most;

	if (!count)
		return 0;
	s->passes = 1;
	notify_settle_all(c->l, s);
	if (notify_hard_limit(c->tid, RLIMIT_NOFILE, &most))
		most = 0;
	if ((uint64_t)(s->kept[NOTIFY_KEPT_RIGHTS] + count) <= most && notify_may_leave(c->l, count) &&
	    notify_keep(c->l, s, NOTIFY_KEPT_RIGHTS, count))
		return 0;
	named.args[0] = (uint64_t)count; /* the record shows how many */
	notify_refuse(&named, PYI_LIMIT_OPEN_FILES, ETOOMANYREFS, &d, NULL);
	return 1;
}

/* Send from the copies; takes `fd`, and the descriptors in `control`, which are kept. */
static void notify_send_out(const struct notify_call *c, int fd, struct notify_message *m, char *data, char *control,
			    int domain, int type)
{
	int blocking = 0, connecting = type == SOCK_STREAM && domain != AF_UNIX && (m->flags & MSG_FASTOPEN);
	int64_t result = 0;

	if (connecting) {
		notify_write_led(c, fd, &m->to);
		result = notify_connect_now(c->l, fd, &m->to, &blocking);
		if (!result)
			connecting = 0;
	}
	if (!result) {
		if (type == SOCK_STREAM)
			m->to.length = domain == AF_UNIX ? m->to.length : 0;
		result = notify_send_kept(c->l, c->sandbox, fd, m, data, control);
		blocking = !(m->flags & MSG_DONTWAIT) && !(fcntl(fd, F_GETFL) & O_NONBLOCK);
	}
	if (blocking && (result == -EAGAIN || result == -EINPROGRESS)) {
		struct notify_wait w = {
			.step = connecting ? NOTIFY_STEP_CONNECT : NOTIFY_STEP_SEND,
			.then_send = connecting,
			.message = *m,
			.payload = data,
			.control = control,
			/* poll() does not look at the queue of a datagram's addressee (unix_dgram_poll), nor at ours */
			.on_tick = m->local && (m->named || !notify_may_queue(c->l, c->sandbox, m->bytes)),
		};
		if (type == SOCK_STREAM && !connecting)
			w.message.to.length = 0;
		result = notify_park(c, fd, &w);
		if (!result)
			return;
	}
	notify_close_rights(c->l, c->sandbox, control, m->control_bytes);
	if (result < 0)
		notify_let_go(c->l, c->sandbox, NOTIFY_KEPT_RIGHTS, m->rights);
	notify_close_taken(c->l, c->sandbox, fd);
	if (m->written_to && result >= 0) {
		uint32_t sent = (uint32_t)result;
		int written = notify_write(c->l, c->sandbox, c->id, c->tid, m->written_to, &sent, sizeof sent);
		result = written ? written : 1;
	}
	if (m->rights)
		notify_result_later(c, result);
	else
		notify_result(c, result);
}

/* From here on everything is in our memory. Takes `fd`. */
static void notify_send_copied(const struct notify_call *c, int fd, struct notify_message *m, int domain, int type)
{
	char *data = c->l->desk->payload, *control = c->l->desk->control;
	int result = 0;

	m->flags &= NOTIFY_SEND_FLAGS;
	m->local = domain == AF_UNIX;
	if (domain != AF_INET && domain != AF_INET6 && domain != AF_UNIX)
		result = -EOPNOTSUPP;
	if (!result)
		result = notify_vet_destination(c, m, domain, type);
	if (!result && m->control_bytes && domain == AF_UNIX) {
		int rights = notify_count_rights(control, m->control_bytes);
		result = rights < 0 ? rights : notify_keep_rights(c, rights);
		m->rights = result ? 0 : rights;
	}
	if (!result && m->control_bytes)
		result = notify_vet_control(c, m, control, domain);
	if (!result && m->rights && !notify_valid(c)) { /* to take them may have been long */
		notify_close_rights(c->l, c->sandbox, control, m->control_bytes);
		result = -EINTR;
	}
	if (!result) {
		notify_send_out(c, fd, m, data, control, domain, type);
		return;
	}
	notify_let_go(c->l, c->sandbox, NOTIFY_KEPT_RIGHTS, m->rights);
	notify_close_taken(c->l, c->sandbox, fd);
	if (result < 0)
		notify_result(c, result);
}

/* Send what was read into `m`, or answer why it could not be: `result`, -errno. Takes `fd`. */
static void notify_send_read(const struct notify_call *c, int fd, struct notify_message *m, int domain, int type,
			     int result)
{
	if (!result && !notify_valid(c))
		result = -EINTR;
	if (!result) {
		notify_send_copied(c, fd, m, domain, type);
		return;
	}
	if (fd >= 0)
		notify_close_taken(c->l, c->sandbox, fd);
	notify_give_up(c, PYI_NET_SEND, result);
}

SHARED void notify_do_sendto(const struct notify_call *c)
{
	struct notify_message m = {.flags = (int)c->args[3], .named = c->args[4] != 0};
	int fd = notify_take_socket(c, c->args[0]);
	int domain = fd < 0 ? fd : notify_socket_option(fd, SOL_SOCKET, SO_DOMAIN);
	int type = domain < 0 ? 0 : notify_socket_option(fd, SOL_SOCKET, SO_TYPE);
	int result = domain < 0 ? domain : 0;

	if (!result && m.named)
		result = notify_read_endpoint(c, c->args[4], c->args[5], &m.to);
	if (!result && type != SOCK_STREAM && c->args[2] >= NOTIFY_PAYLOAD)
		result = -EMSGSIZE;
	if (!result) {
		m.bytes = c->args[2] < NOTIFY_PAYLOAD ? (size_t)c->args[2] : NOTIFY_PAYLOAD;
		result = notify_read(c, c->args[1], c->l->desk->payload, m.bytes);
	}
	notify_send_read(c, fd, &m, domain, type, result);
}

/* Copy a msghdr and all that it points to. */
static int notify_read_message(const struct notify_call *c, uint64_t where, int type, struct notify_message *m)
{
	struct iovec *iov = c->l->desk->iov;
	struct msghdr header;
	size_t count, room = NOTIFY_PAYLOAD;
	int result = notify_read(c, where, &header, sizeof header);

	if (result)
		return result;
	m->named = header.msg_name != NULL && header.msg_namelen != 0;
	if (header.msg_iovlen > NOTIFY_IOV || header.msg_controllen > NOTIFY_CONTROL)
		return header.msg_iovlen > NOTIFY_IOV ? -EMSGSIZE : -ENOBUFS;
	if (m->named)
		result = notify_read_endpoint(c, (uintptr_t)header.msg_name, header.msg_namelen, &m->to);
	if (!result)
		result = notify_read(c, (uintptr_t)header.msg_iov, iov, header.msg_iovlen * sizeof *iov);
	if (!result && header.msg_control && header.msg_controllen) {
		m->control_bytes = header.msg_controllen;
		result = notify_read(c, (uintptr_t)header.msg_control, c->l->desk->control, m->control_bytes);
	}
	if (result)
		return result;
	for (count = 0; count < header.msg_iovlen && room; count++) {
		if (iov[count].iov_len > room)
			iov[count].iov_len = room;
		room -= iov[count].iov_len;
	}
	m->bytes = NOTIFY_PAYLOAD - room;
	if (!room && type != SOCK_STREAM)
		return -EMSGSIZE;
	return m->bytes ? notify_read_all(c, iov, count, c->l->desk->payload, m->bytes) : 0;
}

/* sendmsg, and the first message of sendmmsg: a caller must expect that fewer were sent. */
SHARED void notify_do_sendmsg(const struct notify_call *c)
{
	int many = c->nr == SYS_sendmmsg;
	struct notify_message m = {
		.flags = (int)c->args[many ? 3 : 2],
		.written_to = many ? c->args[1] + sizeof(struct msghdr) : 0,
	};

	if (many && (uint32_t)c->args[2] == 0) {
		notify_result(c, 0);
		return;
	}
	int fd = notify_take_socket(c, c->args[0]);
	int domain = fd < 0 ? fd : notify_socket_option(fd, SOL_SOCKET, SO_DOMAIN);
	int type = domain < 0 ? 0 : notify_socket_option(fd, SOL_SOCKET, SO_TYPE);
	int result = domain < 0 ? domain : 0;

	if (!result)
		result = notify_read_message(c, c->args[1], type, &m);
	notify_send_read(c, fd, &m, domain, type, result);
}
