/* errors.h: calls into Lua whose errors are shown to the user. Main thread only. */
#ifndef TP_ERRORS_H
#define TP_ERRORS_H

#include <stdbool.h>
#include <stddef.h>

struct lua_State;

/* Calls the function below nargs arguments on L's stack. An error is shown on stderr with its
 * traceback and gives false with nothing left; success gives true with the results. */
bool tp_errors_call(struct lua_State *L, int nargs, int nresults);

/* Calls require(module)[name] with the nargs values on the top; otherwise as tp_errors_call. */
bool tp_errors_call_module(struct lua_State *L, const char *module, const char *name, int nargs,
                           int nresults);

/* The same, but raises errors instead of showing them. */
void tp_errors_require(struct lua_State *L, const char *module, const char *name, int nargs,
                       int nresults);

/* Shows the error text on the top of the stack (as from a failed luaL_loadbuffer) and pops it. */
void tp_errors_show(struct lua_State *L);

/* Pushes the text for the error value on the top, which stays. */
void tp_errors_push_description(struct lua_State *L);

/* Writes an error's text to stderr. On a terminal, control characters are left out and a long text
 * is cut. */
void tp_errors_print(const char *text, size_t len);

#endif
