/* modules.h: functions that a script has added to modules, or replaced in them.
 *
 * A module travels by its name, so that a worker's is as its file has made it. What the script has done to it since (`function json.lines(text)`,
 * `socket.connect = mine`) is told by where a function's code is from: from no file of a module. Belongs to one Lua state, in its codec. */
#ifndef TP_MODULES_H
#define TP_MODULES_H

#include "codec/snapshot.h"

struct lua_State;
struct codec;

typedef struct tp_modules {
    tp_snapshot loaded;     /* package.loaded, when the list was made */
    tp_snapshot *seen;      /* of each module, when it was looked through */
    bool *is_changed;       /* it had functions of the script then */
    int n, room;
    int list;               /* a table of Lua's; an index in the registry */
} tp_modules;

/* Raises on out of memory. */
void tp_modules_open(struct lua_State *L, tp_modules *m);

/* Frees what is not the Lua state's. */
void tp_modules_close(tp_modules *m);

/* Is the function on top the script's, or of a file that it has run: a Lua function from no module's file? */
bool tp_modules_is_scripts(struct lua_State *L, const struct codec *c);

/* Looks at all modules of package.loaded but the standard libraries and our own. Has the script changed any? Takes some 50 ns for a module that is as it was.
 * Raises on out of memory. */
bool tp_modules_look(struct lua_State *L, struct codec *c);

/* Pushes the name and the table of the next one, from *i on (0 at first), that is changed; false when there is none left. */
bool tp_modules_next(struct lua_State *L, const struct codec *c, int *i);

/* Stack: name module. Adds the functions of the script in the module to the list of changes (standard.h) at that index, and pops both. Raises on out of
 * memory. */
void tp_modules_add(struct lua_State *L, const struct codec *c, int list);

#endif
