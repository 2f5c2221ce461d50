/* cl_loading.h: OpenCL that is loaded on a thread of its own, beside what else is done: it takes 20
 * to 50 ms, more than a short script. */
#ifndef TP_CL_LOADING_H
#define TP_CL_LOADING_H

#include "opencl/cl.h"

/* A tp_ref: its maker owns it, and so does its thread while it loads. */
typedef struct tp_cl_loading tp_cl_loading;

/* Starts to load, as tp_cl_open does; NULL with err set when no thread can be had. Whoever drops it
 * before it is over need not wait: the thread goes on. But then the process must not end by exit():
 * that calls destructors of the libraries which the thread loads. */
tp_cl_loading *tp_cl_loading_new(const char *library, tp_error *err);

/* Has it been loaded, or failed? Any thread that owns it. */
bool tp_cl_loading_is_over(const tp_cl_loading *l);

/* Waits until it is over. Any thread that owns it. */
void tp_cl_loading_wait(tp_cl_loading *l);

/* What was loaded, which is the caller's from here on; NULL: it is not over, or has failed, or was
 * taken before. One thread that owns it at a time. */
tp_cl *tp_cl_loading_take(tp_cl_loading *l);

#endif
