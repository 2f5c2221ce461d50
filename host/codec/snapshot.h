/* snapshot.h: has a Lua table been written to since it was looked at?
 *
 * Asking each field takes about 10 ns; comparing a table's memory with a copy takes a tenth of that, which is what the tables that are asked about at every
 * call need (package.loaded, the standard libraries). Where LuaJIT keeps a table's parts is found out by looking at tables that are known (tp_layout_find);
 * where that fails, every table looks changed, which costs speed only. */
#ifndef TP_SNAPSHOT_H
#define TP_SNAPSHOT_H

#include <stdbool.h>
#include <stdint.h>

struct lua_State;

/* Offsets inside of LuaJIT's table object; 0 where they were not found. */
typedef struct tp_layout {
    int asize; /* u32: places of the array part */
    int hmask; /* u32: places of the hash part, less one */
    int array, node, metatable; /* pointers; all or none of these and hmask */
} tp_layout;

/* What a table was. Made of zeroes; its owner frees it. */
typedef struct tp_snapshot {
    const void *table;
    uint64_t head[5]; /* asize, hmask, array, node, metatable */
    uint8_t *bytes;   /* a copy of both parts; owned */
    uint32_t size, room;
} tp_snapshot;

/* Finds the layout. Raises on out of memory. */
void tp_layout_find(struct lua_State *L, tp_layout *layout);

/* Looks at the table (its lua_topointer). When there is no memory for the copy, or the layout is not known, it will look changed. */
void tp_snapshot_take(tp_snapshot *s, const tp_layout *layout, const void *table);

/* Is it that table, and has nothing in it been written since? A field that was written and written back may count as a change. What its fields refer to
 * must have been kept alive: an object at the address of an old one is not told from it. */
bool tp_snapshot_holds(const tp_snapshot *s, const tp_layout *layout, const void *table);

/* A hash of the table's own memory: the same one later says that nothing in it has been written since, under the same condition. Takes some 20 ns for a
 * small table, a fifth of asking its fields. False when the layout is not known. */
bool tp_layout_hash(const tp_layout *layout, const void *table, uint64_t *hash);

/* Frees the copy. */
void tp_snapshot_free(tp_snapshot *s);

#endif
