/* A table of descriptors of the loop's own, which injectors share. What guests send and open passes through here, files too: the
 * kernel takes a process's record locks on a file when its table loses a descriptor of that file (fcntl(2)), and these locks are
 * the host's where the table is the host's. Nothing of the host's is open here, so that what it closes is closed.
 *
 * A number means another file on either side. What the host hands over is taken from its table (pidfd_getfd; a process may
 * always look into itself), by an order that its thread waits for: then it closes its own. */
#include "loop.h"

#ifndef SYS_close_range
#define SYS_close_range 436
#endif
#define NOTIFY_RANGE_UNSHARE 2U /* CLOSE_RANGE_UNSHARE, linux/close_range.h, 5.9 */

/* The loop's own descriptor of one of the host's, or -errno. */
SHARED int notify_from_host(const notify_listener *l, int fd)
{
	int own = (int)syscall(SYS_pidfd_getfd, l->self, fd, 0);

	return own < 0 ? -errno : own;
}

/* Leave the host's table: 0 or -errno. Not by unshare(2), which container runtimes refuse for what else it can do. */
SHARED int notify_own_table(notify_listener *l)
{
	int last;

	if (syscall(SYS_close_range, 0U, ~0U, NOTIFY_RANGE_UNSHARE))
		return -errno;
	l->self = (int)syscall(SYS_pidfd_open, getpid(), 0);
	/* A C library that writes to descriptor 2 shall meet no guest's: a pidfd takes nothing. */
	for (last = l->self; last >= 0 && last < 2;)
		last = fcntl(l->self, F_DUPFD_CLOEXEC, 0);
	if (last < 0)
		return -errno;
	l->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (l->epoll < 0)
		return -errno;
	l->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
	if (l->timer < 0)
		return -errno;
	l->own_wake = notify_from_host(l, l->wake);
	l->own_drain = notify_from_host(l, l->drain);
	l->own_ask = notify_from_host(l, l->ask);
	if (l->own_wake < 0 || l->own_drain < 0 || l->own_ask < 0)
		return l->own_wake < 0 ? l->own_wake : l->own_drain < 0 ? l->own_drain : l->own_ask;
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = &l->wake_source};
	return epoll_ctl(l->epoll, EPOLL_CTL_ADD, l->own_wake, &event) ? -errno : 0;
}

/* Close all that is left in it, the loop's last act: a thread that was joined may have its table for a moment yet. Where
 * others are left in it, which close what guests left there, what is the loop's alone: the table ends with the last of them. */
SHARED void notify_leave_table(notify_listener *l, int alone)
{
	int own[] = {l->epoll, l->self, l->own_wake, l->own_drain, l->own_ask, l->timer};

	l->epoll = l->self = l->own_wake = l->own_drain = l->own_ask = l->timer = -1;
	if (alone)
		syscall(SYS_close_range, 0U, ~0U, 0U);
	for (size_t i = 0; i < sizeof own / sizeof *own && !alone; i++)
		if (own[i] >= 0)
			close(own[i]);
}

/* Take back an order that the loop has not begun. `lock` is held. */
static int notify_take_back(notify_listener *l, struct notify_order *order)
{
	struct notify_order **at = &l->orders;

	while (*at && *at != order)
		at = &(*at)->next;
	if (!*at)
		return 0;
	if (!order->next)
		l->orders_end = at;
	__atomic_store_n(at, order->next, __ATOMIC_RELEASE);
	return 1;
}

/* Have the loop do something, and wait until it has: its result; -ESRCH where there is no loop (any more), -ETIMEDOUT where it
 * has not come to it: a call of a guest's holds it up (docs/system-calls.md). Never with `lock`. A thread that is under the
 * filter may call this. `wake` is the number that the eventfd has in the table of the calling thread. */
SHARED int notify_have_done(notify_listener *l, int wake, int (*run)(notify_listener *l, void *with), void *with)
{
	struct notify_order order = {.run = run, .with = with, .result = -ESRCH};
	uint64_t end_ns = notify_now() + l->patience_ns;
	struct timespec end = {(time_t)(end_ns / 1000000000U), (long)(end_ns % 1000000000U)};

	pthread_mutex_lock(&l->lock);
	if (l->begun > 0 && !l->ended) {
		__atomic_store_n(l->orders_end, &order, __ATOMIC_RELEASE);
		l->orders_end = &order.next;
		notify_wake_loop(wake);
		while (!order.done)
			if (pthread_cond_timedwait(&l->order_done, &l->lock, &end) == ETIMEDOUT && !order.done) {
				if (notify_take_back(l, &order)) {
					order.result = -ETIMEDOUT;
					break;
				}
				pthread_cond_wait(&l->order_done, &l->lock); /* it has begun, and waits for nothing */
			}
	}
	pthread_mutex_unlock(&l->lock);
	return order.result;
}

static void notify_order_done(notify_listener *l, struct notify_order *order, int result)
{
	pthread_mutex_lock(&l->lock);
	order->result = result;
	order->done = 1; /* its thread's stack has it: not to be looked at from here on */
	pthread_cond_broadcast(&l->order_done);
	pthread_mutex_unlock(&l->lock);
}

/* The order that has waited longest, which can be taken back no more, or NULL. */
static struct notify_order *notify_next_order(notify_listener *l)
{
	pthread_mutex_lock(&l->lock);
	struct notify_order *order = l->orders;
	if (order)
		notify_take_back(l, order);
	pthread_mutex_unlock(&l->lock);
	return order;
}

SHARED void notify_do_orders(notify_listener *l)
{
	for (struct notify_order *order; (order = notify_next_order(l));)
		notify_order_done(l, order, order->run(l, order->with));
}

/* Take no order any more; those that wait fail. */
SHARED void notify_end_orders(notify_listener *l)
{
	pthread_mutex_lock(&l->lock);
	l->ended = 1;
	pthread_mutex_unlock(&l->lock);
	for (struct notify_order *order; (order = notify_next_order(l));)
		notify_order_done(l, order, -ESRCH);
}
