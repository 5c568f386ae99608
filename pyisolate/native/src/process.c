/* clone3(2) as a Python-aware fork, with a pidfd and optionally straight into a cgroup.
 *
 * glibc's fork() cannot take CLONE_* flags, so what it does for the child is done here where it matters to us:
 *   - the cached thread id in the thread control block (CLONE_CHILD_SETTID at the address the kernel already knows),
 *   - the robust-futex list head (the kernel drops it on clone).
 * glibc's malloc locks are not taken: call this from a single-threaded process only (the zygote is one).
 */
#include <Python.h>
#include <errno.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef PR_GET_TID_ADDRESS /* linux/prctl.h, 3.5 */
#define PR_GET_TID_ADDRESS 40
#endif

/* linux/sched.h, struct clone_args: CLONE_ARGS_SIZE_VER2 (5.7, has cgroup) */
struct process_clone_args {
    uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup;
};

static int process_clone_cell(unsigned long long flags, int cgroup_fd, int *pidfd)
{
    struct process_clone_args args = {0};
    void *tid_address = NULL, *robust_list = NULL;
    size_t robust_size = 0;

    args.flags = flags | CLONE_PIDFD;
    args.pidfd = (uint64_t)(uintptr_t)pidfd;
    args.exit_signal = SIGCHLD;
    if (cgroup_fd >= 0) {
        args.flags |= 0x200000000ULL; /* CLONE_INTO_CGROUP, 5.7 */
        args.cgroup = (uint64_t)cgroup_fd;
    }
    /* Needs CONFIG_CHECKPOINT_RESTORE; without it the cached tid stays the parent's, which only PI mutexes notice. */
    if (prctl(PR_GET_TID_ADDRESS, &tid_address) == 0 && tid_address != NULL) {
        args.flags |= CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID;
        args.child_tid = (uint64_t)(uintptr_t)tid_address;
    }
    syscall(SYS_get_robust_list, 0, &robust_list, &robust_size);

    PyGILState_STATE gil = PyGILState_Ensure();
    PyOS_BeforeFork();
    long pid = syscall(SYS_clone3, &args, sizeof args);
    int error = errno;
    if (pid == 0) {
        if (robust_list != NULL)
            syscall(SYS_set_robust_list, robust_list, robust_size);
        PyOS_AfterFork_Child();
    } else {
        PyOS_AfterFork_Parent();
    }
    PyGILState_Release(gil);
    return pid < 0 ? -error : (int)pid;
}
