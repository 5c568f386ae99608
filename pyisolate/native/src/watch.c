/* Directories that say of themselves that a name in them has changed: inotify(7), 2.6.13. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

#include "result.h"
#include "shared.h"

/* Once: a busy directory must not fill the queue, whose overflow would not say which directory it was. */
enum { WATCH_EVENTS = IN_CREATE | IN_DELETE | IN_MOVE | IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR | (int)IN_ONESHOT };
enum { WATCH_BUFFER = 4096 };
/* as native/watch.py knows them */
enum { WATCH_NAMES = 1, WATCH_MOUNTS = 2 };

SHARED int watch_open(void)
{
	return result_of(inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
}

SHARED int watch_add(int fd, const char *paths, unsigned int count, int *errors)
{
	for (unsigned int i = 0; i < count; i++, paths += strlen(paths) + 1)
		errors[i] = inotify_add_watch(fd, paths, (uint32_t)WATCH_EVENTS) < 0 ? errno : 0;
	return 0;
}

/*
 * A watch that has had its event may still be on its way out, and `watch_add` would find it and renew nothing: it is
 * removed here, which waits for that, so that what is added later is a new one.
 */
static int watch_remove_all(int fd, const char *data, const char *end)
{
	int overflow = 0;
	while (data < end) {
		struct inotify_event event;
		memcpy(&event, data, sizeof event);
		data += sizeof event + event.len;
		if (event.mask & IN_Q_OVERFLOW)
			overflow = 1;
		else if (!(event.mask & IN_IGNORED))
			inotify_rm_watch(fd, event.wd);
	}
	return overflow;
}

SHARED int watch_changed(int fd)
{
	char data[WATCH_BUFFER];
	int changed = 0;
	for (;;) {
		ssize_t got = read(fd, data, sizeof data);
		if (got > 0) {
			if (watch_remove_all(fd, data, data + got))
				return -EOVERFLOW;
			changed = 1;
		} else if (errno == EAGAIN) {
			return changed;
		} else if (errno != EINTR) {
			return -errno;
		}
	}
}

SHARED int watch_poll(int fd, int mounts)
{
	struct pollfd asked[] = {{fd, POLLIN, 0}, {mounts, POLLPRI, 0}};
	if (poll(asked, 2, 0) < 0)
		return WATCH_NAMES; /* a look then says what there is */
	return (asked[0].revents ? WATCH_NAMES : 0) | (asked[1].revents ? WATCH_MOUNTS : 0);
}
