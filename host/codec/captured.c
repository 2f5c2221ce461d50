/* captured.c: numbers and hashes of captured tables.
 *
 * The hash of a table is a sum over its pairs, so that their order does not matter. Strings count
 * by their contents, since a freed string's address may be used by another one. Other objects count
 * by their addresses: tables are kept alive here, functions and userdata are rarely replaced. A
 * table that holds a value which may change without being written to (a struct of the FFI's, say)
 * always travels by value. */
#include "codec/captured.h"

#include "codec/codec_state.h"

#include <lauxlib.h>
#include <lua.h>
#include <stdlib.h>
#include <string.h>

typedef struct entry {
    const void *table;
    uint64_t hash;     /* of its contents; 0: it always travels by value */
    uint32_t good;     /* the last message (tp_captured.message) for which it was found unchanged */
    uint32_t visited;  /* the last walk (tp_captured.walk) that reached it */
    bool is_first;     /* it was met outside other captured tables */
    bool is_plain;
    uint64_t memory;   /* of a plain table: its tp_layout_hash */
} entry;

/* The userdata's environment is the list of the tables, by number; at [0] it has a list of the
 * strings in plain tables. */
struct tp_captured {
    entry *entries; /* that of table number i is at i - 1 */
    uint32_t n, room;
    /* open addressing: numbers of tables; its size is a power of two, at most half of it is used */
    uint32_t *places;
    uint32_t size;
    uint32_t *queue; /* of a walk; with room for each entry once */
    uint32_t message, walk;
    bool is_sealed;
};

/* its address is the metatable's key in the registry; the metatable's [1] has all userdata by
 * address, weakly */
static const char captured_key = 0;

/* Pushes the metatable. */
static void push_metatable(lua_State *L)
{
    lua_pushlightuserdata(L, (void *)&captured_key);
    lua_rawget(L, LUA_REGISTRYINDEX);
}

static int collect(lua_State *L)
{
    tp_captured *c = lua_touserdata(L, 1);
    free(c->entries);
    free(c->places);
    free(c->queue);
    *c = (tp_captured){ 0 };
    return 0;
}

/* Makes the metatable, and pushes it. */
static void make_metatable(lua_State *L)
{
    lua_createtable(L, 1, 1);                       // mt
    lua_pushcfunction(L, collect);
    lua_setfield(L, -2, "__gc");
    lua_newtable(L);                                // mt all
    lua_createtable(L, 0, 1);
    lua_pushliteral(L, "v");
    lua_setfield(L, -2, "__mode");
    lua_setmetatable(L, -2);
    lua_rawseti(L, -2, 1);
    lua_pushlightuserdata(L, (void *)&captured_key);
    lua_pushvalue(L, -2);
    lua_rawset(L, LUA_REGISTRYINDEX);
}

tp_captured *tp_captured_push(lua_State *L)
{
    tp_captured *c = lua_newuserdata(L, sizeof *c); // c
    *c = (tp_captured){ .message = 1 };
    push_metatable(L);                              // c mt
    if (lua_isnil(L, -1)) {
        lua_pop(L, 1);
        make_metatable(L);
    }
    lua_rawgeti(L, -1, 1);                          // c mt all
    lua_pushlightuserdata(L, c);
    lua_pushvalue(L, -4);
    lua_rawset(L, -3);
    lua_pop(L, 1);
    lua_setmetatable(L, -2);                        // c
    lua_newtable(L);
    lua_setfenv(L, -2);
    return c;
}

tp_captured *tp_captured_at(lua_State *L, int index)
{
    tp_captured *c = lua_touserdata(L, index);
    if (lua_type(L, index) != LUA_TUSERDATA || !lua_getmetatable(L, index))
        return NULL;
    push_metatable(L);
    bool is = lua_rawequal(L, -1, -2);
    lua_pop(L, 2);
    return is ? c : NULL;
}

