/* System calls without the C library, whose `errno` is the caller's: for a process that shares another one's memory. */
#ifndef PYISOLATE_RAW_CALL_H
#define PYISOLATE_RAW_CALL_H

#include <linux/sched.h>
#include <sys/syscall.h>

static inline long raw_call(long number, long a, long b, long c, long d, long e)
{
#if defined(__x86_64__)
	long result;
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
			 : "rcx", "r11", "memory");
	return result;
#elif defined(__aarch64__)
	register long x8 __asm__("x8") = number;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	register long x4 __asm__("x4") = e;
	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4) : "memory");
	return x0;
#else
#error "pyisolate knows the system calls of x86-64 and aarch64 only"
#endif
}

/* clone3(2) of a process that shares the memory, with a stack of its own, where it calls `run`, which never returns: the C
 * library has no such function. Returns its process id, or -errno. */
static inline long raw_clone3(const struct clone_args *arguments, void (*run)(void *), void *argument)
{
#if defined(__x86_64__)
	long result;
	register void (*r8)(void *) __asm__("r8") = run;
	register void *r9 __asm__("r9") = argument;
	__asm__ volatile("syscall\n\t"
			 "test %%rax, %%rax\n\t"
			 "jnz 1f\n\t"
			 "xor %%ebp, %%ebp\n\t"
			 "mov %%r9, %%rdi\n\t"
			 "call *%%r8\n\t"
			 "hlt\n"
			 "1:"
			 : "=a"(result)
			 : "a"(SYS_clone3), "D"(arguments), "S"(sizeof *arguments), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory", "cc");
	return result;
#else
	register long x8 __asm__("x8") = SYS_clone3;
	register long x0 __asm__("x0") = (long)arguments;
	register long x1 __asm__("x1") = sizeof *arguments;
	register void (*x2)(void *) __asm__("x2") = run;
	register void *x3 __asm__("x3") = argument;
	__asm__ volatile("svc 0\n\t"
			 "cbnz x0, 1f\n\t"
			 "mov x29, xzr\n\t"
			 "mov x0, x3\n\t"
			 "blr x2\n\t"
			 "brk 1\n"
			 "1:"
			 : "+r"(x0)
			 : "r"(x8), "r"(x1), "r"(x2), "r"(x3)
			 : "memory", "cc");
	return x0;
#endif
}

#define RAW_CALL(number, a, b, c, d) raw_call((number), (long)(a), (long)(b), (long)(c), (long)(d), 0)

#endif
