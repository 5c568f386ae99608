/* socket, setsockopt, connect, bind, listen: decided on a copy of the address, done by the supervisor on its own
 * descriptor of the guest's socket. */
#include "calls.h"

/* Make the socket and put it into the guest. An injector's own descriptor: one, however many calls wait. */
SHARED void notify_inject(const struct notify_job *job)
{
	int fd = socket(job->domain, (job->kind & 0xf) | SOCK_CLOEXEC | (job->kind & SOCK_NONBLOCK), job->protocol);
	if (fd < 0) {
		notify_answer(job->sandbox, job->id, 0, errno == EMFILE || errno == ENFILE ? -ENFILE : -errno, 0);
		return;
	}
	notify_give_fd(job, fd, job->kind & SOCK_CLOEXEC);
	close(fd);
}

/* The guest connects by itself, its cgroup's programs decide: what the filter has not let it make by value is not made
 * at all. A socket of ours would be outside the cgroup, and a named unix socket could reach one of the host's. */
static void notify_native_socket(const struct notify_call *c)
{
	struct notify_decision d = notify_without_rule(-1);

	if (c->args[0] == AF_UNIX)
		notify_refuse(c, PYI_NET_SOCKET, EACCES, &d, NULL);
	else
		notify_refuse_always(c, PYI_NET_SOCKET, NULL);
}

SHARED void notify_do_socket(const struct notify_call *c)
{
	int domain = (int)c->args[0], kind = (int)c->args[1], protocol = (int)c->args[2];
	int type = kind & 0xf;

	if (c->policy->flags & NOTIFY_NATIVE_NET) {
		notify_native_socket(c);
		return;
	}
	if (c->args[0] == AF_UNIX && c->nr == SYS_socket && (c->policy->flags & NOTIFY_CELL)) {
		notify_count(c->sandbox, PYI_NET_SOCKET, NOTIFY_ALLOW);
		notify_continue(c); /* by value; a cell's own network namespace holds no other process */
		return;
	}
	int inet = c->nr == SYS_socket && (domain == AF_INET || domain == AF_INET6) &&
		   ((type == SOCK_STREAM &&
		     (protocol == 0 || protocol == IPPROTO_TCP || protocol == NOTIFY_MULTIPATH_TCP)) ||
		    (type == SOCK_DGRAM && (protocol == 0 || protocol == IPPROTO_UDP)));
	if (c->args[0] == AF_UNIX) {
		struct notify_decision d = notify_without_rule(-1);
		if (c->policy->unix_count || notify_pass(c, PYI_NET_SOCKET, &d, NULL))
			notify_continue(c);
		return;
	}
	if (!inet) {
		notify_refuse_always(c, PYI_NET_SOCKET, NULL);
		return;
	}
	struct notify_decision d = {.allow = c->policy->inet_grants,
				    .rule = -1,
				    .presented = -1,
				    .reason = c->policy->inet_grants ? NOTIFY_NO_REASON : NOTIFY_NOT_GRANTED};
	if (c->policy->shadow && !c->policy->shadow->inet_grants)
		notify_tell_shadow(c, PYI_NET_SOCKET, notify_without_rule(-1), NULL);
	if (!notify_pass(c, PYI_NET_SOCKET, &d, NULL))
		return;
	if (!(c->policy->flags & NOTIFY_CELL)) {
		notify_continue(c); /* by value; a sandbox thread lives in the host's network namespace */
		return;
	}
	/* Multipath TCP is served by plain TCP, its own fallback: the peer could otherwise make the kernel
	 * open subflows to addresses that no rule names. */
	c->sandbox->had_inet = 1;
	notify_ask_injector(c, domain, kind, protocol == NOTIFY_MULTIPATH_TCP ? 0 : protocol, -1);
}

/* The task that closes the last descriptor of a lingering socket waits for its peer (inet_release); that may be this
 * thread. Here such a socket is closed at once and sends what it has left in the background, as sockets do by default. */