static uint32_t place_of(const tp_captured *c, const void *table)
{
    uint32_t i =
        (uint32_t)(((uint64_t)(uintptr_t)table >> 3) * UINT64_C(0x9E3779B97F4A7C15) >> 32) &
        (c->size - 1);
    while (c->places[i] && c->entries[c->places[i] - 1].table != table)
        i = (i + 1) & (c->size - 1);
    return i;
}

static int grow(tp_captured *c)
{
    uint32_t room = c->room ? c->room * 2 : 8;
    entry *entries = realloc(c->entries, room * sizeof *entries);
    if (!entries)
        return -1;
    c->entries = entries;
    uint32_t *queue = realloc(c->queue, room * sizeof *queue);
    if (!queue)
        return -1;
    c->queue = queue;
    uint32_t *places = calloc((size_t)room * 2, sizeof *places);
    if (!places)
        return -1;
    free(c->places);
    c->places = places;
    c->size = room * 2;
    c->room = room;
    for (uint32_t i = 0; i < c->n; i++)
        places[place_of(c, c->entries[i].table)] = i + 1;
    return 0;
}

/* Pushes the list of the tables. */
static void push_list(lua_State *L, const tp_captured *c)
{
    push_metatable(L);                              // mt
    lua_rawgeti(L, -1, 1);                          // mt all
    lua_pushlightuserdata(L, (void *)c);
    lua_rawget(L, -2);                              // mt all c
    lua_getfenv(L, -1);                             // mt all c list
    lua_replace(L, -4);
    lua_pop(L, 2);                                  // list
}

int tp_captured_add(lua_State *L, tp_captured *c, bool is_first)
{
    if (c->n == c->room && grow(c))
        return -1;
    const void *table = lua_topointer(L, -1);
    c->entries[c->n] = (entry){ .table = table, .is_first = is_first };
    push_list(L, c);
    lua_pushvalue(L, -2);
    lua_rawseti(L, -2, (int)c->n + 1);
    lua_pop(L, 1);
    c->places[place_of(c, table)] = ++c->n;
    return 0;
}

bool tp_captured_is(const tp_captured *c, uint32_t number, const void *table)
{
    return number > 0 && number <= c->n && c->entries[number - 1].table == table;
}

uint32_t tp_captured_count(const tp_captured *c)
{
    return c->n;
}

void tp_captured_start(tp_captured *c)
{
    if (++c->message == 0) { /* after 2^32 messages the count starts anew: none may look checked */
        for (uint32_t i = 0; i < c->n; i++)
            c->entries[i].good = 0;
        c->message = 1;
    }
}

uint32_t tp_captured_find(const tp_captured *c, const void *table)
{
    return c->is_sealed && c->n ? c->places[place_of(c, table)] : 0;
}

/* ---- contents ---- */

static uint64_t mix(uint64_t x)
{
    x ^= x >> 32;
    x *= UINT64_C(0xD6E8FEB86659FD93);
    x ^= x >> 32;
    x *= UINT64_C(0xD6E8FEB86659FD93);
    return x ^ x >> 32;
}

static uint64_t hash_bytes(const char *s, size_t len)
{
    uint64_t h = mix(len + 1), word;
    for (; len >= sizeof word; s += sizeof word, len -= sizeof word) {
        memcpy(&word, s, sizeof word);
        h = mix(h ^ word);
    }
    word = 0;
    memcpy(&word, s, len);
    return mix(h ^ word);
}

/* The hash of the value at the index; false for a value that may change without being written
 * to. */
static bool hash_value(lua_State *L, int index, uint64_t *h)
{
    int type = lua_type(L, index);
    size_t len;
    const char *s;
    double x;
    switch (type) {
    case LUA_TBOOLEAN:
        *h = mix(2 + (uint64_t)lua_toboolean(L, index));
        return true;
    case LUA_TNUMBER:
        x = lua_tonumber(L, index);
        memcpy(h, &x, sizeof x);
        *h = mix(*h + 5);
        return true;
    case LUA_TSTRING:
        s = lua_tolstring(L, index, &len);
        *h = hash_bytes(s, len);
        return true;
    case TYPE_CDATA:
        return false;
    default:
        *h = mix((uint64_t)(uintptr_t)lua_topointer(L, index) + (uint64_t)type);
        return true;
    }
}

