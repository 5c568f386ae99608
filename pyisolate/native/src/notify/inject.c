/* A call is answered with a descriptor in the guest: by an injector, which may wait for the guest's task. */
#include "parts.h"

/* Answer the call with a descriptor in the guest, of the file of ours. */
SHARED void notify_give_fd(const struct notify_job *job, int fd, int close_on_exec)
{
	struct notify_sandbox *s = job->sandbox;
	struct seccomp_notif_addfd add = {
		.id = job->id,
		.flags = SECCOMP_ADDFD_FLAG_SEND,
		.srcfd = (uint32_t)fd,
		.newfd_flags = close_on_exec ? O_CLOEXEC : 0,
	};
	int number = ioctl(s->fd, SECCOMP_IOCTL_NOTIF_ADDFD, &add);
	if (number < 0 && errno == EINVAL) { /* before 5.14: two steps */
		add.flags = 0;
		number = ioctl(s->fd, SECCOMP_IOCTL_NOTIF_ADDFD, &add);
		if (number >= 0)
			notify_answer(s, job->id, number, 0, 0);
	}
	if (number < 0)
		notify_answer(s, job->id, 0, -errno, 0); /* EMFILE: the guest's own limit */
}

/* ADDFD waits until the guest's task ran, and one that others starve of processor time (a quota, SCHED_IDLE) may not run
 * for seconds: an injector waits, which has nothing else to do. */
SHARED void notify_ask_injector(const struct notify_call *c, int domain, int kind, int protocol)
{
	notify_listener *l = c->l;
	struct notify_job *job = __atomic_exchange_n(&l->spare_job, NULL, __ATOMIC_ACQUIRE), **end = &l->jobs;

	if (!job && !(job = notify_alloc(1, sizeof *job))) {
		if (domain == NOTIFY_JOB_FILE)
			close(protocol);
		notify_result(c, -ENOMEM);
		return;
	}
	*job = (struct notify_job){
		.sandbox = c->sandbox,
		.id = c->id,
		.domain = domain,
		.kind = kind,
		.protocol = protocol,
		.tid = c->tid,
		.pid = domain < 0 ? notify_pid(c->sandbox, c->tid) : 0,
	};
	__atomic_add_fetch(&c->sandbox->jobs, 1, __ATOMIC_ACQ_REL);
	pthread_mutex_lock(&l->job_lock);
	while (*end)
		end = &(*end)->next;
	*end = job;
	pthread_cond_signal(&l->job_ready);
	pthread_mutex_unlock(&l->job_lock);
}
