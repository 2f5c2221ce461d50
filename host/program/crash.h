/* crash.h: last words of a process that a bug in native code ends. Part of the binary only. */
#ifndef TP_CRASH_H
#define TP_CRASH_H

/* From now on a signal that such a bug raises (SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT) is told of on standard error, with the input that ran, before it ends the
 * process as it would have. Signals that somebody else takes stay his. */
void tp_crash_catch(void);

#endif