/* Adds the table on top, or that of the fields of the userdata there, to the queue, at *n, if it is
 * captured and this walk has not reached it yet. */
static void enqueue(lua_State *L, tp_captured *c, uint32_t *n)
{
    const void *table = lua_istable(L, -1) ? lua_topointer(L, -1) : NULL;
    if (lua_type(L, -1) == LUA_TUSERDATA) {
        lua_getfenv(L, -1);
        table = lua_topointer(L, -1);
        lua_pop(L, 1);
    }
    uint32_t number = table ? c->places[place_of(c, table)] : 0;
    if (number && c->entries[number - 1].visited != c->walk) {
        c->entries[number - 1].visited = c->walk;
        c->queue[(*n)++] = number;
    }
}

/* The hash of the contents of the table on top; 0 for one that always travels by value. Adds the
 * tables in it to the queue. */
static uint64_t hash_table(lua_State *L, tp_captured *c, uint32_t *n)
{
    uint64_t sum = 1, key, value;
    if (lua_getmetatable(L, -1)) {
        sum += mix((uint64_t)(uintptr_t)lua_topointer(L, -1));
        lua_pop(L, 1);
    }
    lua_pushnil(L);
    while (lua_next(L, -2)) {
        if (!hash_value(L, -2, &key) || !hash_value(L, -1, &value)) {
            lua_pop(L, 2);
            return 0;
        }
        sum += mix(key * 3 + value);
        enqueue(L, c, n);
        lua_pop(L, 1);
        enqueue(L, c, n);
    }
    return sum ? sum : 1;
}

static void start_walk(tp_captured *c)
{
    if (++c->walk == 0) {
        for (uint32_t i = 0; i < c->n; i++)
            c->entries[i].visited = 0;
        c->walk = 1;
    }
}

