/* socket, setsockopt, connect, bind, listen: decided on a copy of the address, done by the supervisor on its own
 * descriptor of the guest's socket. */

static void notify_inject_answer(struct notify_sandbox *s, uint64_t id, int fd, int flags)
{
	struct seccomp_notif_addfd add = {
		.id = id,
		.flags = SECCOMP_ADDFD_FLAG_SEND,
		.srcfd = (uint32_t)fd,
		.newfd_flags = (uint32_t)flags,
	};
	int number = ioctl(s->fd, SECCOMP_IOCTL_NOTIF_ADDFD, &add);

	if (number < 0 && errno == EINVAL) { /* before 5.14: two steps */
		add.flags = 0;
		number = ioctl(s->fd, SECCOMP_IOCTL_NOTIF_ADDFD, &add);
		if (number >= 0)
			notify_answer(s, id, number, 0, 0);
	}
	if (number < 0)
		notify_answer(s, id, 0, -errno, 0); /* EMFILE: the guest's own limit */
	close(fd);
}

/* ADDFD waits until the guest's task ran. One that is starved of processor time (a CPU quota, before 6.18) would
 * hold up every other sandbox: from its second call on, it holds up the injector instead. */
static void notify_inject(const struct notify_call *c, int fd, int flags)
{
	struct notify_sandbox *s = c->sandbox;

	if (s->slow) {
		struct notify_job *job = notify_alloc(1, sizeof *job);
		if (job) {
			struct notify_listener *l = c->l;
			*job = (struct notify_job){ .sandbox = s, .id = c->id, .fd = fd, .flags = flags };
			__atomic_add_fetch(&s->jobs, 1, __ATOMIC_ACQ_REL);
			pthread_mutex_lock(&l->job_lock);
			struct notify_job **end = &l->jobs;
			while (*end)
				end = &(*end)->next;
			*end = job;
			pthread_cond_signal(&l->job_ready);
			pthread_mutex_unlock(&l->job_lock);
			return;
		}
	}
	uint64_t started = notify_now();
	notify_inject_answer(s, c->id, fd, flags);
	if (notify_now() - started > 2000000)
		s->slow = 1;
}

/* The guest connects by itself, its cgroup's programs decide: what the filter has not let it make by value is not made
 * at all. A socket of ours would be outside the cgroup, and a named unix socket could reach one of the host's. */
static void notify_native_socket(const struct notify_call *c)
{
	struct notify_decision d = notify_without_rule(-1);

	if (c->args[0] == AF_UNIX)
		notify_refuse(c, NOTIFY_CAP_IPC_UNIX, EACCES, &d, NULL);
	else
		notify_refuse_always(c, NOTIFY_CAP_NET_SOCKET, NULL);
}

static void notify_do_socket(const struct notify_call *c)
{
	int domain = (int)c->args[0], kind = (int)c->args[1], protocol = (int)c->args[2];
	int type = kind & 0xf;

	if (c->policy->flags & NOTIFY_NATIVE_NET) {
		notify_native_socket(c);
		return;
	}
	if (c->args[0] == AF_UNIX && c->nr == SYS_socket && (c->policy->flags & NOTIFY_CELL)) {
		notify_count(c->sandbox, NOTIFY_CAP_NET_SOCKET, NOTIFY_ALLOW);
		notify_continue(c); /* by value; a cell's own network namespace holds nobody else */
		return;
	}
	int inet = c->nr == SYS_socket && (domain == AF_INET || domain == AF_INET6) &&
		   ((type == SOCK_STREAM && (protocol == 0 || protocol == IPPROTO_TCP || protocol == 262)) ||
		    (type == SOCK_DGRAM && (protocol == 0 || protocol == IPPROTO_UDP)));
	if (c->args[0] == AF_UNIX) {
		struct notify_decision d = notify_without_rule(-1);
		if (c->policy->unix_count || notify_pass(c, NOTIFY_CAP_IPC_UNIX, &d, NULL))
			notify_continue(c);
		return;
	}
	if (!inet) {
		notify_refuse_always(c, NOTIFY_CAP_NET_SOCKET, NULL);
		return;
	}
	struct notify_decision d = { .allow = c->policy->inet_grants, .rule = -1, .presented = -1,
				     .reason = c->policy->inet_grants ? NOTIFY_NO_REASON : NOTIFY_NOT_GRANTED };
	if (c->policy->shadow && !c->policy->shadow->inet_grants)
		notify_tell_shadow(c, NOTIFY_CAP_NET_SOCKET, notify_without_rule(-1), NULL);
	if (!notify_pass(c, NOTIFY_CAP_NET_SOCKET, &d, NULL))
		return;
	if (!(c->policy->flags & NOTIFY_CELL)) {
		notify_continue(c); /* by value; a sandbox thread lives in the host's network namespace */
		return;
	}
	/* Multipath TCP (262) is served by plain TCP, its own fallback: the peer could otherwise make the kernel
	 * open subflows to addresses that no rule names. */
	int fd = socket(domain, type | SOCK_CLOEXEC | (kind & SOCK_NONBLOCK), protocol == 262 ? 0 : protocol);
	if (fd < 0) {
		notify_result(c, errno == EMFILE || errno == ENFILE ? -ENFILE : -errno);
		return;
	}
	c->sandbox->had_inet = 1;
	notify_inject(c, fd, kind & SOCK_CLOEXEC ? O_CLOEXEC : 0);
}

