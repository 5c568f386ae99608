/* A side of known exchanges over TLS: the same as recv(2) and send(2), by the interpreter's own ssl module, which made the
 * handshake and verified the host. Its objects are called by their documented methods: ssl.SSLObject's read, write and
 * pending, ssl.MemoryBIO's read, write and pending.
 *
 * Each call takes the interpreter's lock, so sides over TLS belong to tunnels without a thread (`tunnels_turn`). The objects
 * are kept by who adds the tunnel, until it is over.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <Python.h>
#include <errno.h>
#include <stdint.h>
#include <sys/socket.h>

#include "tunnels.h"

/* What is read of a socket at a time for a look at what TLS says for itself. */
enum { OVER_TLS_LOOK_BYTES = TUNNELS_RAW_BYTES / 4 };

/* ssl.SSLWantReadError, and the methods' names; once, for good. */
static PyObject *over_tls_wants, *over_tls_read, *over_tls_write, *over_tls_pending;

/* Know the exception that says that a record is not whole. Returns 0 or -ENOMEM. */
SHARED int over_tls_prepare(uintptr_t wants)
{
	PyGILState_STATE lock = PyGILState_Ensure();
	int result = 0;

	if (!over_tls_wants) {
		over_tls_read = PyUnicode_InternFromString("read");
		over_tls_write = PyUnicode_InternFromString("write");
		over_tls_pending = PyUnicode_InternFromString("pending");
		if (over_tls_read && over_tls_write && over_tls_pending)
			over_tls_wants = Py_NewRef((PyObject *)wants);
		else
			result = -ENOMEM;
		PyErr_Clear();
	}
	PyGILState_Release(lock);
	return result;
}

/* Return a number that the interpreter computed, and let go of it; -1 with an exception. */
static Py_ssize_t over_tls_number(PyObject *made)
{
	if (!made)
		return -1;
	Py_ssize_t number = PyLong_AsSsize_t(made);
	Py_DECREF(made);
	return number;
}

/* Give `data` to a `write`: how much it took, -1 with an exception. */
static Py_ssize_t over_tls_give(PyObject *to, const unsigned char *data, size_t size)
{
	PyObject *view = PyMemoryView_FromMemory((char *)data, (Py_ssize_t)size, PyBUF_READ);
	PyObject *taken = view ? PyObject_CallMethodOneArg(to, over_tls_write, view) : NULL;

	Py_XDECREF(view);
	return over_tls_number(taken);
}

/* Read what one record has inside: how much, 0 at the end, -1 with an exception. */
static Py_ssize_t over_tls_record(PyObject *tls, unsigned char *data, size_t room)
{
	PyObject *size = PyLong_FromSize_t(room);
	PyObject *view = PyMemoryView_FromMemory((char *)data, (Py_ssize_t)room, PyBUF_WRITE);
	PyObject *given[] = {tls, size, view}, *got = NULL;

	if (size && view)
		got = PyObject_VectorcallMethod(over_tls_read, given, 3, NULL);
	Py_XDECREF(size);
	Py_XDECREF(view);
	return over_tls_number(got);
}

/* Whether records wait that have come whole, or in part. A failed look counts as yes: reading meets the error. */
static int over_tls_waits(const struct tunnels_tls *t)
{
	Py_ssize_t raw = over_tls_number(PyObject_GetAttr((PyObject *)t->incoming, over_tls_pending));

	if (!raw)
		raw = over_tls_number(PyObject_CallMethodNoArgs((PyObject *)t->object, over_tls_pending));
	PyErr_Clear();
	return raw != 0;
}

/* Return all that is inside of `came` bytes, and of what came before; -1: nothing yet. The end, or what cannot be read, is
 * noted. */
static ssize_t over_tls_open(struct tunnels_side *s, const unsigned char *raw, size_t came, unsigned char *data,
			     size_t room)
{
	const struct tunnels_tls *t = &s->tls;
	size_t found = 0;

	if (over_tls_give((PyObject *)t->incoming, raw, came) != (Py_ssize_t)came) {
		s->tls_ended = 1;
	} else {
		do { /* OpenSSL gives one record at a time; without a look one more read would fail, which costs more */
			Py_ssize_t got = over_tls_record((PyObject *)t->object, data + found, room - found);
			if (got < 0 && PyErr_ExceptionMatches(over_tls_wants)) {
				PyErr_Clear();
				return found ? (ssize_t)found : -1;
			}
			s->tls_ended = got <= 0;
			found += got > 0 ? (size_t)got : 0;
		} while (!s->tls_ended && over_tls_waits(t));
	}
	PyErr_Clear();
	return (ssize_t)found;
}

/* Send what TLS says to `to` for itself or for others, after what came before. Returns 0 or -errno. */
static int over_tls_flush(struct tunnels_side *from, const struct tunnels_side *to)
{
	PyObject *records = PyObject_CallMethodNoArgs((PyObject *)to->tls.outgoing, over_tls_read);
	char *bytes;
	Py_ssize_t size;
	int result = -EIO;

	if (records && !PyBytes_AsStringAndSize(records, &bytes, &size))
		result = size ? sides_send(from, to->fd, (unsigned char *)bytes, (size_t)size) : 0;
	Py_XDECREF(records);
	PyErr_Clear();
	return result;
}

/* As recv(2): what is inside of what came, EAGAIN where that is nothing yet, 0 at the end and for what cannot be read. No
 * whole record is left in OpenSSL. `raw` has room for what is read of the socket, `data` for a record more. */
SHARED ssize_t over_tls_recv(struct tunnels_side *s, unsigned char *raw, size_t most, unsigned char *data)
{
	struct tunnels_side *other = &s->tunnel->sides[s == &s->tunnel->sides[0]];
	ssize_t came = recv(s->fd, raw, most, MSG_DONTWAIT);

	if (came <= 0)
		return came;
	PyGILState_STATE lock = PyGILState_Ensure();
	ssize_t found = over_tls_open(s, raw, (size_t)came, data, most + SIDES_RECORD_BYTES);
	/* TLS may have an answer of its own; where older bytes wait to be sent it goes with the next write */
	if (found < 0 && !other->left && over_tls_flush(other, s))
		found = 0;
	PyGILState_Release(lock);
	if (found < 0)
		errno = EAGAIN;
	return found;
}

/* As `sides_send`, over the TLS of the side that it goes to. */
SHARED int over_tls_send(struct tunnels_side *from, const struct tunnels_side *to, const unsigned char *data,
			 size_t size)
{
	PyGILState_STATE lock = PyGILState_Ensure();
	int result = 0;

	while (!result && size) { /* OpenSSL may take a record at a time */
		Py_ssize_t taken = over_tls_give((PyObject *)to->tls.object, data, size);
		if (taken <= 0)
			result = -EIO;
		else
			data += taken, size -= (size_t)taken;
	}
	PyErr_Clear();
	if (!result)
		result = over_tls_flush(from, to);
	PyGILState_Release(lock);
	return result;
}

/* Whether there is nothing to read of a side that rests, but what TLS says for itself. */
SHARED int over_tls_rests(struct tunnels_side *s, unsigned char *raw)
{
	if (sides_rests(s->fd))
		return 1;
	if (over_tls_recv(s, raw, OVER_TLS_LOOK_BYTES, raw + TUNNELS_RAW_BYTES / 2) >= 0 || errno != EAGAIN)
		return 0;
	return sides_rests(s->fd);
}
