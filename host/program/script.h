/* script.h: runs what the command line asks for. Each function returns false after showing an
 * error. */
#ifndef TP_SCRIPT_H
#define TP_SCRIPT_H

#include "program/options.h"

struct lua_State;

/* $LUA_INIT. */
bool tp_script_run_init(struct lua_State *L);

/* Prints the version where the options ask for it, after LUA_INIT and before all else, as luajit
 * does. Always true. */
bool tp_script_greet(const tp_options *o);

/* Runs -e, -l, -j and -O in their order. Stops at the first error. */
bool tp_script_run_options(struct lua_State *L, const tp_options *o);

/* Runs the script, the command, standard input or the session. */
bool tp_script_run_main(struct lua_State *L, tp_options *o);

/* Waits for what the script has spawned. Failures that the script has not asked about are shown,
 * and then it returns false. */
bool tp_script_run_loop(struct lua_State *L, const tp_options *o);

/* Before the script's state is closed: calls the `exit` of class instances in it. */
void tp_script_leave(struct lua_State *L);

/* The global `arg`: arg[0] is the script, arg[1] its first argument, arg[-1] the word before the
 * script. */
void tp_script_set_arg(struct lua_State *L, const tp_options *o);

/* From here on the files that the script requires are reported to the watching process
 * (watch.h). */
void tp_script_report_modules(struct lua_State *L, const tp_options *o);

#endif
