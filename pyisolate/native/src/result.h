/* One convention for every function here: a result >= 0, or -errno. Python turns it into OSError in one place. */
#ifndef PYISOLATE_RESULT_H
#define PYISOLATE_RESULT_H

#include <errno.h>

static inline int result_of(long value)
{
	return value < 0 ? -errno : (int)value;
}

#endif