static void notify_end_linger(struct linger *wanted)
{
	if (wanted->l_linger)
		wanted->l_onoff = 0; /* on with 0 seconds: reset, without a wait */
}

/* The kernel's own default of net.core.wmem_max and rmem_max, whatever a host has set: what waits in a socket counts for
 * the task that sent it, which is this thread for all that the guest sends with sendmsg. */
static void notify_end_buffer(int *wanted)
{
	if (*wanted > NOTIFY_BUFFER || *wanted < 0) /* the kernel reads a negative size as a large one */
		*wanted = NOTIFY_BUFFER;
}

/* bind(2), which takes the lock of the guest's socket. */
static void notify_bind_now(const struct notify_call *c, int fd, const struct notify_endpoint *at)
{
	struct notify_desk *desk = notify_step_aside(c->l);
	int result = bind(fd, &at->raw.any, at->length) ? -errno : 0;

	notify_step_back(c->l, desk);
	notify_result(c, result);
}

/* What the socket is bound to: 0 or -errno. */
static int notify_bound_to(const struct notify_call *c, int fd, struct notify_endpoint *at)
{
	struct notify_desk *desk = notify_step_aside(c->l);
	int result = getsockname(fd, &at->raw.any, &at->length) ? -errno : 0;

	notify_step_back(c->l, desk);
	return result || notify_valid(c) ? result : -EINTR;
}

static int notify_listen_now(const struct notify_call *c, int fd)
{
	struct notify_desk *desk = notify_step_aside(c->l);
	int result = listen(fd, (int)c->args[1]) ? -errno : 0;

	notify_step_back(c->l, desk);
	return result;
}

/* Five options come here by right: IPV6_V6ONLY (see notify_judge_local), SO_SNDTIMEO (see notify_connect_now), SO_LINGER,
 * SO_SNDBUF and SO_RCVBUF. */
SHARED void notify_do_setsockopt(const struct notify_call *c)
{
	int level = (int)c->args[1], option = (int)c->args[2];
	union {
		struct timeval time;
		struct linger linger;
		int number;
	} value;
	size_t bytes = 0;

	if (level == IPPROTO_IPV6 && option == IPV6_V6ONLY)
		bytes = sizeof(int);
	else if (level == SOL_SOCKET && (option == SO_SNDTIMEO || option == 67 /* SO_SNDTIMEO_NEW, 5.1 */))
		bytes = sizeof(struct timeval);
	else if (level == SOL_SOCKET && option == SO_LINGER)
		bytes = sizeof(struct linger);
	else if (level == SOL_SOCKET && (option == SO_SNDBUF || option == SO_RCVBUF))
		bytes = sizeof(int);
	if (!bytes || (uint32_t)c->args[4] < bytes) {
		if (bytes)
			notify_result(c, -EINVAL);
		else
			notify_refuse_always(c, PYI_NET_SOCKET, NULL);
		return;
	}
	int fd = notify_take_socket(c, c->args[0]);
	int result = fd < 0 ? fd : notify_read(c, c->args[3], &value, bytes);
	if (result >= 0 && !notify_valid(c))
		result = -EINTR;
	if (result >= 0 && bytes == sizeof(struct linger))
		notify_end_linger(&value.linger);
	if (result >= 0 && level == SOL_SOCKET && bytes == sizeof(int))
		notify_end_buffer(&value.number);
	if (result >= 0) {
		struct notify_desk *desk = notify_step_aside(c->l);
		result = setsockopt(fd, level, option, &value, (socklen_t)bytes) ? -errno : 0;
		notify_step_back(c->l, desk);
	}
	if (fd >= 0)
		notify_close_taken(c->l, c->sandbox, fd);
	notify_give_up(c, PYI_NET_SOCKET, result);
}

