/* snapshot.h: has a Lua table been written to since it was looked at?
 *
 * Asking each field takes about 10 ns; comparing a table's memory with a copy takes a tenth of
 * that, as is needed for the tables that are checked at every call (package.loaded, the standard
 * libraries). Where LuaJIT keeps a table's parts is found out by looking at tables with known
 * contents (tp_layout_find); where that fails, every table looks changed, which only costs
 * speed. */
#ifndef TP_SNAPSHOT_H
#define TP_SNAPSHOT_H

#include <stdbool.h>
#include <stdint.h>

struct lua_State;

/* Offsets inside of LuaJIT's table object; 0 where they were not found. */
typedef struct tp_layout {
    int asize; /* u32: length of the array part */
    int hmask; /* u32: places of the hash part, minus one */
    int array, node, metatable; /* pointers; either all of these and hmask are known or none is */
} tp_layout;

/* A copy of a table's memory at some time. All zero: none. Its owner frees it with
 * tp_snapshot_free. */
typedef struct tp_snapshot {
    const void *table;
    uint64_t head[5]; /* asize, hmask, array, node, metatable */
    uint8_t *bytes;   /* a copy of both parts; owned */
    uint32_t size, room;
} tp_snapshot;

/* Finds the layout. Raises on out of memory. */
void tp_layout_find(struct lua_State *L, tp_layout *layout);

/* Takes a snapshot of the table (its lua_topointer). Without memory for the copy, or when the
 * layout is not known, the table will look changed. */
void tp_snapshot_take(tp_snapshot *s, const tp_layout *layout, const void *table);

/* Is it the same table, and has nothing been written to it since? A field that was changed and
 * changed back may count as a change. Objects that its fields refer to must have been kept alive
 * meanwhile: a new object at an old one's address looks the same. */
bool tp_snapshot_holds(const tp_snapshot *s, const tp_layout *layout, const void *table);

/* How many places a table's hash part has; 0 when the layout is not known. */
uint32_t tp_layout_places(const tp_layout *layout, const void *table);

/* A hash of the table's own memory. If it is the same later, nothing was written to the table
 * meanwhile, under the same condition. Takes some 20 ns for a small table, a fifth of asking for
 * its fields. False when the layout is not known. */
bool tp_layout_hash(const tp_layout *layout, const void *table, uint64_t *hash);

/* Frees the copy. */
void tp_snapshot_free(tp_snapshot *s);

#endif
