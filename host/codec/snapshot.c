/* snapshot.c: copies of a table's memory, to compare with. */
#include "codec/snapshot.h"

#include <lua.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum { NODE_SIZE = 24, VALUE_SIZE = 8, TABLE_SIZE = 64, LARGEST = 1 << 21 };

static uint32_t u32_at(const void *table, int at)
{
    uint32_t n;
    memcpy(&n, (const char *)table + at, sizeof n);
    return n;
}

static uint64_t u64_at(const void *table, int at)
{
    uint64_t n;
    memcpy(&n, (const char *)table + at, sizeof n);
    return n;
}

/* Finds where a table keeps the size of its array part. Reads only the table's own 64 bytes, from
 * the end, since not all of the bytes before that field are initialised. */
static int find_asize(lua_State *L)
{
    static const int sizes[] = { 0, 37, 100, 3 };
    int found = 0;
    for (int at = TABLE_SIZE - 4; sizeof(void *) == 8 && at >= 8 && !found; at -= 4) {
        bool fits = true;
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes && fits; i++) {
            lua_createtable(L, sizes[i], 0);
            fits = u32_at(lua_topointer(L, -1), at) == (sizes[i] ? (uint32_t)sizes[i] + 1 : 0);
            lua_pop(L, 1);
        }
        if (fits)
            found = at;
    }
    return found;
}

/* Does the layout fit the table on top, which has this many places in its hash part and this
 * metatable? */
static bool fits(lua_State *L, const tp_layout *l, uint32_t places, const void *metatable)
{
    const char *table = lua_topointer(L, -1);
    return u32_at(table, l->hmask) == places - 1 &&
           u64_at(table, l->metatable) == (uint64_t)(uintptr_t)metatable;
}

/* Do the table's parts, where the layout says that they are, hold the values that they were given?
 * Pointers are followed only when all else fits. */
static bool has_parts(lua_State *L, const tp_layout *l)
{
    enum { FIELDS = 4 };
    double item, field;
    lua_createtable(L, 1, FIELDS);
    lua_pushnumber(L, 1.5);
    lua_rawseti(L, -2, 1);
    lua_pushnumber(L, 2.5);
    lua_setfield(L, -2, "field");
    const void *table = lua_topointer(L, -1);
    bool has_item = false, has_field = false;
    if (fits(L, l, FIELDS, NULL) && u32_at(table, l->asize) == 2) {
        const char *array = (const char *)(uintptr_t)u64_at(table, l->array),
                   *node = (const char *)(uintptr_t)u64_at(table, l->node);
        memcpy(&item, array + VALUE_SIZE, sizeof item);
        has_item = item == 1.5;
        for (int i = 0; i < FIELDS; i++) {
            memcpy(&field, node + (size_t)i * NODE_SIZE, sizeof field);
            has_field |= field == 2.5;
        }
    }
    lua_pop(L, 1);
    return has_item && has_field;
}

void tp_layout_find(lua_State *L, tp_layout *layout)
{
    *layout = (tp_layout){ .asize = find_asize(L) };
    if (layout->asize < 40 || layout->asize > TABLE_SIZE - 8)
        return;
    tp_layout all = { layout->asize, layout->asize + 4, layout->asize - 32, layout->asize - 8,
                      layout->asize - 16 };
    lua_createtable(L, 0, 30); /* becomes 32 places */
    bool is_right = fits(L, &all, 32, NULL);
    lua_pushvalue(L, -1);
    lua_setmetatable(L, -2);
    is_right = is_right && fits(L, &all, 32, lua_topointer(L, -1));
    lua_pop(L, 1);
    if (is_right && has_parts(L, &all))
        *layout = all;
}

/* Reads the table's head and the sizes of its parts. False when the layout is not known. */
static bool look(const tp_layout *l, const void *table, uint64_t head[5], size_t *array,
                 size_t *node)
{
    if (!l->hmask || !table)
        return false;
    head[0] = u32_at(table, l->asize);
    head[1] = u32_at(table, l->hmask);
    head[2] = u64_at(table, l->array);
    head[3] = u64_at(table, l->node);
    head[4] = u64_at(table, l->metatable);
    *array = (size_t)head[0] * VALUE_SIZE;
    *node = ((size_t)head[1] + 1) * NODE_SIZE;
    return true;
}

void tp_snapshot_take(tp_snapshot *s, const tp_layout *layout, const void *table)
{
    size_t array, node;
    s->table = NULL;
    if (!look(layout, table, s->head, &array, &node) || array + node > LARGEST)
        return;
    if (array + node > s->room) {
        uint8_t *bytes = realloc(s->bytes, array + node);
        if (!bytes)
            return;
        s->bytes = bytes;
        s->room = (uint32_t)(array + node);
    }
    if (array)
        memcpy(s->bytes, (const void *)(uintptr_t)s->head[2], array);
    memcpy(s->bytes + array, (const void *)(uintptr_t)s->head[3], node);
    s->size = (uint32_t)(array + node);
    s->table = table;
}

bool tp_snapshot_holds(const tp_snapshot *s, const tp_layout *layout, const void *table)
{
    uint64_t head[5];
    size_t array, node;
    if (!s->table || s->table != table || !look(layout, table, head, &array, &node))
        return false;
    if (memcmp(head, s->head, sizeof head) != 0)
        return false;
    return (array == 0 || memcmp(s->bytes, (const void *)(uintptr_t)head[2], array) == 0) &&
           memcmp(s->bytes + array, (const void *)(uintptr_t)head[3], node) == 0;
}

uint32_t tp_layout_places(const tp_layout *layout, const void *table)
{
    return layout->hmask ? u32_at(table, layout->hmask) + 1 : 0;
}

/* `size` must be a multiple of 8. */
static uint64_t add_words(uint64_t h, const void *words, size_t size)
{
    uint64_t word;
    for (const char *p = words, *end = p + size; p < end; p += sizeof word) {
        memcpy(&word, p, sizeof word);
        h = (h ^ word) * UINT64_C(0x9E3779B97F4A7C15);
        h ^= h >> 32;
    }
    return h;
}

bool tp_layout_hash(const tp_layout *layout, const void *table, uint64_t *hash)
{
    uint64_t head[5];
    size_t array, node;
    if (!look(layout, table, head, &array, &node))
        return false;
    uint64_t h = add_words(1, head, sizeof head);
    if (array)
        h = add_words(h, (const void *)(uintptr_t)head[2], array);
    *hash = add_words(h, (const void *)(uintptr_t)head[3], node);
    return true;
}

void tp_snapshot_free(tp_snapshot *s)
{
    free(s->bytes);
    *s = (tp_snapshot){ 0 };
}
