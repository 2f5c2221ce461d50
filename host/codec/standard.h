/* standard.h: the standard libraries of a Lua state: what they were when it was opened, and what has been done to them since.
 *
 * A program may add to them and replace what is in them (`function string.trim`, `math.floor = mine`, `debug.setmetatable(1, ...)`). Such changes travel
 * with functions as a list of triples: where (the number of a table, a module's table, or the name of a type, whose metatable it is), a key, a value; the
 * list itself stands for nil. What a worker's items change is taken back before the next item begins; what a function's list says is there while it
 * runs, and no longer. New globals are left alone: they are the worker's, as is documented.
 *
 * Belongs to one Lua state, in its codec; nobody else touches it. */
#ifndef TP_STANDARD_H
#define TP_STANDARD_H

#include "codec/snapshot.h"

struct lua_State;

enum { TP_STANDARD_TABLES = 16, TP_STANDARD_TYPES = 7 };

typedef struct tp_standard {
    const tp_layout *layout;
    tp_snapshot seen[TP_STANDARD_TABLES];  /* each table as it is expected */
    const void *table[TP_STANDARD_TABLES];
    const void *type[TP_STANDARD_TYPES];   /* the metatable of each type, as it is expected */
    const void *applied;                   /* the list of changes that is in force; NULL: none */
    int n;
    bool is_workers;  /* set by the worker: it restores what is changed, so that only what is expected has been seen */
    bool has_adopted; /* more is expected than at first, or other things */

    /* Tables of Lua's: indexes in the registry. Number i is at i + 1. */
    int tables;
    int original, expected; /* copies of the tables */
    int metatables;         /* theirs, false where there is none, as they are expected */
    int types;              /* the metatables of types, likewise; the originals are at their names */
    int list, undo;         /* what is applied, and how it is taken back */
    int changes;            /* what tp_standard_push_changes gave last */
    int function;           /* some function */
} tp_standard;

/* Looks at the standard libraries as they are now. `loaded` is package.loaded's index in the registry. Raises on out of memory. */
void tp_standard_open(struct lua_State *L, tp_standard *s, const tp_layout *layout, int loaded);

/* For a host that puts functions of its own in place of standard ones: what there is now is what there was at first. Raises on out of memory. */
void tp_standard_settle(struct lua_State *L, tp_standard *s);

/* Frees what is not the Lua state's. */
void tp_standard_close(tp_standard *s);

/* Is anything else than expected? Takes about 0.2 us. Raises nothing. */
bool tp_standard_is_changed(struct lua_State *L, const tp_standard *s);

/* Makes everything as expected again. Raises on out of memory; then it may be tried again. */
void tp_standard_restore(struct lua_State *L, tp_standard *s);

/* What there is now is expected from now on. Raises on out of memory. */
void tp_standard_adopt(struct lua_State *L, tp_standard *s);

/* Puts the changes of the list on top (or nil) in force, in place of those that are, and pops it. Raises on out of memory. */
void tp_standard_apply(struct lua_State *L, tp_standard *s);

/* Pushes the list of what is not as expected (nil: there is nothing), and what is applied (nil: nothing), for tp_standard_resume. The state is then as
 * expected, with nothing applied. Raises on out of memory. */
void tp_standard_pause(struct lua_State *L, tp_standard *s);

/* Pops both and makes the state again what it was. Raises on out of memory. */
void tp_standard_resume(struct lua_State *L, tp_standard *s);

/* Pushes the list of what the libraries have that they did not have at first, for functions that travel; nil when there is nothing. It is not to be written to.
 * package, whose paths travel otherwise, jit, ffi and globals are not in it. Raises on out of memory. */
void tp_standard_push_changes(struct lua_State *L, tp_standard *s);

/* Stack: list. Adds the globals that the state did not have at first, or had with another value. */
void tp_standard_add_globals(struct lua_State *L, const tp_standard *s);

/* Had the state at first something where the triple's `where` and key, at the indexes, say? False for a module's. */
bool tp_standard_has(struct lua_State *L, const tp_standard *s, int where, int key);

/* The name of what is changed by a triple whose `where` and key are at the indexes: "string.trim". Pushes it. `where` a module: its key. */
void tp_standard_push_name(struct lua_State *L, int where, int key);

#endif
