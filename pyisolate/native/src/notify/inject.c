/* A call is answered with a descriptor in the guest: by an injector, which may wait for the guest's task. */
#include "unfinished.h"

/* Say to a thread of the host's whether what it ordered was done. Takes the socket; -1: no thread waits. */
SHARED void notify_say(int heard, int done)
{
	char byte = (char)done;

	if (heard < 0)
		return;
	send(heard, &byte, 1, MSG_NOSIGNAL | MSG_DONTWAIT);
	close(heard);
}

/* Answer the call with a descriptor in the guest, of the file of ours: 1 where the guest has it. */
SHARED int notify_give_fd(const struct notify_job *job, int fd, int close_on_exec)
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
	return number >= 0;
}

/* Answer open(2) with a file that is emptied: not before the guest has it, because a call that was given up empties nothing,
 * and before it returns. 1 where the guest has it. */
static int notify_give_emptied(const struct notify_job *job)
{
	struct seccomp_notif_addfd add = {
		.id = job->id,
		.srcfd = (uint32_t)job->protocol,
		.newfd_flags = job->kind & O_CLOEXEC ? O_CLOEXEC : 0,
	};
	int number = ioctl(job->sandbox->fd, SECCOMP_IOCTL_NOTIF_ADDFD, &add), result = number;

	if (number < 0 || ftruncate(job->protocol, 0))
		result = -errno;
	notify_answer(job->sandbox, job->id, result < 0 ? 0 : result, result < 0 ? result : 0, 0);
	return number >= 0;
}

SHARED int notify_give_file(notify_listener *l, const struct notify_job *job)
{
	int given = job->kind & O_TRUNC ? notify_give_emptied(job)
					: notify_give_fd(job, job->protocol, job->kind & O_CLOEXEC);

	notify_close_later(l, job->sandbox, job->protocol);
	return given;
}

/* ADDFD waits until the guest's task ran, and one that others starve of processor time (a quota, SCHED_IDLE) may not run
 * for seconds: an injector waits, which has nothing else to do. */
SHARED void notify_ask_injector(const struct notify_call *c, int domain, int kind, int protocol, int heard)
{
	notify_listener *l = c->l;
	struct notify_job *job = __atomic_exchange_n(&l->spare_job, NULL, __ATOMIC_ACQUIRE), **end = &l->jobs;

	if (!job && !(job = notify_alloc(1, sizeof *job))) {
		if (domain == NOTIFY_JOB_FILE)
			notify_close_later(l, c->sandbox, protocol);
		notify_say(heard, 0);
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
		.heard = heard,
	};
	__atomic_add_fetch(&c->sandbox->jobs, 1, __ATOMIC_ACQ_REL);
	pthread_mutex_lock(&l->job_lock);
	while (*end)
		end = &(*end)->next;
	*end = job;
	pthread_cond_signal(&l->job_ready);
	pthread_mutex_unlock(&l->job_lock);
}
