/* standard.h: the standard libraries of a Lua state: what they were when it was opened, and what
 * has been done to them since.
 *
 * A program may add to the libraries and replace what is in them (`function string.trim`,
 * `math.floor = mine`, `debug.setmetatable(1, ...)`). Such changes travel with functions as a list
 * of triples: where (the number of a table, a module's table, or the name of a type, for its
 * metatable), a key, and a value; the list itself stands for nil. In a list from a worker the
 * numbers say, too, what setups and modules have changed there. What an item changes in its worker
 * is undone before the next item begins; a function's list is applied only while the function
 * runs. New globals are left alone: they are the worker's, as is documented.
 *
 * Belongs to one Lua state, in its codec; nobody else touches it. */
#ifndef TP_STANDARD_H
#define TP_STANDARD_H

#include "codec/snapshot.h"

struct lua_State;

enum { TP_STANDARD_TABLES = 16, TP_STANDARD_TYPES = 7 };

typedef struct tp_standard {
    const tp_layout *layout;
    tp_snapshot seen[TP_STANDARD_TABLES];  /* of each table as it is expected */
    const void *table[TP_STANDARD_TABLES];
    const void *type[TP_STANDARD_TYPES];   /* of each type, as it is expected */
    const void *applied;                   /* the list of changes that is in force; NULL: none */
    int n;
    /* set by the worker: such a state undoes changes, so snapshots are only taken of what is
     * expected */
    bool is_workers;
    bool has_adopted; /* what is expected is not what there was at first */

    /* References in the registry to Lua tables. Number i is at i + 1. */
    int tables;
    int original, expected; /* copies of the tables */
    int metatables;         /* of the tables, as they are expected; false where there is none */
    /* the metatables of types as expected, under their numbers; the first ones under the types'
     * names */
    int types;
    int list, undo;         /* the list that is applied, and the changes that undo it */
    int changes;            /* what tp_standard_push_changes returned last */
    int samples_ref;        /* the coroutine below */
    /* A coroutine whose stack has a value of each type, from 1: they are asked for their metatables
     * after each slice of items. */
    struct lua_State *samples;
} tp_standard;

/* Looks at the standard libraries as they are now. `loaded` is package.loaded's index in the
 * registry. Raises on out of memory. */
void tp_standard_open(struct lua_State *L, tp_standard *s, const tp_layout *layout, int loaded);

/* For a host's own state, in which some standard functions are replaced by ours (print, require):
 * what is there now counts as what was there at first. Raises on out of memory. */
void tp_standard_settle(struct lua_State *L, tp_standard *s);

/* Frees the memory that does not belong to the Lua state. */
void tp_standard_close(tp_standard *s);

/* Does anything differ from what is expected? Takes about 0.2 us. Raises nothing. */
bool tp_standard_is_changed(const tp_standard *s);

/* Undoes everything that differs from what is expected. Raises on out of memory; then it may be
 * tried again. */
void tp_standard_restore(struct lua_State *L, tp_standard *s);

/* A setup or a module may have changed something: what there is now is expected from now on, and
 * what the applied list has from another worker's setups and modules stays when it is undone, too.
 * Raises on out of memory. */
void tp_standard_adopt(struct lua_State *L, tp_standard *s);

/* Pops the list (or nil) on top and applies its changes in place of those that are applied. Raises
 * on out of memory. */
void tp_standard_apply(struct lua_State *L, tp_standard *s);

/* Pushes two values for tp_standard_resume: the list of what differs from what is expected (nil:
 * nothing does), and the list that is applied (nil: none). Then the state is as expected, with
 * nothing applied. Raises on out of memory. */
void tp_standard_pause(struct lua_State *L, tp_standard *s);

/* Pops both and restores the state that they describe. Raises on out of memory. */
void tp_standard_resume(struct lua_State *L, tp_standard *s);

/* Pushes the list of how the libraries differ from what they were at first, for functions that
 * travel; nil when they do not. The caller must not change it. Left out are package (its paths
 * travel otherwise), jit, ffi and globals. Raises on out of memory. */
void tp_standard_push_changes(struct lua_State *L, tp_standard *s);

/* Stack: list. Adds the globals that differ from those that the state had at first. */
void tp_standard_add_globals(struct lua_State *L, const tp_standard *s);

/* The number of that table; -1 when it is none of those. */
int tp_standard_number(const tp_standard *s, const void *table);

/* Did the state have, at first, something at the place that a triple's `where` and key (at these
 * indexes) name? False for a module's. */
bool tp_standard_has(struct lua_State *L, const tp_standard *s, int where, int key);

/* Pushes a name for the place that a triple's `where` and key (at these indexes) name:
 * "string.trim". For a module it is the key alone. */
void tp_standard_push_name(struct lua_State *L, int where, int key);

#endif
