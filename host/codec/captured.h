/* captured.h: the tables that a function captures, by their number in its image.
 *
 * Code that compares tables (`x == NONE`, `weights[node]`) means the same on both sides only if a
 * table that the function captures remains the same table when it comes in an input, and when a
 * result carries it back. Both sides of an image number its tables in the order in which they come
 * in the message; a message between them then names such a table by its number (T_CAPTURED).
 *
 * It is a userdata of one Lua state, and keeps the tables alive. */
#ifndef TP_CAPTURED_H
#define TP_CAPTURED_H

#include <stdbool.h>
#include <stdint.h>

struct lua_State;

typedef struct tp_captured tp_captured;

/* Pushes a new tp_captured without tables. Raises on out of memory. */
tp_captured *tp_captured_push(struct lua_State *L);

/* The tp_captured at the stack index; NULL if there is something else. */
tp_captured *tp_captured_at(struct lua_State *L, int index);

/* Gives the table on top the next number, from 1. `is_first`: it was met outside other captured
 * tables. -1 when out of memory, or raises that. */
int tp_captured_add(struct lua_State *L, tp_captured *c, bool is_first);

/* Is `table` (a lua_topointer) the table of that number? */
bool tp_captured_is(const tp_captured *c, uint32_t number, const void *table);

/* Replaces the tp_captured at the absolute stack index by a new one with the same tables, sealed
 * with the contents that they have now. Raises on out of memory. */
void tp_captured_renew(struct lua_State *L, int index);

/* All tables are added: hashes their contents. Raises on out of memory. */
void tp_captured_seal(struct lua_State *L, tp_captured *c);

/* How many there are. */
uint32_t tp_captured_count(const tp_captured *c);

/* Another message begins: tp_captured_is_unchanged looks at the tables anew. */
void tp_captured_start(tp_captured *c);

/* The number of a table (its lua_topointer); 0 if it is not captured. */
uint32_t tp_captured_find(const tp_captured *c, const void *table);

/* Does the table of that number, with all captured tables that can be reached from it, have the
 * contents that it had at tp_captured_seal? Takes some 20 ns a field the first time in a message,
 * and nothing after that. Needs six slots of the stack. */
bool tp_captured_is_unchanged(struct lua_State *L, tp_captured *c, uint32_t number);

/* ---- plain tables: they contain nothing but numbers, strings, booleans and plain tables ----
 *
 * Each map and call checks whether its function's image would still be the same. Plain tables need
 * not be encoded for that: the hash of their memory is compared (snapshot.h). */

struct tp_layout;

/* Finds the plain tables, hashes their memory, and keeps the strings in them alive. Returns how
 * many plain tables there are. Raises on out of memory. */
uint32_t tp_captured_watch(struct lua_State *L, tp_captured *c, const struct tp_layout *layout);

/* Are all plain tables what they were at tp_captured_watch? */
bool tp_captured_holds(const tp_captured *c, const struct tp_layout *layout);

/* The number of a plain table (its lua_topointer); 0 if it is none. */
uint32_t tp_captured_find_plain(const tp_captured *c, const void *table);

/* Pushes the table of that number; false, with nothing pushed, if there is none. */
bool tp_captured_push_table(struct lua_State *L, const tp_captured *c, uint32_t number);

#endif
