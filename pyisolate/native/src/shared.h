/* SHARED marks a function that another file, or Python through cffi, calls.
 *
 * The extension is one translation unit, where all functions are static: nothing leaves the object, and the compiler
 * sees every caller. Alone, each file compiles with external linkage, so that clangd, clang-tidy and cppcheck see code
 * and not errors (`make lint` compiles each so).
 */
#ifndef PYISOLATE_SHARED_H
#define PYISOLATE_SHARED_H

#ifdef PYISOLATE_ONE_UNIT
#define SHARED static
#else
#define SHARED
#endif

#endif
