/* One thread at a time runs the loop: it leads, and has the turn. Some steps take a lock that a guest may hold for seconds
 * (of its memory, a socket, an epoll file, a directory), or wait for a page of its memory: for such a step the leader gives the
 * turn away. Where that takes long another thread leads (followers.c), and the stranded one finishes its call by itself.
 *
 * All of the listener's state belongs to who has the turn, but for what `lock` and `job_lock` guard. A sandbox that a thread is
 * stranded in belongs to that thread: the others leave alone its waits, its flights and its descriptors. In a step aside nothing
 * is touched but that sandbox, what it has, and the thread's own desk. Never with `lock` or `job_lock`: the turn comes first. */
#include "facts.h"

SHARED struct notify_desk *notify_step_aside(notify_listener *l)
{
	struct notify_desk *desk = l->desk;

	if (desk == l->leader) {
		l->aside = 1;
		l->steps++;
	}
	pthread_mutex_unlock(&l->turn);
	return desk;
}

SHARED void notify_step_back(notify_listener *l, struct notify_desk *desk)
{
	pthread_mutex_lock(&l->turn);
	l->desk = desk;
	if (desk == l->leader) {
		l->aside = 0;
		return;
	}
	pthread_mutex_lock(&l->lock);
	desk->stale |= desk->sandbox->stopped || desk->sandbox->policy != desk->policy;
	pthread_mutex_unlock(&l->lock);
}

/* Was its sandbox stopped, or did it get another policy, while a thread was stranded in this call? What was read and judged
 * before is of no use then, and the call is answered as an interrupted one, which is made again. */
SHARED int notify_is_stale(const struct notify_call *c)
{
	return c->desk && c->desk->stale;
}
