/* sigmask.h: what threads of ours do about signals: they leave them to the program's own threads. */
#ifndef TP_SIGMASK_H
#define TP_SIGMASK_H

#include <signal.h>

/* Blocks, for the calling thread and those that it makes from now on, all signals but those that come of what a thread itself does: faults, writing to a
 * pipe that nobody reads, and a profiler's, which asks what runs. *before is the mask so far, for tp_sigmask_set. Any thread. */
void tp_sigmask_block(sigset_t *before);

/* Gives the calling thread that mask; *before, which may be NULL, gets the mask so far. */
void tp_sigmask_set(const sigset_t *mask, sigset_t *before);

/* The calling thread's. */
void tp_sigmask_get(sigset_t *mask);

#endif
