/* A file's code that is mapped. No rule, no hook and no security module speaks before the kernel refuses it on a noexec mount, as
 * the root view has what may be read and not run: the listener alone can record that. It looks at the file by a descriptor of
 * its own, so that what is refused is what is recorded.
 */
#include "calls.h"

/* Would the kernel map it executable? Asked of the kernel itself, by a mapping that no file can have: do_mmap (mm/mmap.c) looks
 * at the mount, then at MAP_GROWSDOWN, and only then at the file, so that no file system's server is waited for. */
static int notify_mount_refuses(int fd)
{
	void *mapped = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_GROWSDOWN, fd, 0);

	if (mapped == MAP_FAILED)
		return errno == EPERM;
	munmap(mapped, 4096);
	return 0;
}

/* Is there anything to record of a file that the kernel maps? What monitor mode lets through, or a shadow policy would refuse. */
static int notify_watches_code(const notify_policy *p)
{
	return p->acts[PYI_IMPORT_NATIVE] == NOTIFY_ACT_WATCH ||
	       (p->shadow && p->shadow->acts[PYI_IMPORT_NATIVE] != NOTIFY_ACT_ALLOW);
}

/* Whether a rule grants the file the host finds out from the record, as of a file that is opened. */
SHARED void notify_do_map(const struct notify_call *c)
{
	struct notify_call named = *c;
	char link[40], name[NOTIFY_NAME];
	int fd = c->args[1] ? notify_take_fd(c, c->args[4]) : -EINVAL;

	if (fd < 0) {
		notify_continue(c); /* the kernel says why not */
		return;
	}
	int refuses = notify_mount_refuses(fd);
	if (refuses || notify_watches_code(c->policy)) {
		snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
		ssize_t length = readlink(link, name, sizeof name);
		named.name = name;
		named.name_bytes = length > 0 ? (size_t)length : 0;
		notify_tell(&named, PYI_IMPORT_NATIVE, NOTIFY_ALLOW, refuses ? EPERM : 0, NULL, NULL);
	}
	close(fd);
	if (refuses)
		notify_result(c, -EPERM);
	else
		notify_continue(c);
}
