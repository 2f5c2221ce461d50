/* sigmask.c: which signals our threads block.
 *
 * The kernel gives a signal that is meant for the process to any thread that does not block it. If
 * only one of our threads leaves SIGTERM open, it ends a program whose own threads have blocked the
 * signal for a signalfd or for sigwait. */
#include "base/sigmask.h"

#include <pthread.h>

void tp_sigmask_block(sigset_t *before)
{
    static const int own[] = { SIGSEGV, SIGBUS,  SIGFPE,  SIGILL, SIGTRAP,
                               SIGSYS,  SIGABRT, SIGPIPE, SIGPROF };
    sigset_t blocked;
    sigfillset(&blocked);
    for (unsigned i = 0; i < sizeof own / sizeof *own; i++)
        sigdelset(&blocked, own[i]);
    pthread_sigmask(SIG_BLOCK, &blocked, before);
}

void tp_sigmask_set(const sigset_t *mask, sigset_t *before)
{
    pthread_sigmask(SIG_SETMASK, mask, before);
}

void tp_sigmask_block_pipe(void)
{
    sigset_t pipe;
    sigemptyset(&pipe);
    sigaddset(&pipe, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &pipe, NULL);
}

void tp_sigmask_get(sigset_t *mask)
{
    pthread_sigmask(SIG_SETMASK, NULL, mask);
}
