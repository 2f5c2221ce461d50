/* options.h: what the command line asks for. */
#ifndef TP_OPTIONS_H
#define TP_OPTIONS_H

#include "program/term.h"

#include <stdbool.h>

enum { TP_EXIT_USAGE = 2 };

/* argv is main's; `script` is an index into it. */
typedef struct tp_options {
    int argc;
    char **argv;
    int script; /* index of the script, or of the command's subject; argc when there is none */
    int end;    /* index of the word before which the options end */
    enum {
        SCRIPT,
        RUN,
        MAP,
        DEVICES,
        JOURNAL,
        REPLAY,
        CACHE,
        NEW,
        ENGINE,
        WORKER,
        JOBS,
        ATTACH,
        CANCEL,
        HELP,
        VERSION,
        BYTECODE
    } command; /* RUN to HELP are words of the command line */
    bool interactive, version, executes, no_env, quiet, verbose, tagged;
    bool explains; /* --explain */
    bool watches;  /* --watch */
    bool detaches; /* --detach */
    int watch_fd;  /* descriptor for the paths of required files (watch.h); 0: none */
    bool loads; /* -l */
    int workers; /* 0: the host's default */
    const char *executor; /* NULL: the host's default */
    const char *journal;  /* --journal; NULL: none */
    const char *trace;    /* --trace; NULL: none */
    const char *profile;  /* --profile; NULL: none */
    const char *report;   /* --report; NULL: none */
    bool dashboard;       /* --dashboard, */
    unsigned port;        /* and its port; 0: any */
    const char *engine;   /* --engine, or from the environment; NULL: none */
    const char *token;    /* for the engine, set by main.c; NULL: none */
    tp_colours colours;
    const char *progress; /* as the option says; NULL: chosen for the terminal */
    bool was_session; /* set by script.c */
    /* set by script.c: the user has left the session, so spawned work is not waited for */
    bool is_left;
    bool failed; /* set by main.c's steps: exit code 1 or `code` */
    int code;
} tp_options;

/* The words that are commands, from RUN to HELP; NULL ends them. */
extern const char *const tp_options_commands[];

/* Reads the words of o->argv; runs nothing. Returns 0, or the exit code after saying what is
 * wrong. */
int tp_options_parse(tp_options *o);

/* Reads a number of workers, and says what is wrong with it in the name of `who`. Returns as
 * tp_options_parse. */
int tp_options_read_workers(tp_options *o, const char *who, const char *value);

/* Reads the URL of an engine in the same way. */
int tp_options_read_engine(tp_options *o, const char *who, const char *value);

/* Does the program end up in the interactive session? */
bool tp_options_have_session(const tp_options *o);

/* Is the session the first thing to run, with no code of the user's before it? */
bool tp_options_begin_with_session(const tp_options *o);

/* Does this option take an argument in the next word, which is that one? */
bool tp_options_takes_next(const char *word, const char *next);

/* The word in the list (which ends with NULL) that is most like this one. NULL when none has more
 * than two letters in common with it. */
const char *tp_options_nearest(const char *word, const char *const *words);

#endif