void tp_captured_seal(lua_State *L, tp_captured *c)
{
    luaL_checkstack(L, 7, "captured tables");
    push_list(L, c);
    start_walk(c);
    for (uint32_t i = 0, n = 0; i < c->n; i++) {
        c->entries[i].visited = c->walk; /* so that hash_table queues nothing */
        lua_rawgeti(L, -1, (int)i + 1);
        c->entries[i].hash = hash_table(L, c, &n);
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
    c->is_sealed = true;
}

bool tp_captured_is_unchanged(lua_State *L, tp_captured *c, uint32_t number)
{
    if (c->entries[number - 1].good == c->message)
        return true;
    start_walk(c);
    uint32_t n = 0;
    c->entries[number - 1].visited = c->walk;
    c->queue[n++] = number;
    push_list(L, c);
    for (uint32_t i = 0; i < n; i++) {
        const entry *e = &c->entries[c->queue[i] - 1];
        lua_rawgeti(L, -1, (int)c->queue[i]);
        bool is_same = e->good == c->message || (e->hash && hash_table(L, c, &n) == e->hash);
        lua_pop(L, 1);
        if (!is_same) {
            lua_pop(L, 1);
            return false;
        }
    }
    lua_pop(L, 1);
    for (uint32_t i = 0; i < n; i++)
        c->entries[c->queue[i] - 1].good = c->message;
    return true;
}

/* ---- plain tables ---- */

/* Adds the string on top to the list at the index, which has *n strings. Strings that were added
 * lately, as the names of fields often are, are not added again. */
static void keep_string(lua_State *L, int list, int *n, const void *lately[64])
{
    const void *s = lua_topointer(L, -1);
    const void **place = &lately[(uintptr_t)s >> 4 & 63];
    if (*place == s)
        return;
    *place = s;
    lua_pushvalue(L, -1);
    lua_rawseti(L, list, ++*n);
}

/* May the table on top be plain? It has no metatable, its values are of the right kinds, and tables
 * in it are either among those from number `first` on, which are being checked, or known to be
 * plain. */
static bool is_plain_here(lua_State *L, const tp_captured *c, uint32_t first, int strings,
                          int *nstrings, const void *lately[64])
{
    if (lua_getmetatable(L, -1)) {
        lua_pop(L, 1);
        return false;
    }
    lua_pushnil(L);
    while (lua_next(L, -2)) {
        for (int i = 0; i < 2; i++) {               /* key value, then key */
            int type = lua_type(L, -1);
            uint32_t number = type == LUA_TTABLE ? c->places[place_of(c, lua_topointer(L, -1))] : 0;
            bool fits = type == LUA_TTABLE
                            ? number >= first || (number && c->entries[number - 1].is_plain)
                            : type == LUA_TNUMBER || type == LUA_TSTRING || type == LUA_TBOOLEAN;
            if (!fits) {
                lua_pop(L, 2 - i);
                return false;
            }
            if (type == LUA_TSTRING)
                keep_string(L, strings, nstrings, lately);
            if (i == 0)
                lua_pop(L, 1);
        }
    }
    return true;
}

/* Marks the plain tables. Tables are numbered in the order in which they are met, so a table that
 * was met outside others (is_first) is followed by the tables that can be reached from it, and
 * these are checked together. */
uint32_t tp_captured_watch(lua_State *L, tp_captured *c, const tp_layout *layout)
{
    luaL_checkstack(L, 8, "captured tables");
    push_list(L, c);                                // list
    lua_newtable(L);                                // list strings
    int strings = lua_gettop(L), nstrings = 0;
    const void *lately[64] = { 0 };
    lua_pushvalue(L, strings);
    lua_rawseti(L, strings - 1, 0);
    uint32_t count = 0;
    for (uint32_t first = 0, end; first < c->n; first = end) {
        bool is_plain = true;
        for (end = first; end < c->n && (end == first || !c->entries[end].is_first); end++) {
            entry *e = &c->entries[end];
            e->is_plain = false;
            if (is_plain) {
                lua_rawgeti(L, strings - 1, (int)end + 1);
                is_plain = is_plain_here(L, c, first + 1, strings, &nstrings, lately) &&
                           tp_layout_hash(layout, e->table, &e->memory);
                lua_pop(L, 1);
            }
        }
        for (uint32_t i = first; is_plain && i < end; i++)
            c->entries[i].is_plain = true;
        count += is_plain ? end - first : 0;
    }
    lua_pop(L, 2);
    return count;
}

bool tp_captured_holds(const tp_captured *c, const tp_layout *layout)
{
    for (uint32_t i = 0; i < c->n; i++) {
        uint64_t memory;
        if (c->entries[i].is_plain && (!tp_layout_hash(layout, c->entries[i].table, &memory) ||
                                       memory != c->entries[i].memory))
            return false;
    }
    return true;
}

uint32_t tp_captured_find_plain(const tp_captured *c, const void *table)
{
    uint32_t number = tp_captured_find(c, table);
    return number && c->entries[number - 1].is_plain ? number : 0;
}

bool tp_captured_push_table(lua_State *L, const tp_captured *c, uint32_t number)
{
    if (number == 0 || number > c->n)
        return false;
    push_list(L, c);
    lua_rawgeti(L, -1, (int)number);
    lua_remove(L, -2);
    return true;
}

void tp_captured_renew(lua_State *L, int index)
{
    const tp_captured *old = lua_touserdata(L, index);
    tp_captured *c = tp_captured_push(L);           // c
    lua_getfenv(L, index);                          // c list
    for (uint32_t i = 1; i <= old->n; i++) {
        lua_rawgeti(L, -1, (int)i);
        if (tp_captured_add(L, c, old->entries[i - 1].is_first))
            tp_codec_raise_memory(L);
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
    tp_captured_seal(L, c);
    lua_replace(L, index);
}
