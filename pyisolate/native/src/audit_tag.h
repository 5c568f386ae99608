/* Tags of audit events' first arguments: they tie a hook's question to the system call that follows. */
#ifndef PYISOLATE_AUDIT_TAG_H
#define PYISOLATE_AUDIT_TAG_H

#include <Python.h>
#include <stdint.h>
#include <string.h>

#include "asked.h"

/* A name as it goes to the kernel, or NULL. */
static inline const char *audit_name(PyObject *value, Py_ssize_t *length)
{
	const char *text = NULL;

	if (PyBytes_CheckExact(value)) {
		text = PyBytes_AS_STRING(value);
		*length = PyBytes_GET_SIZE(value);
	} else if (PyUnicode_CheckExact(value)) {
		text = PyUnicode_AsUTF8AndSize(value, length);
		if (text == NULL)
			PyErr_Clear(); /* surrogates: the kernel will see other bytes */
	}
	return text;
}

/* Ties the slot to the call that follows: of its path as passed, the length in the top byte xor the last 8 bytes. */
static inline uint64_t audit_tag(PyObject *args)
{
	const char *text = NULL;
	Py_ssize_t length = 0;
	uint64_t tail = 0;

	if (PyTuple_GET_SIZE(args) == 0)
		return 0;
	text = audit_name(PyTuple_GET_ITEM(args, 0), &length);
	if (text == NULL || length == 0)
		return 0;
	Py_ssize_t from = length > 8 ? length - 8 : 0;
	for (Py_ssize_t i = from; i < length; i++)
		tail |= (uint64_t)(unsigned char)text[i] << (8 * (i - from));
	return tail ^ ((uint64_t)length << 56);
}

/* The same of one argument, a name or a descriptor, for the asked page; 0 for anything else. */
static inline uint64_t audit_argument_tag(PyObject *first)
{
	Py_ssize_t length = 0;
	const char *text = audit_name(first, &length);

	if (text != NULL)
		return asked_name_tag(text, (size_t)length);
	if (PyLong_CheckExact(first)) {
		long descriptor = PyLong_AsLong(first);
		if (descriptor >= 0)
			return asked_descriptor_tag((uint32_t)descriptor);
		PyErr_Clear();
	}
	return 0;
}

/* Of what an event about a file is about: its first argument, or both names; of an import, the library's file. */
static inline uint64_t audit_file_tag(const char *event, PyObject *args)
{
	Py_ssize_t count = PyTuple_GET_SIZE(args);

	if (count > 1 && strcmp(event, "import") == 0)
		return audit_argument_tag(PyTuple_GET_ITEM(args, 1));
	uint64_t first = count > 0 ? audit_argument_tag(PyTuple_GET_ITEM(args, 0)) : 0;

	if (count < 2 || (strcmp(event, "os.rename") != 0 && strcmp(event, "os.link") != 0))
		return first;
	return asked_names_tag(first, audit_argument_tag(PyTuple_GET_ITEM(args, 1)));
}

/* Does an answer say that importlib reads a file for an import that is an event? */
static inline int audit_is_imported(long answer)
{
	return (answer >> 8 & ASKED_IMPORTS) && asked_is_file((uint32_t)answer & 0xff);
}

/* The tag that goes with an answer; 0 where it is about no file. */
static inline uint64_t audit_answer_tag(long answer, const char *event, PyObject *args)
{
	int file = asked_is_file((uint32_t)answer & 0xff) || answer >> 8 & ASKED_IMPORTS;

	return file ? audit_file_tag(event, args) : 0;
}

#endif
