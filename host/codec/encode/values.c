/* values.c: writes any value, and tables, in which values nest. */
#include "codec/encode/encoder.h"

#include <limits.h>
#include <math.h>

enum { RUN_AFTER = 4 }; /* numbers in a row after which the rest of an array is packed */

/* Stack: table metatable. 1: the metatable was written; 0: it is to be dropped; -1: refused. */
APART static int put_metatable(encoder *e)
{
    const void *mt = lua_topointer(e->L, -1);
    struct known *k = tp_codec_find_known(e->c, mt);
    if (!k) {
        if (tp_encoder_scan_modules(e) < 0)
            return -1;
        k = tp_encoder_find_field(e, mt);
    }
    if (!k && e->defining < 0) { /* a definition takes along what its classes inherit from */
        if (e->flags & TP_ENCODE_ERROR_VALUE)
            return 0;
        return tp_encoder_refuse_class(e);
    }
    return tp_encoder_put_value(e) < 0 ? -1 : 1;
}

/* Packs numbers from item i on, up to the first that is no number. Gives the next item's index; 0
 * when refused. */
APART static size_t put_run(encoder *e, size_t i, size_t n)
{
    lua_State *L = e->L;
    uint32_t head = offset(e);
    if (put_tag_u32(e, T_RUN, 0) < 0)
        return 0;
    size_t first = i;
    for (; i <= n; i++) {
        if (room(e, 8) < 0)
            return 0;
        lua_rawgeti(L, -1, (int)i);
        bool is_number = lua_type(L, -1) == LUA_TNUMBER;
        double x = lua_tonumber(L, -1);
        lua_pop(L, 1);
        if (!is_number)
            break;
        if (isnan(x) && is_identity(e))
            x = NAN;
        memcpy(e->p, &x, sizeof x);
        e->p += sizeof x;
    }
    write_u32(e->base + head + 1, (uint32_t)(i - first));
    return i;
}

static int put_items(encoder *e, size_t n)
{
    lua_State *L = e->L;
    size_t row = 0;
    for (size_t i = 1; i <= n; i++) {
        lua_rawgeti(L, -1, (int)i);
        if (lua_type(L, -1) != LUA_TNUMBER) {
            row = 0;
        } else if (++row > RUN_AFTER && n - i >= RUN_AFTER) {
            lua_pop(L, 1);
            i = put_run(e, i, n);
            if (i == 0)
                return -1;
            i--; /* because the loop increments it */
            row = 0;
            continue;
        }
        if (tp_encoder_put_value(e) < 0)
            return tp_encoder_at_index(e, i);
        lua_pop(L, 1);
    }
    return 0;
}

static int put_pair(encoder *e)
{
    lua_State *L = e->L; /* key value */
    if (lua_type(L, -2) == LUA_TSTRING) {
        if (put_string(e, -2) < 0)
            return tp_encoder_at_key(e, -2);
    } else {
        lua_pushvalue(L, -2);
        if (tp_encoder_put_value(e) < 0) {
            lua_pop(L, 1);
            tp_encoder_at(e, " (key)", 6);
            return tp_encoder_at_key(e, -2);
        }
        lua_pop(L, 1);
    }
    return tp_encoder_put_value(e) < 0 ? tp_encoder_at_key(e, -2) : 0;
}

/* put_pairs for an identity. */
APART static int64_t put_ranked_pairs(encoder *e, size_t n)
{
    lua_State *L = e->L;
    int table = lua_gettop(L), count = tp_encoder_push_ranked_keys(e, n); /* table keys */
    for (int i = 1; i <= count; i++) {
        lua_rawgeti(L, table + 1, i);
        lua_pushvalue(L, -1);
        lua_rawget(L, table);                       /* table keys key value */
        if (put_pair(e) < 0)
            return -1;
        lua_pop(L, 2);
    }
    lua_settop(L, table);
    return count;
}

/* Writes the table on top without its items 1 to n, which are written already. Gives the number of
 * pairs, or -1. */
