/* A message that is sent for a guest, from the copy of it: its control messages, and the system call. */
#include <linux/capability.h>

#include "unfinished.h"

/* The control message after `at` (the first one for NULL), or NULL, as the kernel walks them (net/core/scm.c): glibc
 * before 2.36 stops at a last message whose padding passes the end, and the kernel still takes that one. */
SHARED struct cmsghdr *notify_next_control(char *control, size_t bytes, const struct cmsghdr *at)
{
	size_t offset = at ? (size_t)((const char *)at - control) + CMSG_ALIGN(at->cmsg_len) : 0;

	return offset <= bytes && bytes - offset >= sizeof(struct cmsghdr) ? (struct cmsghdr *)(control + offset)
									   : NULL;
}

/* Those that were taken from the sandbox. */
SHARED void notify_close_rights(notify_listener *l, struct notify_sandbox *s, char *control, size_t bytes)
{
	for (struct cmsghdr *m = notify_next_control(control, bytes, NULL); m;
	     m = notify_next_control(control, bytes, m)) {
		if (m->cmsg_level != SOL_SOCKET || m->cmsg_type != SCM_RIGHTS)
			continue;
		int *fds = (int *)CMSG_DATA(m);
		for (size_t i = 0; i < (m->cmsg_len - CMSG_LEN(0)) / sizeof(int); i++)
			if (fds[i] >= 0)
				notify_close_later(l, s, fds[i]);
	}
}

/* The capabilities that this thread has in effect become `effective`. */
static void notify_hold_capabilities(uint64_t effective)
{
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct held[2];

	if (syscall(SYS_capget, &head, held))
		return;
	held[0].effective = (uint32_t)effective;
	held[1].effective = (uint32_t)(effective >> 32);
	syscall(SYS_capset, &head, held);
}

/* Root is exempt from the kernel's bound on descriptors in flight (unix(7), ETOOMANYREFS); a guest for whom we send is
 * not: without the bound it would fill the kernel's memory through us. Returns what was in effect, 0 if nothing was. */
static uint64_t notify_drop_exemption(void)
{
	const uint64_t exempt = 1ULL << CAP_SYS_ADMIN | 1ULL << CAP_SYS_RESOURCE;
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct held[2];

	if (syscall(SYS_capget, &head, held))
		return 0;
	uint64_t effective = held[0].effective | (uint64_t)held[1].effective << 32;
	if (!(effective & exempt))
		return 0;
	notify_hold_capabilities(effective & ~exempt);
	return effective;
}

SHARED int64_t notify_send_message(int fd, const struct notify_message *m, const char *data, char *control)
{
	const struct notify_endpoint *to = &m->to;
	struct notify_endpoint held;
	int place = -1;

	if (notify_names_path(to)) {
		place = notify_hold_path(to, &held);
		if (place < 0)
			return place;
		to = &held;
	}
	struct iovec iov = {(void *)data, m->bytes};
	struct msghdr header = {
		.msg_name = to->length ? (void *)&to->raw : NULL,
		.msg_namelen = to->length,
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = m->control_bytes ? control : NULL,
		.msg_controllen = m->control_bytes,
	};
	uint64_t held_capabilities = m->rights ? notify_drop_exemption() : 0;
	ssize_t sent = sendmsg(fd, &header, (m->flags & ~MSG_FASTOPEN) | MSG_DONTWAIT | MSG_NOSIGNAL);
	int64_t result = sent < 0 ? -errno : sent;
	if (held_capabilities)
		notify_hold_capabilities(held_capabilities);

	if (place >= 0)
		close(place);
	return result;
}
