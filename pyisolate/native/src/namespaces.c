/* Probe of clone(2) with new namespaces, as the uid that cells will be: raw calls only between fork and _exit, since
 * the host may have threads. Status byte of the child: 0 proven, else the errno of the step that failed, 255 when the
 * process was made but is not pid 1 in its namespace. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shared.h"

static int namespaces_write_map(const char *path, const char *text, size_t length)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return errno;
	int wrote = write(fd, text, length) == (ssize_t)length ? 0 : errno;
	close(fd);
	return wrote;
}

static int namespaces_inside(int uid, int gid, int user_namespace)
{
	char text[64];
	int error;

	if (getpid() != 1)
		return 255;
	if (!user_namespace)
		return 0;
	if ((error = namespaces_write_map("/proc/self/setgroups", "deny", 4)))
		return error;
	snprintf(text, sizeof text, "%d %d 1", uid, uid);
	if ((error = namespaces_write_map("/proc/self/uid_map", text, strlen(text))))
		return error;
	snprintf(text, sizeof text, "%d %d 1", gid, gid);
	return namespaces_write_map("/proc/self/gid_map", text, strlen(text));
}

/* Exit signal 0, not SIGCHLD: a host that ignores SIGCHLD, or reaps every child it has, never sees this one. */
static int namespaces_wait(pid_t pid, int *status)
{
	while (waitpid(pid, status, __WALL) != pid)
		if (errno != EINTR)
			return errno;
	return 0;
}

static int namespaces_child(int flags, int uid, int gid)
{
	int status = 0;

	if (geteuid() == 0) {
		if (syscall(SYS_setgroups, 0, NULL) || syscall(SYS_setresgid, gid, gid, gid) ||
		    syscall(SYS_setresuid, uid, uid, uid))
			return errno;
		prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
	}
	pid_t pid = (pid_t)syscall(SYS_clone, flags, 0, 0, 0, 0);
	if (pid < 0)
		return errno;
	if (pid == 0)
		_exit(namespaces_inside(uid, gid, flags & CLONE_NEWUSER));
	if (namespaces_wait(pid, &status) || !WIFEXITED(status))
		return EIO;
	return WEXITSTATUS(status);
}

/* 0, or an errno value; 255 as above. */
SHARED int namespaces_probe(int flags, int uid, int gid)
{
	int status = 0;
	pid_t pid = (pid_t)syscall(SYS_clone, 0, 0, 0, 0, 0);

	if (pid < 0)
		return errno;
	if (pid == 0)
		_exit(namespaces_child(flags, uid, gid));
	int error = namespaces_wait(pid, &status);
	if (error)
		return error;
	return WIFEXITED(status) ? WEXITSTATUS(status) : EIO;
}
