/* What stands at each of many paths now, in one call: statx(2) (4.11; mount ids: 5.8). */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "result.h"
#include "shared.h"

enum { PLACES_FIELDS = 6 };
/* linux/stat.h; older headers lack it, and older kernels leave the field 0 */
enum { PLACES_STATX_MNT_ID = 0x1000, PLACES_MNT_ID_WORD = 18 };

static unsigned long long places_time(const struct statx_timestamp *when)
{
	return (unsigned long long)when->tv_sec * 1000000000ULL + when->tv_nsec;
}

/*
 * `paths`: `count` texts, each with its NUL. `kinds`, one letter each: 'f' what the path leads to, 'l' a link itself,
 * 'c' contents too. Writes for each: error, device, inode, mount, and for 'l' and 'c' the times and size of a change.
 */
SHARED int places_identify(const char *paths, const char *kinds, unsigned int count, unsigned long long *identities)
{
	for (unsigned int i = 0; i < count; i++, paths += strlen(paths) + 1) {
		unsigned long long *found = identities + (size_t)i * PLACES_FIELDS;
		struct statx what;
		memset(found, 0, PLACES_FIELDS * sizeof *found);
		memset(&what, 0, sizeof what);
		int flags = AT_STATX_DONT_SYNC | (kinds[i] == 'l' ? AT_SYMLINK_NOFOLLOW : 0);
		unsigned int mask = STATX_BASIC_STATS | PLACES_STATX_MNT_ID;
		if (syscall(SYS_statx, AT_FDCWD, paths, flags, mask, &what)) {
			found[0] = (unsigned long long)errno;
			continue;
		}
		found[1] = (unsigned long long)what.stx_dev_major << 32 | what.stx_dev_minor;
		found[2] = what.stx_ino;
		if (what.stx_mask & PLACES_STATX_MNT_ID) /* stx_mnt_id, at byte 144 */
			memcpy(found + 3, (const char *)&what + 8 * PLACES_MNT_ID_WORD, sizeof *found);
		if (kinds[i] != 'f') {
			found[4] = places_time(&what.stx_ctime);
			found[5] = what.stx_size;
		}
	}
	return 0;
}

SHARED int places_unchanged(const char *paths, const char *kinds, unsigned int count, const char *identities)
{
	for (unsigned int i = 0; i < count; i++, paths += strlen(paths) + 1) {
		unsigned long long found[PLACES_FIELDS];
		places_identify(paths, kinds + i, 1, found);
		if (memcmp(found, identities + i * sizeof found, sizeof found) != 0)
			return 0;
	}
	return 1;
}

/* When a file was made (realtime clock), of a name or, where that is empty, of what is open; 0: not known. */
SHARED unsigned long long places_born(int folder, const char *path)
{
	struct statx what;
	memset(&what, 0, sizeof what);
	int flags = AT_STATX_DONT_SYNC | AT_SYMLINK_NOFOLLOW | (*path ? 0 : AT_EMPTY_PATH);
	if (syscall(SYS_statx, folder, path, flags, STATX_BTIME, &what) || !(what.stx_mask & STATX_BTIME))
		return 0;
	return places_time(&what.stx_btime);
}
