/* modules.h: functions that a script has added to modules, or replaced in them.
 *
 * A module travels by its name, so a worker has it as its file made it. What the script has added
 * to it since (`function json.lines(text)`, `socket.connect = mine`) is recognised by where the
 * code of a function comes from: not from the file of any module. Belongs to one Lua state, in its
 * codec. */
#ifndef TP_MODULES_H
#define TP_MODULES_H

#include "codec/snapshot.h"

struct lua_State;
struct codec;

typedef struct tp_modules {
    tp_snapshot loaded;     /* package.loaded, when the list was made */
    tp_snapshot *seen;      /* one for each module, taken when it was last looked through */
    bool *is_changed;       /* whether it had functions of the script then */
    int n, room;
    int list;               /* a table of Lua's; an index in the registry */
} tp_modules;

/* Raises on out of memory. */
void tp_modules_open(struct lua_State *L, tp_modules *m);

/* Frees the memory that does not belong to the Lua state. */
void tp_modules_close(tp_modules *m);

/* Is the function on top a Lua function that does not come from the file of a module, but from the
 * script or a file that it has run? */
bool tp_modules_is_scripts(struct lua_State *L, const struct codec *c);

/* Has the script changed any module of package.loaded (the standard libraries and our own aside)?
 * Takes some 50 ns for an unchanged module. Raises on out of memory. */
bool tp_modules_look(struct lua_State *L, struct codec *c);

/* Pushes the name and the table of the next changed module, from *i on (0 at first); false when
 * there is none left. */
bool tp_modules_next(struct lua_State *L, const struct codec *c, int *i);

/* Stack: name module. Adds the functions of the script in the module to the list of changes
 * (standard.h) at that index, and pops both. Raises on out of memory. */
void tp_modules_add(struct lua_State *L, const struct codec *c, int list);

#endif