/* Two options come here by right: IPV6_V6ONLY (see notify_judge_local) and SO_SNDTIMEO (see notify_connect_now). */
static void notify_do_setsockopt(const struct notify_call *c)
{
	int level = (int)c->args[1], option = (int)c->args[2];
	char value[sizeof(struct timeval)];
	size_t bytes = 0;

	if (level == IPPROTO_IPV6 && option == IPV6_V6ONLY)
		bytes = sizeof(int);
	else if (level == SOL_SOCKET && (option == SO_SNDTIMEO || option == 67 /* SO_SNDTIMEO_NEW, 5.1 */))
		bytes = sizeof(struct timeval);
	if (!bytes || (uint32_t)c->args[4] < bytes) {
		if (bytes)
			notify_result(c, -EINVAL);
		else
			notify_refuse_always(c, NOTIFY_CAP_NET_SOCKET, NULL);
		return;
	}
	int fd = notify_take_fd(c, c->args[0]);
	int result = fd < 0 ? fd : notify_read(c, c->args[3], value, bytes);
	if (result >= 0 && !notify_valid(c))
		result = -EINTR;
	if (result >= 0)
		result = setsockopt(fd, level, option, value, (socklen_t)bytes) ? -errno : 0;
	if (fd >= 0)
		close(fd);
	notify_give_up(c, NOTIFY_CAP_NET_SOCKET, result);
}

/* A unix address as a destination. The supervisor's own name lookup and credentials would be used for a path, so it
 * must be granted to the letter, and the guest must be the same user. -errno, or 0 to go on. */
static int notify_unix_destination(const struct notify_call *c, const struct notify_endpoint *to)
{
	size_t length = notify_unix_path(to);
	struct notify_decision d = { .allow = 1, .rule = -1, .presented = -1 };
	uid_t uid;

	if (length) {
		if (c->policy->shadow)
			notify_tell_shadow(c, NOTIFY_CAP_IPC_UNIX,
					   notify_judge_unix(c->policy->shadow, NOTIFY_CONNECT, to->raw.un.sun_path,
							     length), to);
		d = notify_judge_unix(c->policy, NOTIFY_CONNECT, to->raw.un.sun_path, length);
		if (d.allow && (notify_real_uid(c->tid, &uid) || !notify_valid(c) || uid != geteuid()))
			d = notify_without_rule(d.rule);
		if (d.allow && to->raw.un.sun_path[0] != '/')
			d = notify_without_rule(d.rule);
	} else if (!(c->policy->flags & NOTIFY_CELL)) {
		d = notify_without_rule(-1); /* an abstract name is the host's in a sandbox thread */
	}
	if (d.allow) {
		notify_count(c->sandbox, NOTIFY_CAP_IPC_UNIX, NOTIFY_ALLOW);
		return 0;
	}
	if (c->policy->flags & NOTIFY_MONITOR_NET) {
		/* Whom it reaches depends on who looks the name up, and as whom: the guest itself. It may go elsewhere
		 * than we are told; in monitor mode it may go anywhere. */
		notify_tell(c, NOTIFY_CAP_IPC_UNIX, NOTIFY_WOULD_DENY, 0, &d, to);
		notify_continue(c);
	} else {
		notify_refuse(c, NOTIFY_CAP_IPC_UNIX, EACCES, &d, to);
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
			notify_tell_shadow(c, NOTIFY_CAP_NET_CONNECT,
					   notify_judge(c->policy->shadow, NOTIFY_CONNECT, to->family, to->address,
							to->port, 0), to);
		if (!notify_pass(c, NOTIFY_CAP_NET_CONNECT, &d, to)) {
			close(fd);
			return;
		}
	}
	result = notify_connect_now(fd, to, &blocking);
	if (result == -EINPROGRESS && blocking) {
		struct notify_wait w = { .step = NOTIFY_STEP_CONNECT, .to = *to };
		result = notify_park(c, fd, &w);
		if (!result)
			return;
	}
	notify_result(c, result);
	close(fd);
}

