/* What a thread that may lead the loop has of its own. A part of notify.h. */
#ifndef NOTIFY_DESK_H
#define NOTIFY_DESK_H

#define NOTIFY_COPIES 2 /* a call has two names at most */
/* A name of a call that is in the loop's hands, as it was when it was first read. */
struct notify_copy {
	const struct notify_sandbox *sandbox; /* NULL: none */
	uint64_t id, address;
	size_t length; /* of the name; sizeof text: it is longer than any may be */
	char text[4096];
};

/* What a thread that may lead the loop has of its own: it goes on with it when it is stranded. */
struct notify_desk {
	struct notify_sandbox *sandbox; /* whose call or wait is in its hands; NULL: none */
	const notify_policy *policy;    /* of the call, as it came */
	int stranded;                   /* another thread leads since it took that up */
	int stale;                      /* and another policy is in force by now, or the sandbox was stopped */
	int first;                      /* of the thread that the host started, and joins */
	uint64_t used_ns;               /* its processor time, at the end of its last turn */
	uint64_t unnamed[2]; /* device and inode of such a file, which a name was just looked up of; 0: of none */
	struct seccomp_notif *received;
	int next_copy;
	struct notify_copy copies[NOTIFY_COPIES];
	struct iovec iov[NOTIFY_IOV];
	_Alignas(16) char control[NOTIFY_CONTROL];
	char names[2 * NOTIFY_NAME], payload[NOTIFY_PAYLOAD];
};

#endif
