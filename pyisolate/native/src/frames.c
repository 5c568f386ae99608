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
#include <stdlib.h>
#include <string.h>

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

/* Within a call that is not traced: call what is the guest's own, which is. */
static PyObject *frames_call_traced(PyObject *function, PyObject *positional, PyObject *named)
{
	PyThreadState *own = PyThreadState_Get();
	int within = own->tracing > 0;

	if (within)
		PyThreadState_LeaveTracing(own);
	PyObject *result = PyObject_Call(function, positional, named);
	if (within)
		PyThreadState_EnterTracing(own);
	return result;
}

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
	PyObject *result = frames_call_traced(function, positional, named);

	FRAMES_LEFT(state) -= used; /* whatever the limit is now: sys.setrecursionlimit() keeps the depth */
	frames_own_limit(used);
	FRAMES_NEWEST(state) = below;
#else
	PyObject *result = frames_call_traced(function, positional, named);
#endif
	Py_XDECREF(none);
	return result;
}

static PyMethodDef frames_method = {
	"call_apart", frames_call_apart, METH_VARARGS,
	"call_apart(function, args=(), kwargs={}): call a function that sees no frame below its own."};

/* Call a function: what it does is no code of who traces or profiles, as around an audit hook. */
static PyObject *frames_untraced_call(PyObject *function, PyObject *arguments, PyObject *named)
{
	PyThreadState *own = PyThreadState_Get();

	PyThreadState_EnterTracing(own);
	PyObject *result = PyObject_Call(function, arguments, named);
	PyThreadState_LeaveTracing(own);
	return result;
}

/* What a stand-in is made of. It lies in the state of a module, which is the function's `__self__`: a function of C has one,
 * by its name it is pickled, and nothing of it is handed out. */
struct frames_stand_in {
	PyObject *function, *then;
	PyMethodDef method;
	char *name, *doc;
};

static int frames_stand_in_traverse(PyObject *self, visitproc visit, void *arg)
{
	struct frames_stand_in *in = PyModule_GetState(self);

	if (in != NULL) {
		Py_VISIT(in->function);
		Py_VISIT(in->then);
	}
	return 0;
}

static int frames_stand_in_clear(PyObject *self)
{
	struct frames_stand_in *in = PyModule_GetState(self);

	if (in != NULL) {
		Py_CLEAR(in->function);
		Py_CLEAR(in->then);
	}
	return 0;
}

static void frames_stand_in_free(void *self)
{
	struct frames_stand_in *in = PyModule_GetState(self);

	frames_stand_in_clear(self);
	if (in != NULL) {
		free(in->name);
		free(in->doc);
	}
}

static struct PyModuleDef frames_stand_in_def = {PyModuleDef_HEAD_INIT,
						 .m_name = "stand_in",
						 .m_size = sizeof(struct frames_stand_in),
						 .m_traverse = frames_stand_in_traverse,
						 .m_clear = frames_stand_in_clear,
						 .m_free = frames_stand_in_free};

static PyObject *frames_stand_in_call(PyObject *self, PyObject *arguments, PyObject *named)
{
	struct frames_stand_in *in = PyModule_GetState(self);

	if (in->function == NULL) { /* taken apart with what refers to it */
		PyErr_SetString(PyExc_RuntimeError, "a function that is collected cannot be called");
		return NULL;
	}
	PyObject *function = Py_NewRef(in->function), *then = Py_XNewRef(in->then);
	PyObject *result = frames_untraced_call(function, arguments, named);

	if (result != NULL && then != NULL) {
		Py_DECREF(result);
		result = PyObject_Call(then, arguments, named);
	}
	Py_DECREF(function);
	Py_XDECREF(then);
	return result;
}

static PyObject *frames_stand_in(PyObject *self, PyObject *arguments)
{
	PyObject *function, *then, *module, *made = NULL;
	const char *name, *doc;
	int method;

	(void)self;
	if (!PyArg_ParseTuple(arguments, "OOsOzp", &function, &then, &name, &module, &doc, &method))
		return NULL;
	PyObject *held = PyModule_Create(&frames_stand_in_def);
	if (held == NULL)
		return NULL;
	struct frames_stand_in *in = PyModule_GetState(held);

	in->function = Py_NewRef(function);
	in->then = then == Py_None ? NULL : Py_NewRef(then);
	in->name = strdup(name);
	in->doc = doc == NULL ? NULL : strdup(doc);
	if (in->name == NULL || (doc != NULL && in->doc == NULL)) {
		PyErr_NoMemory();
	} else {
		in->method.ml_name = in->name;
		in->method.ml_doc = in->doc;
		in->method.ml_meth = (PyCFunction)(void (*)(void))frames_stand_in_call;
		in->method.ml_flags = METH_VARARGS | METH_KEYWORDS;
		made = PyCFunction_NewEx(&in->method, held, module);
	}
	Py_DECREF(held);
	if (made != NULL && method) {
		PyObject *bound = PyInstanceMethod_New(made);

		Py_DECREF(made);
		made = bound;
	}
	return made;
}

static PyMethodDef frames_stand_in_method = {
	"stand_in", frames_stand_in, METH_VARARGS,
	"stand_in(function, then, name, module, doc, method): return a function of C that calls the first, in which no "
	"tracer "
	"and no profiler sees a frame, and then the other, unless it is None, with the same arguments."};

static PyObject *frames_traced(PyObject *self, PyObject *arguments, PyObject *named)
{
	(void)self;
	if (PyTuple_GET_SIZE(arguments) < 1) {
		PyErr_SetString(PyExc_TypeError, "traced: needs a function");
		return NULL;
	}
	PyObject *rest = PyTuple_GetSlice(arguments, 1, PyTuple_GET_SIZE(arguments));
	if (rest == NULL)
		return NULL;
	PyObject *result = frames_call_traced(PyTuple_GET_ITEM(arguments, 0), rest, named);

	Py_DECREF(rest);
	return result;
}

static PyMethodDef frames_traced_method = {
	"traced", (PyCFunction)(void (*)(void))frames_traced, METH_VARARGS | METH_KEYWORDS,
	"traced(function, *args, **kwargs): call it; tracers and profilers see it, also within a stand-in."};

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
		result = frames_add_one(into, &frames_stand_in_method);
	if (result == 0)
		result = frames_add_one(into, &frames_traced_method);
	Py_XDECREF(into);
	Py_XDECREF(name);
	PyErr_Clear();
	PyGILState_Release(gil);
	return result;
}
