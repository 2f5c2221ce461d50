/* repl.h: the interactive session. Part of the binary only. */
#ifndef TP_REPL_H
#define TP_REPL_H

#include <stdbool.h>

struct lua_State;

/* Reads lines and runs them until the end of the input. With a terminal: editing and a history
 * (true); else plain reading. Errors are shown and the session goes on. Raises only when out of
 * memory. */
bool tp_repl_run(struct lua_State *L);

#endif
