/* sigmask.c: which signals threads of ours block.
 *
 * The kernel gives a signal that is meant for the process to any thread that does not block it. One thread of ours that leaves SIGTERM open is enough
 * to end a program whose own threads have blocked it for a signalfd or for sigwait. */
#include "base/sigmask.h"

#include <pthread.h>

void tp_sigmask_block(sigset_t *before)
{
    static const int own[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGABRT, SIGPIPE, SIGPROF };
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

void tp_sigmask_get(sigset_t *mask)
{
    pthread_sigmask(SIG_SETMASK, NULL, mask);
}
