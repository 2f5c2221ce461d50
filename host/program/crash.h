/* crash.h: reports which input was running when a bug in native code ends the process. Part of the
 * binary only. */
#ifndef TP_CRASH_H
#define TP_CRASH_H

/* From now on a signal of such a bug (SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT) is reported on
 * standard error, with the input that ran, before it ends the process as it would have. Signals
 * that have another handler already are left alone. */
void tp_crash_catch(void);

#endif