static int notify_is_absent(const struct notify_call *c, const char *path)
{
	struct notify_desk *desk = notify_step_aside(c->l);
	int absent = access(path, F_OK) && errno == ENOENT;

	notify_step_back(c->l, desk);
	return absent;
}

/* A unix address as a destination. The supervisor's own name lookup and credentials would be used for a path, so it
 * must be granted to the letter, and the guest must be the same user. -errno, or 0 to go on. */
SHARED int notify_unix_destination(const struct notify_call *c, const struct notify_endpoint *to)
{
	size_t length = notify_unix_path(to);
	struct notify_decision d = {.allow = 1, .rule = -1, .presented = -1};
	int capability = c->nr == SYS_connect ? PYI_NET_CONNECT : PYI_NET_SEND; /* as hooks ask */
	uid_t uid;

	if (length) {
		if (c->policy->shadow)
			notify_tell_shadow(
				c, capability,
				notify_judge_unix(c->policy->shadow, NOTIFY_CONNECT, to->raw.un.sun_path, length), to);
		d = notify_judge_unix(c->policy, NOTIFY_CONNECT, to->raw.un.sun_path, length);
		if (d.allow && (notify_real_uid(c->tid, &uid) || !notify_valid(c) || uid != geteuid()))
			d = notify_without_rule(d.rule);
		if (d.allow && to->raw.un.sun_path[0] != '/')
			d = notify_without_rule(d.rule);
		if (d.allow) {
			struct notify_endpoint held;
			struct notify_desk *desk = notify_step_aside(c->l);
			int place = notify_hold_path(to, &held);
			notify_step_back(c->l, desk);
			if (place >= 0)
				close(place);
			else if (place == -ELOOP || place == -ENOTSOCK) /* another place than the granted one */
				d = notify_without_rule(d.rule);
		}
	} else if (!(c->policy->flags & NOTIFY_CELL)) {
		d = notify_without_rule(-1); /* an abstract name is the host's in a sandbox thread */
	}
	if (notify_is_stale(c)) { /* it was judged by what was in force before */
		notify_result(c, -EINTR);
		return -EINTR;
	}
	if (d.allow) {
		notify_count(c->sandbox, capability, NOTIFY_ALLOW);
		return 0;
	}
	if (length && notify_is_lookup(to) && notify_is_absent(c, to->raw.un.sun_path)) {
		notify_result(c, -ENOENT); /* a daemon that is not there: nothing was refused */
		return -ENOENT;
	}
	if (c->policy->flags & NOTIFY_MONITOR_NET) {
		/* Whom it reaches depends on who looks the name up, and as whom: the guest itself. It may go elsewhere
		 * than the notification says; in monitor mode it may go anywhere. */
		notify_tell(c, capability, NOTIFY_WOULD_DENY, 0, &d, to);
		notify_continue(c);
	} else {
		notify_refuse(c, capability, EACCES, &d, to);
	}
	return -EACCES;
}

static void notify_connect_inet(const struct notify_call *c, int fd, struct notify_endpoint *to)
{
	int blocking, result;

	if (!to->family) { /* AF_UNSPEC: dissolve; the next connect is asked about again */
		to->length = sizeof to->raw.any;
		memset(&to->raw, 0, sizeof to->raw);
	} else {
		notify_any_is_loopback(to);
		struct notify_decision d =
			notify_judge(c->policy, NOTIFY_CONNECT, to->family, to->address, to->port, 0);
		if (c->policy->shadow)
			notify_tell_shadow(
				c, PYI_NET_CONNECT,
				notify_judge(c->policy->shadow, NOTIFY_CONNECT, to->family, to->address, to->port, 0),
				to);
		if (notify_ask(c, fd, to, &d))
			return;
		if (!notify_pass(c, PYI_NET_CONNECT, &d, to)) {
			notify_close_taken(c->l, c->sandbox, fd);
			return;
		}
	}
	notify_write_led(c, fd, to);
	result = notify_connect_now(c->l, fd, to, &blocking);
	if (result == -EINPROGRESS && blocking) {
		struct notify_wait w = {.step = NOTIFY_STEP_CONNECT, .message.to = *to};
		result = notify_park(c, fd, &w);
		if (!result)
			return;
	}
	notify_result(c, result);
	notify_close_taken(c->l, c->sandbox, fd);
}

