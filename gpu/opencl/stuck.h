/* stuck.h: devices that do not come back from what was given up: what the executor has to know of
 * those (pool.h), beside what exec_opencl.h says. */
#ifndef TP_STUCK_H
#define TP_STUCK_H

#include "opencl/pool.h"

/* How many launches by hand were given up and still run. Called with the engine's lock held. */
unsigned tp_cl_pool_count_lost(const tp_cl_pool *p);

/* Frees what has ended of what devices did not come back from. Called with p->lock held, or when
 * no other thread uses the pool. */
void tp_cl_pool_reap(tp_cl_pool *p);

#endif
