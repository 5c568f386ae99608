/* The notification listener as one unit.
 *
 * Its layers stand here from the ground up, each with a header of what it offers. A file includes the header of its own
 * layer, which includes those below, and no file calls one that calls it (`make house`). notify/notify.h holds what all of
 * them know.
 */

/* notify/facts.h: what a decision is made from */
#include "notify/memory.c"     /* allocation that no fork of a sandbox thread can stop */
#include "notify/aside.c"      /* whose turn it is, and steps that a guest lets wait */
#include "notify/policy.c"     /* rules: which one decides about an address */
#include "notify/target.c"     /* the task that asked: its memory, its users, its signals */
#include "notify/details.c"    /* what a call says besides names */
#include "notify/open_files.c" /* what it has open */
#include "notify/asked.c"      /* whether the guest's broker was asked about a call */
#include "notify/address.c"    /* socket addresses: copied, normalised, never read twice */
#include "notify/own_socket.c" /* unix sockets in a sandbox's workspace */
#include "notify/kin.c"        /* the processes of a cell, and their groups */
#include "notify/met.c"        /* what a call meets under a name */

/* notify/outcome.h: what becomes of a decision */
#include "notify/ring.c"    /* records out, counters */
#include "notify/answer.c"  /* answers */
#include "notify/record.c"  /* records of calls */
#include "notify/outcome.c" /* the record, then the answer: refused, let through, given up */

/* notify/unfinished.h: calls that are not answered at once */
#include "notify/leave.c"    /* descriptors of guests that are to be closed */
#include "notify/message.c"  /* one message, sent from the copy of it */
#include "notify/flight.c"   /* what the supervisor keeps for a guest, and how much it may be */
#include "notify/inject.c"   /* how a call is answered with a descriptor in the guest */
#include "notify/led.c"      /* whose connections to the egress proxy are */
#include "notify/wait.c"     /* operations that cannot finish at once */
#include "notify/stranded.c" /* whose call or wait a thread has in its hands */
#include "notify/question.c" /* calls that wait for the host's answer */

/* notify/calls.h: handlers of calls */
#include "notify/socket.c"   /* socket, setsockopt, connect, bind, listen */
#include "notify/send.c"     /* sendto, sendmsg, sendmmsg */
#include "notify/own.c"      /* what a program opens by a name of a descriptor that it has */
#include "notify/look.c"     /* look-ups of names, which nothing decides */
#include "notify/map.c"      /* files that native code maps to run them */
#include "notify/hidden.c"   /* memory of the kernel's that nothing charges to the guest */
#include "notify/numbered.c" /* calls on a task by its number */
#include "notify/decide.c"   /* dispatch by system call */

/* notify/loop.h: the thread, and what Python calls */
#include "notify/table.c"     /* the table of descriptors that is the loop's own, and what the host has it do */
#include "notify/turns.c"     /* whose turn it is, and who has to rest */
#include "notify/bury.c"      /* what a sandbox leaves */
#include "notify/injectors.c" /* threads that wait for one guest, or close its files */
#include "notify/followers.c" /* threads that lead the loop where its leader waits for a guest */
#include "notify/loop.c"      /* the thread */
#include "notify/page.c"      /* what Python asks of one sandbox */
#include "notify/handed.c"    /* what the host hands over */
#include "notify/api.c"       /* what else Python calls */
