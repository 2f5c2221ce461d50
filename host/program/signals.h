/* signals.h: what a signal does to the process, and to a line of the session. Main thread only, but for worker processes. */
#ifndef TP_SIGNALS_H
#define TP_SIGNALS_H

#include <stdbool.h>

struct pollfd;

/* What the session is doing: decides what Ctrl-C means. */
typedef enum tp_session {
    TP_NO_SESSION,     /* a script runs: Ctrl-C ends the process */
    TP_SESSION_PROMPT, /* waits for a line: Ctrl-C drops what was typed */
    TP_SESSION_LINE    /* runs a line: Ctrl-C stops it; one that comes after it was said that it cannot be stopped ends the process */
} tp_session;

/* Installs the handlers, for the rest of the process. */
void tp_signals_catch(void);

/* The process ends so many milliseconds from now if it has not by then; 0: not any more. Async-signal-safe. */
void tp_signals_be_patient(unsigned ms);

/* "tidepool: interrupted (12 of 100 results delivered)", once. Async-signal-safe. */
void tp_signals_say_interrupted(void);

/* Ends the process by sig's default action, so that the parent sees what happened. Async-signal-safe. */
_Noreturn void tp_signals_die_by(int sig);

/* A worker process's: `note` is called, with what errno is, when a signal (SIGSEGV, SIGBUS, SIGABRT) is about to end the process. It is async-signal-safe.
 * The calling thread gets a stack of its own for that. -1 when there is no memory. */
int tp_signals_note_death(void (*note)(void *user, int error), void *user);

/* Says what the session does now. True when Ctrl-C came since the last change. */
bool tp_signals_session(tp_session now);

/* Ctrl-C has come that is meant for the prompt, though it came while something else was done. */
void tp_signals_interrupt_prompt(void);

/* poll(), which ends with EINTR when one of the signals that we catch has come since the session's
 * last change, or comes now, and for no other one. */
int tp_signals_poll(struct pollfd *waits, unsigned n, int ms);

/* True when the process was told to end (SIGTERM, SIGHUP) and the session should return. */
bool tp_signals_ending(void);

#endif
