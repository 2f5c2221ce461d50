/* waiter.h: sleeping until a queue's commands have run, or one of them.
 *
 * Some drivers spin in clFinish, as long as the commands take. So a thread first sleeps until the
 * driver calls back, and calls clFinish when there is nothing left to wait for. */
#ifndef TP_WAITER_H
#define TP_WAITER_H

#include "base/ref.h"
#include "opencl/cl.h"

#include <stdbool.h>

/* For one thread at a time. Owners: who waits with it, and the driver while it may call back. */
typedef struct tp_queue_waiter tp_queue_waiter;

/* NULL with err set when that fails. To be dropped (tp_ref_drop). */
tp_queue_waiter *tp_queue_waiter_new(tp_error *err);

/* Sleeps until all commands of the queue have run or failed; does not sleep at all where the driver
 * cannot call back. */
void tp_queue_waiter_wait(tp_queue_waiter *w, const tp_cl *cl, cl_command_queue queue);

/* The same for one of its commands, of which this is the event. */
void tp_queue_waiter_wait_for(tp_queue_waiter *w, const tp_cl *cl, cl_command_queue queue,
                              cl_event event);

/* Waits until a command has run or failed, whose queue was flushed. Asks now and then whether that
 * is given up: false, if so. `is_given_up`: NULL, to wait in any case. */
bool tp_wait_patiently(const tp_cl *cl, cl_event event, bool (*is_given_up)(void *user),
                       void *user);

#endif
