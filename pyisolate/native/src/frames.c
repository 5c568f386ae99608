/* Calls with no Python frame below: what a guest sees of the stack (f_back, traceback.print_stack, inspect.stack,
 * faulthandler, a warning's stacklevel) begins with its own code, as in an interpreter that runs it alone.
 *
 * The newest frame of a thread is a field of its state, which the interpreter saves when it begins to run code and puts
 * back when that ends (Python/ceval.c); greenlet starts its stacks in the same way. The thread state, and with it
 * signals and thread-local data, stays what it is. 3.11 and 3.12 keep the field in `cframe`. What is below does not count
 * for sys.getrecursionlimit() either, and a guest's low limit is not the runtime's; the builtin that runs a script's code is the one call of C that counts there.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <Python.h>
#include <errno.h>

#include "shared.h"

#if PY_VERSION_HEX < 0x030C0000
#define FRAMES_LEFT(state)  ((state)->recursion_remaining)
#define FRAMES_LIMIT(state) ((state)->recursion_limit)
#else
#define FRAMES_LEFT(state)  ((state)->py_recursion_remaining)
#define FRAMES_LIMIT(state) ((state)->py_recursion_limit)
#endif
#if PY_VERSION_HEX < 0x030D0000
#define FRAMES_NEWEST(state) ((state)->cframe->current_frame)
#elif PY_VERSION_HEX < 0x030E0000
#define FRAMES_NEWEST(state) ((state)->current_frame)
#endif

#ifdef FRAMES_NEWEST
#define FRAMES_OWN 1000 /* what the code below has for itself: the interpreter's default limit */

static int frames_lowered, frames_raised; /* the guest's limit while that code runs, and what stands in its place */

static void frames_guests_limit(void)
{
	if (frames_lowered && Py_GetRecursionLimit() == frames_raised) /* no thread of the guest has set another one */
		Py_SetRecursionLimit(frames_lowered);
	frames_lowered = 0;
}

static void frames_own_limit(int used)
{
	int limit = Py_GetRecursionLimit();

	if (limit >= used + FRAMES_OWN / 2)
		return;
	frames_lowered = limit;
	frames_raised = used + FRAMES_OWN;
	Py_SetRecursionLimit(frames_raised);
}
#endif

static PyObject *frames_call_apart(PyObject *self, PyObject *arguments)
{
	PyObject *function, *positional = NULL, *named = NULL, *none = NULL;

	(void)self;
	if (!PyArg_ParseTuple(arguments, "O|O!O!", &function, &PyTuple_Type, &positional, &PyDict_Type, &named))
		return NULL;
	if (positional == NULL && (positional = none = PyTuple_New(0)) == NULL)
		return NULL;
#ifdef FRAMES_NEWEST
	PyThreadState *state = PyThreadState_Get();
	struct _PyInterpreterFrame *below = FRAMES_NEWEST(state);
	int used = FRAMES_LIMIT(state) - FRAMES_LEFT(state);

	frames_guests_limit();
	FRAMES_NEWEST(state) = NULL;
	FRAMES_LEFT(state) += used;
	PyObject *result = PyObject_Call(function, positional, named);

	FRAMES_LEFT(state) -= used; /* whatever the limit is now: sys.setrecursionlimit() keeps the depth */
	frames_own_limit(used);
	FRAMES_NEWEST(state) = below;
#else
	PyObject *result = PyObject_Call(function, positional, named);
#endif
	Py_XDECREF(none);
	return result;
}

static PyMethodDef frames_method = {
	"call_apart", frames_call_apart, METH_VARARGS,
	"call_apart(function, args=(), kwargs={}): call a function that sees no frame below its own."};

/* `self` is the function that is called: what it does is no code of who traces or profiles, as around an audit hook. */
static PyObject *frames_untraced_call(PyObject *self, PyObject *arguments, PyObject *named)
{
	PyThreadState *own = PyThreadState_Get();

	PyThreadState_EnterTracing(own);
	PyObject *result = PyObject_Call(self, arguments, named);
	PyThreadState_LeaveTracing(own);
	return result;
}

static PyMethodDef frames_untraced_method = {"untraced", (PyCFunction)(void (*)(void))frames_untraced_call,
					     METH_VARARGS | METH_KEYWORDS, NULL};

static PyObject *frames_untraced(PyObject *self, PyObject *function)
{
	(void)self;
	return PyCFunction_New(&frames_untraced_method, function);
}

static PyMethodDef frames_untraced_maker = {
	"untraced", frames_untraced, METH_O,
	"untraced(function): return one that calls it, in which no tracer and no profiler sees a frame."};

static int frames_add_one(PyObject *into, PyMethodDef *method)
{
	PyObject *function = PyCFunction_New(method, NULL);
	int result = function == NULL ? -ENOMEM : 0;

	if (result == 0 && into != NULL && PyObject_SetAttrString(into, method->ml_name, function) < 0)
		result = -ENOMEM;
	Py_XDECREF(function);
	return result;
}

SHARED int frames_add(const char *module)
{
	PyGILState_STATE gil = PyGILState_Ensure(); /* of the main interpreter, whichever calls */
	PyObject *name = PyUnicode_FromString(module);
	PyObject *into = name == NULL ? NULL : PyImport_GetModule(name);
	int result = name == NULL ? -ENOMEM : frames_add_one(into, &frames_method);

	if (result == 0)
		result = frames_add_one(into, &frames_untraced_maker);
	Py_XDECREF(into);
	Py_XDECREF(name);
	PyErr_Clear();
	PyGILState_Release(gil);
	return result;
}