static void notify_do_connect(const struct notify_call *c)
{
	struct notify_endpoint to;
	int fd = notify_take_fd(c, c->args[0]);
	int result = fd < 0 ? fd : notify_read_endpoint(c, c->args[1], c->args[2], &to);
	int domain = result < 0 ? 0 : notify_socket_option(fd, SOL_SOCKET, SO_DOMAIN);

	if (result >= 0 && !notify_valid(c))
		result = -EINTR;
	if (result < 0 || domain < 0) {
		notify_give_up(c, NOTIFY_CAP_NET_CONNECT, result < 0 ? result : domain);
	} else if (domain == AF_INET || domain == AF_INET6) {
		if (to.family == 1)
			notify_result(c, -EAFNOSUPPORT);
		else {
			notify_connect_inet(c, fd, &to);
			return;
		}
	} else if (domain == AF_UNIX && (to.family == 1 || to.family == 0)) {
		int blocking;
		if (to.family == 0 || !notify_unix_destination(c, &to)) {
			result = notify_connect_now(fd, &to, &blocking);
			notify_result(c, result);
		}
	} else {
		notify_refuse_always(c, NOTIFY_CAP_NET_CONNECT, &to);
	}
	if (fd >= 0)
		close(fd);
}

static void notify_bind_unix(const struct notify_call *c, int fd, const struct notify_endpoint *at)
{
	int cell = (c->policy->flags & NOTIFY_CELL) != 0;

	if (!notify_unix_path(at) && cell) { /* unnamed or abstract, in the guest's own network namespace */
		notify_count(c->sandbox, NOTIFY_CAP_IPC_UNIX, NOTIFY_ALLOW);
		notify_result(c, bind(fd, &at->raw.any, at->length) ? -errno : 0);
		return;
	}
	/* A path is made in the guest's own view under Landlock, so the call itself must go on. */
	if (notify_may_continue(c)) {
		notify_count(c->sandbox, NOTIFY_CAP_IPC_UNIX, NOTIFY_ALLOW);
		notify_continue(c);
		return;
	}
	struct notify_decision d = notify_without_rule(-1);
	notify_refuse(c, NOTIFY_CAP_IPC_UNIX, EACCES, &d, at);
}

static void notify_do_bind(const struct notify_call *c)
{
	struct notify_endpoint at;
	int fd = notify_take_fd(c, c->args[0]);
	int result = fd < 0 ? fd : notify_read_endpoint(c, c->args[1], c->args[2], &at);
	int domain = result < 0 ? 0 : notify_socket_option(fd, SOL_SOCKET, SO_DOMAIN);

	if (result >= 0 && !notify_valid(c))
		result = -EINTR;
	if (result >= 0 && (domain == AF_INET || domain == AF_INET6) && at.family != 4 && at.family != 6)
		result = -EAFNOSUPPORT; /* AF_UNSPEC too: inet_bind takes it for AF_INET */
	if (result < 0 || domain < 0) {
		notify_give_up(c, NOTIFY_CAP_NET_BIND, result < 0 ? result : domain);
	} else if (domain == AF_UNIX && at.family == 1) {
		notify_bind_unix(c, fd, &at);
	} else if (domain == AF_INET || domain == AF_INET6) {
		struct notify_decision d = notify_judge_local(c->policy, fd, &at, 0);
		if (c->policy->shadow)
			notify_tell_shadow(c, NOTIFY_CAP_NET_BIND, notify_judge_local(c->policy->shadow, fd, &at, 0),
					   &at);
		if (notify_pass(c, NOTIFY_CAP_NET_BIND, &d, &at))
			notify_result(c, bind(fd, &at.raw.any, at.length) ? -errno : 0);
	} else {
		notify_result(c, -EAFNOSUPPORT);
	}
	if (fd >= 0)
		close(fd);
}

/* listen() on a socket without a name takes one by itself: that is a bind to any address and any port. */
static void notify_do_listen(const struct notify_call *c)
{
	struct notify_endpoint at = { .length = sizeof at.raw };
	int fd = notify_take_fd(c, c->args[0]);
	if (fd < 0) {
		notify_give_up(c, NOTIFY_CAP_NET_LISTEN, fd);
		return;
	}
	int result = getsockname(fd, &at.raw.any, &at.length) ? -errno : 0;
	if (!result && at.raw.any.sa_family != AF_UNIX) {
		result = at.raw.any.sa_family == AF_INET ? notify_decode_inet(&at) :
			 at.raw.any.sa_family == AF_INET6 ? notify_decode_inet6(&at) : -EOPNOTSUPP;
		if (!result) {
			struct notify_decision d = notify_judge_local(c->policy, fd, &at, at.port != 0);
			if (c->policy->shadow)
				notify_tell_shadow(c, NOTIFY_CAP_NET_LISTEN,
						   notify_judge_local(c->policy->shadow, fd, &at, at.port != 0), &at);
			if (!notify_pass(c, NOTIFY_CAP_NET_LISTEN, &d, &at)) {
				close(fd);
				return;
			}
		}
	}
	if (!result)
		result = listen(fd, (int)c->args[1]) ? -errno : 0;
	notify_result(c, result);
	close(fd);
}