static int64_t put_pairs(encoder *e, const void *table, size_t n)
{
    if (is_identity(e))
        return put_ranked_pairs(e, n);
    lua_State *L = e->L;
    int64_t count = 0;
    uint32_t asize = 0;
    if (e->c->layout.asize)
        memcpy(&asize, (const char *)table + e->c->layout.asize, sizeof asize);
    bool can_skip = n > 0 && n < asize; /* then lua_next gives all items before the pairs */
    if (can_skip) {
        lua_pushnumber(L, 0);
        lua_rawgeti(L, -2, 0); /* the array part starts with [0] */
        if (!lua_isnil(L, -1)) {
            if (put_pair(e) < 0)
                return -1;
            count++;
        }
        lua_pop(L, 2);
        lua_pushnumber(L, (double)n);
    } else {
        lua_pushnil(L);
    }
    while (lua_next(L, -2)) {
        if (can_skip || !is_item(L, -2, n)) {
            if (put_pair(e) < 0)
                return -1;
            count++;
        }
        lua_pop(L, 1);
    }
    return count;
}

/* For the identity of an object whose metatable names, in its field __identity, the one field that
 * makes up the identity: writes that field. 1: written; 0: the metatable names none. */
APART static int put_part(encoder *e)
{
    lua_State *L = e->L;
    int table = lua_gettop(L), rc = 0;
    if (lua_getmetatable(L, -1)) {
        lua_pushliteral(L, "__identity");
        lua_rawget(L, -2);                          /* table metatable name */
        if (lua_type(L, -1) == LUA_TSTRING) {
            lua_rawget(L, table);
            rc = tp_encoder_put_value(e) < 0 ? -1 : 1;
        }
    }
    lua_settop(L, table);
    return rc;
}

/* Writes the table on top by value. */
static int put_contents(encoder *e, const void *table)
{
    lua_State *L = e->L;
    if (room(e, 9) < 0)
        return -1;
    uint32_t head = offset(e);
    size_t n = lua_objlen(L, -1);
    if (n > INT_MAX)
        return tp_encoder_refuse(e, TP_ECODEC, "a table of %zu items is too long", n);
    e->p[0] = T_TABLE;
    write_u32(e->p + 1, (uint32_t)n);
    e->p += 9;
    int top = lua_gettop(L);
    if (lua_getmetatable(L, -1)) {
        int travels = e->defining < 0 ? tp_encoder_push_travels(L, top + 1) : LUA_TNIL;
        bool is_empty = travels == LUA_TBOOLEAN && !lua_toboolean(L, -1);
        if (travels == LUA_TSTRING) {
            tp_encoder_refuse(e, TP_ECODEC, "%s", lua_tostring(L, -1));
            return -1;
        }
        lua_settop(L, top + 1);
        int rc = put_metatable(e);
        lua_settop(L, top);
        if (rc < 0)
            return e->npath == 0 ? tp_encoder_take_by_name(e) : -1;
        if (rc > 0)
            e->base[head] = (uint8_t)(T_OBJECT | (e->base[head] & SHARED));
        if (rc > 0 && is_empty) {
            write_u32(e->base + head + 1, 0);
            write_u32(e->base + head + 5, 0);
            return 0;
        }
    }
    write_u32(e->base + head + 5, 0); /* an identity that is a part has no pairs */
    int part = is_identity(e) ? put_part(e) : 0;
    if (part != 0)
        return part < 0 ? -1 : 0;
    if (n > 0 && put_items(e, n) < 0)
        return -1;
    int64_t pairs = put_pairs(e, table, n);
    if (pairs < 0)
        return -1;
    write_u32(e->base + head + 5, (uint32_t)pairs);
    return 0;
}

/* Writes the table on top where both sides have numbered tables. One that has been written to since
 * travels by value, with what is in it. */
static int put_captured(encoder *e, const void *table)
{
    tp_captured *all = e->captured;
    uint32_t number = tp_captured_find(all, table);
    if (number && tp_captured_is_unchanged(e->L, all, number))
        return put_tag_u32(e, T_CAPTURED, number);
    if (number)
        e->captured = NULL;
    int rc = put_contents(e, table);
    e->captured = all;
    return rc;
}

