/* repl.h: the interactive session, and what main.c lends to it. Part of the binary only. */
#ifndef TP_REPL_H
#define TP_REPL_H

#include <stdbool.h>

struct lua_State;

/* What the session is doing: decides what Ctrl-C means. */
typedef enum tp_session {
    TP_NO_SESSION,     /* a script runs: Ctrl-C ends the process */
    TP_SESSION_PROMPT, /* waits for a line: Ctrl-C drops what was typed */
    TP_SESSION_LINE    /* runs a line: Ctrl-C stops it, a second one ends the process */
} tp_session;

/* Reads lines and runs them until the end of the input. With a terminal: editing and a history (true);
 * else plain reading. Errors are shown and the session goes on. Raises only when out of memory. */
bool tp_repl_run(struct lua_State *L);

/* ---- lent by main.c; main thread only ---- */

/* Calls the function below nargs arguments on L's stack. An error is shown on stderr with its
 * traceback and gives false with nothing left; success gives true with the results. */
bool tp_main_call(struct lua_State *L, int nargs, int nresults);

/* Shows the error text on the top of the stack (as from a failed luaL_loadbuffer) and pops it. */
void tp_main_show_error(struct lua_State *L);

/* Calls require(module)[name] with the nargs values on the top; otherwise as tp_main_call. */
bool tp_main_call_module(struct lua_State *L, const char *module, const char *name, int nargs,
                         int nresults);

/* Says what the session does now. True when Ctrl-C came since the last change. */
bool tp_main_session(tp_session now);

/* True when the process was told to end (SIGTERM, SIGHUP) and the session should return. */
bool tp_main_ending(void);

#endif
