/* process.h: what all parts of the program know of the process. Part of the binary only. */
#ifndef TP_PROCESS_H
#define TP_PROCESS_H

#include "program/term.h"
#include "tidepool.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <termios.h>
#include <time.h>

struct lua_State;
struct lua_Debug;

enum { TP_PATIENCE_MS = 500 /* how long an interrupted program may take to end by itself */ };

/* The registry's field for the `require` of the start, which scripts cannot replace. */
#define TP_REQUIRE_KEY "tidepool.main.require"

/* The process's state, shared with signal handlers. Written by the main thread (on which the
 * handlers run), except where noted. */
typedef struct tp_process {
    tp_host *volatile host; /* NULL while signals must not use one */
    struct lua_State *volatile L; /* NULL while no hook may be set */
    pthread_t thread;      /* the main thread */
    pid_t pid;             /* that of main; a forked child has another one */
    timer_t timer;         /* sends alarm_signal() when patience ends */
    bool has_timer, quiet;
    /* option --journal, or all maps that ran when the signal came, or before, were recorded: no
     * result is lost */
    bool has_journal;
    bool has_recorded; /* results were recorded before the signal came */
    tp_colours colours;    /* option --color */
    bool speaks_json;      /* option --progress=json: the last line is JSON, too */
    /* SIGPIPE was ignored when we started: a reader that goes away is an error then */
    bool pipe_ignored;
    volatile sig_atomic_t signal; /* the signal that ends the process; 0: none */
    volatile sig_atomic_t line_said, code;
    volatile sig_atomic_t session;
    /* how many steps of stopping the session's line Ctrl-C has caused, see `press` in signals.c */
    volatile sig_atomic_t interrupts;
    uint64_t delivered, total, kept; /* counts of the maps when the signal came */
    bool has_terminal; /* the REPL uses a terminal, whose state `terminal` is to be restored */
    struct termios terminal;
    /* of a worker process, see tp_signals_note_death; called on the serving thread */
    void (*before_death)(void *user, int error);
    void *dying;               /* its user */
    _Atomic int write_error;   /* errno of the first failed write to stdout; any thread */
} tp_process_state;

extern tp_process_state tp_process;

/* Is this frame, of a debug hook or a traceback, the library's own? Async-signal-safe. `ar` must
 * have "S". */
bool tp_is_library(const struct lua_Debug *ar);

/* Is that environment variable set, and not empty? */
bool tp_is_set(const char *variable);

#endif