/* Writes the table on top in an image, where it gets the next number. */
static int put_numbered(encoder *e, const void *table)
{
    e->ntables++;
    if (e->adds_tables) {
        if (tp_captured_add(e->L, e->captured, e->inside == 0) < 0)
            return tp_encoder_refuse_memory(e);
    } else if (!e->captured || !tp_captured_is(e->captured, e->ntables, table)) {
        e->adds_tables = e->restart = true;
        return -1;
    }
    e->inside++;
    int rc = put_contents(e, table);
    e->inside--;
    return rc;
}

/* Writes the table on top in an outline. */
static int put_outlined(encoder *e, const void *table)
{
    uint32_t number = tp_captured_find_plain(e->outline, table);
    return number ? put_tag_u32(e, T_CAPTURED, number) : put_contents(e, table);
}

static int put_table(encoder *e)
{
    const void *table = lua_topointer(e->L, -1);
    int seen = tp_encoder_see(e, table);
    if (seen)
        return seen < 0 ? -1 : put_back(e, T_BACK);
    bool is_definition = e->defining >= 0 && e->depth == 0;
    struct known *k = is_definition ? NULL : tp_codec_find_known(e->c, table);
    if (k)
        return tp_encoder_put_known(e, k);
    if (e->c->scanned_epoch != e->c->epoch && tp_encoder_scan_modules(e) < 0)
        return -1;
    if (tp_encoder_deeper(e) < 0)
        return -1;
    int rc = e->outline    ? put_outlined(e, table)
             : e->is_image ? put_numbered(e, table)
             : e->captured ? put_captured(e, table)
                           : put_contents(e, table);
    e->depth--;
    return rc;
}

APART static int put_in_frame(lua_State *L)
{
    encoder *e = lua_touserdata(L, 1);
    tp_encoder_put_value(e); /* e has the refusal, if any */
    return 0;
}

/* Writes the value on top, which may nest. */
static int put_nested(encoder *e, int type)
{
    lua_State *L = e->L;
    if (!e->w)
        tp_encoder_acquire(e);
    /* a C function has 8,000 stack slots at most: the rest goes on in another one */
    if (!lua_checkstack(L, STACK_NEED)) {
        lua_pushcfunction(L, put_in_frame);
        lua_pushlightuserdata(L, e);
        lua_pushvalue(L, -3);
        lua_call(L, 2, 0);
        return e->code == TP_OK && !e->restart ? 0 : -1;
    }
    int top = lua_gettop(L);
    int rc = type == LUA_TTABLE      ? put_table(e)
             : type == LUA_TFUNCTION ? tp_encoder_put_function(e)
                                     : tp_encoder_put_userdata(e);
    if (rc < 0)
        lua_settop(L, top);
    return rc;
}

int tp_encoder_put_value(encoder *e)
{
    lua_State *L = e->L;
    int type = lua_type(L, -1);
    switch (type) {
    case LUA_TNUMBER:
        return put_number(e, lua_tonumber(L, -1));
    case LUA_TSTRING:
        return put_string(e, -1);
    case LUA_TNIL:
        return put_tag(e, T_NIL);
    case LUA_TBOOLEAN:
        return put_tag(e, lua_toboolean(L, -1) ? T_TRUE : T_FALSE);
    case LUA_TTABLE:
    case LUA_TFUNCTION:
    case LUA_TUSERDATA:
        return put_nested(e, type);
    case TYPE_CDATA:
        return tp_encoder_put_cdata(e);
    case LUA_TTHREAD:
        return tp_encoder_refuse_type(e, "a coroutine");
    case LUA_TLIGHTUSERDATA: /* NULL is the same everywhere, and JSON libraries use it for null */
        if (!lua_touserdata(L, -1))
            return put_tag(e, T_NULL);
        return tp_encoder_refuse_type(e, "a light userdata");
    default:
        return tp_encoder_refuse_type(e, "a value of an unknown type");
    }
}
