/* signals.h: what a signal does to the process, and to a line of the session. Main thread only, but
 * for worker processes. */
#ifndef TP_SIGNALS_H
#define TP_SIGNALS_H

#include <stdbool.h>

struct pollfd;

/* What the session is doing: decides what Ctrl-C means. */
typedef enum tp_session {
    TP_NO_SESSION,     /* a script runs: Ctrl-C ends the process */
    TP_SESSION_PROMPT, /* waits for a line: Ctrl-C drops what was typed */
    /* runs a line: Ctrl-C stops it, or ends the process once the user was told that the line cannot
     * be stopped */
    TP_SESSION_LINE
} tp_session;

/* Installs the handlers, for the rest of the process. */
void tp_signals_catch(void);

/* Ends the process after so many milliseconds if it still exists then; 0: cancels that.
 * Async-signal-safe. */
void tp_signals_be_patient(unsigned ms);

/* "tidepool: interrupted (12 of 100 results delivered)", once. Async-signal-safe. */
void tp_signals_say_interrupted(void);

/* Notes what the host has recorded, for that line: when a signal came, or the host is about to be
 * closed. Async-signal-safe. */
void tp_signals_note_records(void);

/* Ends the process by sig's default action, so that the parent sees what happened.
 * Async-signal-safe. */
_Noreturn void tp_signals_die_by(int sig);

/* For worker processes: calls `note` with errno when SIGSEGV, SIGBUS or SIGABRT is about to end the
 * process. `note` must be async-signal-safe. Gives the calling thread a stack for signal handlers.
 * -1 when there is no memory. */
int tp_signals_note_death(void (*note)(void *user, int error), void *user);

/* Sets what the session is doing. True when Ctrl-C came since the last change. */
bool tp_signals_session(tp_session now);

/* A Ctrl-C that came while something else was done was meant for the prompt. */
void tp_signals_interrupt_prompt(void);

/* poll(), which ends with EINTR only when one of the signals that we catch comes, or has come since
 * the session's last change. */
int tp_signals_poll(struct pollfd *waits, unsigned n, int ms);

/* True when the process was told to end (SIGTERM, SIGHUP) and the session should return. */
bool tp_signals_ending(void);

#endif
