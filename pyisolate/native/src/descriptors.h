/* Descriptors that go with a message. sendmsg(2), cmsg(3), unix(7). */
#ifndef PYISOLATE_DESCRIPTORS_H
#define PYISOLATE_DESCRIPTORS_H

#include <string.h>
#include <sys/socket.h>

/* Room for what says so of at most `most` of them, aligned and to be zeroed. */
#define DESCRIPTORS_ROOM(most)                                                                                         \
	union {                                                                                                        \
		char bytes[CMSG_SPACE((most) * sizeof(int))];                                                          \
		struct cmsghdr aligned;                                                                                \
	}

/* Have a message carry some, one at least; `room` has place for them. */
static inline void descriptors_put(struct msghdr *message, void *room, const int *descriptors, int count)
{
	size_t bytes = (size_t)count * sizeof(int);

	message->msg_control = room;
	message->msg_controllen = CMSG_SPACE(bytes);
	struct cmsghdr *head = CMSG_FIRSTHDR(message);
	head->cmsg_level = SOL_SOCKET;
	head->cmsg_type = SCM_RIGHTS;
	head->cmsg_len = CMSG_LEN(bytes);
	memcpy(CMSG_DATA(head), descriptors, bytes);
}

#endif