/* Connect to a socket of the workspace. 0 where the address is none there, or a rule speaks of it. */
static int notify_connect_own(const struct notify_call *c, int fd, const struct notify_endpoint *to)
{
	struct notify_endpoint held;
	int blocking, place = to->family == 1 ? notify_hold_own(c, to, &held) : -EXDEV;
	struct notify_decision d = {0};

	if (place == -EXDEV)
		return 0;
	d = notify_judge_unix(c->policy, NOTIFY_CONNECT, to->raw.un.sun_path, notify_unix_path(to));
	if (d.reason == NOTIFY_EXPLICIT_DENY) {
		if (place >= 0)
			close(place);
		return 0;
	}
	if (c->policy->shadow && !(c->policy->shadow->flags & NOTIFY_OWN_SOCKETS))
		notify_tell_shadow(c, PYI_NET_CONNECT, notify_without_rule(-1), to);
	notify_count(c->sandbox, PYI_NET_CONNECT, NOTIFY_ALLOW);
	notify_result(c, place < 0 ? place : notify_connect_now(c->l, fd, &held, &blocking));
	if (place >= 0)
		close(place);
	return 1;
}

SHARED void notify_do_connect(const struct notify_call *c)
{
	struct notify_endpoint to;
	int fd = notify_take_socket(c, c->args[0]);
	int result = fd < 0 ? fd : notify_read_endpoint(c, c->args[1], c->args[2], &to);
	int domain = result < 0 ? 0 : notify_socket_option(fd, SOL_SOCKET, SO_DOMAIN);

	if (result >= 0 && !notify_valid(c))
		result = -EINTR;
	if (result < 0 || domain < 0) {
		notify_give_up(c, PYI_NET_CONNECT, result < 0 ? result : domain);
	} else if (domain == AF_INET || domain == AF_INET6) {
		if (to.family == 1)
			notify_result(c, -EAFNOSUPPORT);
		else {
			notify_connect_inet(c, fd, &to);
			return;
		}
	} else if (domain == AF_UNIX && (to.family == 1 || to.family == 0)) {
		int blocking;
		if (notify_connect_own(c, fd, &to)) {
			/* answered */
		} else if (to.family == 0 || !notify_unix_destination(c, &to)) {
			result = notify_connect_now(c->l, fd, &to, &blocking);
			notify_result(c, result);
		}
	} else {
		notify_refuse_always(c, PYI_NET_CONNECT, &to);
	}
	if (fd >= 0)
		notify_close_taken(c->l, c->sandbox, fd);
}

static void notify_bind_unix(const struct notify_call *c, int fd, const struct notify_endpoint *at)
{
	int cell = (c->policy->flags & NOTIFY_CELL) != 0;

	if (!notify_unix_path(at) && cell) { /* unnamed or abstract, in the guest's own network namespace */
		notify_count(c->sandbox, PYI_NET_BIND, NOTIFY_ALLOW);
		notify_bind_now(c, fd, at);
		return;
	}
	size_t length = notify_unix_path(at);
	struct notify_decision d = notify_judge_unix(c->policy, NOTIFY_BIND, at->raw.un.sun_path, length);
	if (d.reason != NOTIFY_EXPLICIT_DENY && notify_binds_own(c, at)) {
		if (c->policy->shadow && !(c->policy->shadow->flags & NOTIFY_OWN_SOCKETS))
			notify_tell_shadow(c, PYI_NET_BIND, notify_without_rule(-1), at);
		notify_count(c->sandbox, PYI_NET_BIND, NOTIFY_ALLOW);
		notify_continue(c);
		return;
	}
	if (c->policy->flags & NOTIFY_MONITOR_NET && length) { /* it may go anywhere: see notify_unix_destination */
		if (d.allow)
			notify_count(c->sandbox, PYI_NET_BIND, NOTIFY_ALLOW);
		else
			notify_tell(c, PYI_NET_BIND, NOTIFY_WOULD_DENY, 0, &d, at);
		notify_continue(c);
		return;
	}
	/* A path is made in the guest's own view under Landlock, so the call itself must go on. */
	if (d.allow && notify_may_continue(c)) {
		notify_count(c->sandbox, PYI_NET_BIND, NOTIFY_ALLOW);
		notify_continue(c);
		return;
	}
	if (d.allow) /* granted, and not done all the same: see notify_may_continue */
		d = notify_without_rule(d.rule);
	notify_refuse(c, PYI_NET_BIND, EACCES, &d, at);
}

