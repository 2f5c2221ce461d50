/* thread.h: how all threads of ours begin. */
#ifndef TP_THREAD_H
#define TP_THREAD_H

#include <stddef.h>
#include <uv.h>

/* Starts a thread that leaves signals to the program's own threads (base/sigmask.h). stack_bytes 0:
 * the system's default size. Gives 0, or an error of libuv's when there is no thread. Any
 * thread. */
int tp_thread_create(uv_thread_t *thread, size_t stack_bytes, void (*body)(void *), void *arg);

#endif
