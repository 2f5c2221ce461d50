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

/* The registry's field with the `require` of the start, whatever the script does to the global. */
#define TP_REQUIRE_KEY "tidepool.main.require"

/* The process, for the signal handlers. Written by the main thread (and by handlers, which run on
 * it), except where noted. */
typedef struct tp_process {
    tp_host *volatile host; /* NULL while there is none that a signal may ask */
    struct lua_State *volatile L; /* NULL while there is none that a hook may be set in */
    pthread_t thread;      /* the main thread */
    pid_t pid;             /* main()'s; a forked child has another one */
    timer_t timer;         /* sends alarm_signal() when patience ends */
    bool has_timer, quiet;
    bool has_journal;      /* option --journal, or all maps that a signal has met are recorded: what is done is not lost */
    tp_colours colours;    /* option --color */
    bool speaks_json;      /* option --progress=json: so does the last line */
    bool pipe_ignored;     /* SIGPIPE was ignored when we started: a lost reader is an error then */
    volatile sig_atomic_t signal; /* the signal that ends the process; 0: none */
    volatile sig_atomic_t line_said, code;
    volatile sig_atomic_t session;
    volatile sig_atomic_t interrupts; /* what has been done about Ctrl-C in this line, see press in signals.c */
    uint64_t delivered, total; /* what the maps had done when the signal came */
    bool has_terminal;         /* the REPL runs on one: `terminal` is to be restored */
    struct termios terminal;
    void (*before_death)(void *user, int error); /* a worker process: see tp_signals_note_death; the serving thread */
    void *dying;               /* its user */
    _Atomic int write_error;   /* errno of the first failed write to stdout; any thread */
} tp_process_state;

extern tp_process_state tp_process;

/* Is this frame of a debug hook or a traceback the library's own? Async-signal-safe; ar has "S". */
bool tp_is_library(const struct lua_Debug *ar);

/* Is that variable of the environment there, and not empty? */
bool tp_is_set(const char *variable);

#endif
