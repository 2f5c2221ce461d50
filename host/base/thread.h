/* thread.h: how all threads of ours begin, and what they wait for each other with. */
#ifndef TP_THREAD_H
#define TP_THREAD_H

#include "base/error.h"

#include <stddef.h>
#include <uv.h>

/* Starts a thread that leaves signals to the program's own threads (base/sigmask.h). stack_bytes 0:
 * the system's default size. Gives 0, or an error of libuv's when there is no thread. Any
 * thread. */
int tp_thread_create(uv_thread_t *thread, size_t stack_bytes, void (*body)(void *), void *arg);

/* Makes a lock, and a condition variable for it; -1 with err set when that fails: then there is
 * neither. */
int tp_lock_open(uv_mutex_t *lock, uv_cond_t *changed, tp_error *err);
void tp_lock_close(uv_mutex_t *lock, uv_cond_t *changed);

#endif
