/* sigmask.h: our threads leave signals to the program's own threads. */
#ifndef TP_SIGMASK_H
#define TP_SIGMASK_H

#include <signal.h>

/* Blocks signals for the calling thread and for threads that it makes from now on, except those
 * that a thread causes itself (faults, SIGABRT, SIGPIPE) and a profiler's SIGPROF. *before is the
 * mask so far, for tp_sigmask_set. Any thread. */
void tp_sigmask_block(sigset_t *before);

/* Gives the calling thread that mask; *before, which may be NULL, gets the mask so far. */
void tp_sigmask_set(const sigset_t *mask, sigset_t *before);

/* Blocks SIGPIPE, too: for a thread whose libraries write to sockets that others may close. */
void tp_sigmask_block_pipe(void);

/* The calling thread's mask. */
void tp_sigmask_get(sigset_t *mask);

#endif
