/* Marks in the sixth argument of an openat, which that call does not have: what the guest's C library (preload/) says to the
 * listener (notify/decide.c). A guest can write any of them: they are its own word, and nothing is decided by them. */
#ifndef PYISOLATE_MARKS_H
#define PYISOLATE_MARKS_H

/* The call is repeated after EMFILE; or, where the fifth argument is a call, that one met it. */
#define NOTIFY_TABLE_FULL 0x70796966
/* A file may not grow (limits.c). */
#define NOTIFY_FILE_SIZE 0x7079697a
/* A file of the workspace finds no room (limits.c). */
#define NOTIFY_NO_SPACE 0x70796973
/* A look-up, named by the fifth argument, found nothing (lookups.c); in the fourth, from this bit on, access's mode. */
#define NOTIFY_LOOKED      0x7079696c
#define NOTIFY_LOOKED_MODE 32

#endif