SHARED void notify_do_bind(const struct notify_call *c)
{
	struct notify_endpoint at;
	int fd = notify_take_socket(c, c->args[0]);
	int result = fd < 0 ? fd : notify_read_endpoint(c, c->args[1], c->args[2], &at);
	int domain = result < 0 ? 0 : notify_socket_option(fd, SOL_SOCKET, SO_DOMAIN);

	if (result >= 0 && !notify_valid(c))
		result = -EINTR;
	if (result >= 0 && (domain == AF_INET || domain == AF_INET6) && at.family != 4 && at.family != 6)
		result = -EAFNOSUPPORT; /* AF_UNSPEC too: inet_bind takes it for AF_INET */
	if (result < 0 || domain < 0) {
		notify_give_up(c, PYI_NET_BIND, result < 0 ? result : domain);
	} else if (domain == AF_UNIX && at.family == 1) {
		notify_bind_unix(c, fd, &at);
	} else if (domain == AF_INET || domain == AF_INET6) {
		struct notify_decision d = notify_judge_local(c->policy, fd, &at, 0);
		if (c->policy->shadow)
			notify_tell_shadow(c, PYI_NET_BIND, notify_judge_local(c->policy->shadow, fd, &at, 0), &at);
		if (notify_pass(c, PYI_NET_BIND, &d, &at))
			notify_bind_now(c, fd, &at);
	} else {
		notify_result(c, -EAFNOSUPPORT);
	}
	if (fd >= 0)
		notify_close_taken(c->l, c->sandbox, fd);
}

/* listen() on a socket without a name takes one by itself: that is a bind to any address and any port. */
SHARED void notify_do_listen(const struct notify_call *c)
{
	struct notify_endpoint at = {.length = sizeof at.raw};
	int fd = notify_take_socket(c, c->args[0]);
	if (fd < 0) {
		notify_give_up(c, PYI_NET_LISTEN, fd);
		return;
	}
	int result = notify_bound_to(c, fd, &at);
	if (!result && at.raw.any.sa_family != AF_UNIX) {
		result = at.raw.any.sa_family == AF_INET    ? notify_decode_inet(&at)
			 : at.raw.any.sa_family == AF_INET6 ? notify_decode_inet6(&at)
							    : -EOPNOTSUPP;
		if (!result) {
			struct notify_decision d = notify_judge_local(c->policy, fd, &at, at.port != 0);
			if (c->policy->shadow)
				notify_tell_shadow(c, PYI_NET_LISTEN,
						   notify_judge_local(c->policy->shadow, fd, &at, at.port != 0), &at);
			if (!notify_pass(c, PYI_NET_LISTEN, &d, &at)) {
				notify_close_taken(c->l, c->sandbox, fd);
				return;
			}
		}
	}
	if (!result)
		result = notify_listen_now(c, fd);
	notify_result(c, result);
	notify_close_taken(c->l, c->sandbox, fd);
}
