/* What a call says besides names: flags, mode, where a link leads, times, owners, attributes. Who is asked about it is shown
 * that, and what is done is made of this copy. */
#include "facts.h"

/* Flags and mode of a call that has them. */
SHARED void notify_read_modes(const struct notify_call *c, uint32_t *flags, uint32_t *mode)
{
	int argument = c->l->path_argument[c->nr];

	switch (c->nr) {
	case SYS_renameat2:
	case SYS_linkat:
	case SYS_fchownat:
	case SYS_setxattr:
	case SYS_lsetxattr:
		*flags = (uint32_t)c->args[4];
		break;
	case SYS_utimensat:
		*flags = (uint32_t)c->args[3];
		break;
	case NOTIFY_FCHMODAT2:
		*flags = (uint32_t)c->args[3]; /* fallthrough */
	case SYS_fchmodat:
	case SYS_mkdirat:
#ifdef SYS_mkdir
	case SYS_mkdir:
	case SYS_chmod:
#endif
		*mode = (uint32_t)c->args[argument + 1] & 07777;
		break;
	case SYS_unlinkat:
		*flags = (uint32_t)c->args[2];
		break;
#ifdef SYS_open
	case SYS_open:
#endif
	case SYS_openat:
		*flags = (uint32_t)c->args[argument + 1];
		*mode = (uint32_t)c->args[argument + 2] & 07777;
		break;
	}
}

static ssize_t notify_copy_bytes(const struct notify_call *c, uint64_t from, size_t bytes, char *into, size_t room)
{
	if (!from || !bytes)
		return 0;
	return bytes > room || notify_read(c, from, into, bytes) || !notify_valid(c) ? -1 : (ssize_t)bytes;
}

static ssize_t notify_copy_text(const struct notify_call *c, uint64_t from, char *into, size_t room)
{
	size_t length;
	const char *text = notify_read_name(c, from, &length);

	if (!text || !length || length > room)
		return -1;
	memcpy(into, text, length);
	return (ssize_t)length;
}

/* The name of an attribute, a zero byte and its value. */
static ssize_t notify_copy_attribute(const struct notify_call *c, char *into, size_t room)
{
	ssize_t name = notify_copy_text(c, c->args[1], into, room - 1);

	if (name < 0)
		return -1;
	into[name] = 0;
	ssize_t value = notify_copy_bytes(c, c->args[2], c->args[3], into + name + 1, room - (size_t)name - 1);
	return value < 0 ? -1 : name + 1 + value;
}

static ssize_t notify_copy_owners(const struct notify_call *c, int first, char *into, size_t room)
{
	uint32_t owners[2] = {(uint32_t)c->args[first], (uint32_t)c->args[first + 1]};

	if (room < sizeof owners)
		return -1;
	memcpy(into, owners, sizeof owners);
	return sizeof owners;
}

/* What else a call says that has one name: how many bytes of it, or -1 where it cannot be read, or is more than `room`. No
 * times stand for those of now. */
SHARED ssize_t notify_read_details(const struct notify_call *c, char *into, size_t room)
{
	switch (c->nr) {
#ifdef SYS_symlink
	case SYS_symlink:
#endif
	case SYS_symlinkat:
		return notify_copy_text(c, c->args[0], into, room);
	case SYS_utimensat:
		return notify_copy_bytes(c, c->args[2], 2 * sizeof(struct timespec), into, room);
#ifdef SYS_futimesat
	case SYS_futimesat:
		return notify_copy_bytes(c, c->args[2], 2 * sizeof(struct timeval), into, room);
	case SYS_utimes:
		return notify_copy_bytes(c, c->args[1], 2 * sizeof(struct timeval), into, room);
	case SYS_utime:
		return notify_copy_bytes(c, c->args[1], 2 * sizeof(time_t), into, room);
	case SYS_chown:
	case SYS_lchown:
		return notify_copy_owners(c, 1, into, room);
#endif
	case SYS_fchownat:
		return notify_copy_owners(c, 2, into, room);
	case SYS_setxattr:
	case SYS_lsetxattr:
		return notify_copy_attribute(c, into, room);
	case SYS_removexattr:
	case SYS_lremovexattr:
		return notify_copy_text(c, c->args[1], into, room);
	default:
		return 0;
	}
}
