/* value.c: tp_value of the C API to Lua and back, and C functions that Lua calls.
 *
 * Values from Lua are trees in an arena. Nothing in them belongs to Lua, so the collector cannot
 * free any of it. */
#include "lua/value.h"

#include "codec/codec.h"

#include <lauxlib.h>
#include <lua.h>
#include <stdbool.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

enum { DEPTH_MAX = 100, PAGE_BYTES = 4000, ALIGN = 16 };

/* ---- arenas ---- */

typedef struct tp_page {
    struct tp_page *next;
    size_t used, size;
    _Alignas(ALIGN) char bytes[];
} tp_page;

void *tp_arena_take(tp_arena *arena, size_t n)
{
    if (n > SIZE_MAX / 2)
        return NULL;
    n = (n + ALIGN - 1) & ~(size_t)(ALIGN - 1);
    tp_page *p = arena->pages;
    if (!p || p->size - p->used < n) {
        size_t size = n > PAGE_BYTES ? n : PAGE_BYTES;
        p = malloc(sizeof *p + size);
        if (!p)
            return NULL;
        *p = (tp_page){ .next = arena->pages, .size = size };
        arena->pages = p;
    }
    void *taken = p->bytes + p->used;
    p->used += n;
    return taken;
}

char *tp_arena_copy(tp_arena *arena, const char *bytes, size_t n)
{
    char *copy = tp_arena_take(arena, n + 1);
    if (!copy)
        return NULL;
    if (n)
        memcpy(copy, bytes, n);
    copy[n] = '\0';
    return copy;
}

void tp_arena_reset(tp_arena *arena)
{
    tp_page *kept = arena->pages;
    if (!kept)
        return;
    arena->pages = kept->next;
    tp_arena_free(arena);
    if (kept->size > PAGE_BYTES) {
        free(kept);
        return;
    }
    kept->next = NULL;
    kept->used = 0;
    arena->pages = kept;
}

void tp_arena_free(tp_arena *arena)
{
    while (arena->pages) {
        tp_page *p = arena->pages;
        arena->pages = p->next;
        free(p);
    }
}

/* ---- to Lua ---- */

/* Which value of the program's it is. */
typedef struct place {
    const char *array; /* NULL: it is in none */
    size_t i;
} place;

static void refuse(lua_State *L, const place *at, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    lua_pushliteral(L, "");
    if (at->array)
        lua_pushfstring(L, "%s[%f]: ", at->array, (double)at->i);
    lua_pushvfstring(L, format, args);
    va_end(args);
    lua_concat(L, at->array ? 3 : 2);
    lua_error(L);
}

static void check_given(lua_State *L, const place *at, const void *p, size_t n, const char *what)
{
    if (n && !p)
        refuse(L, at, "%s are NULL, with n = %f", what, (double)n);
}

static void push(lua_State *L, const place *at, const tp_value *v, int depth)
{
    if (depth > DEPTH_MAX)
        refuse(L, at, "a value is nested deeper than %d", (int)DEPTH_MAX);
    luaL_checkstack(L, 4, "a value is nested too deep");
    switch (v->kind) {
    case TP_BOOLEAN:
        lua_pushboolean(L, v->as.boolean);
        return;
    case TP_NUMBER:
        lua_pushnumber(L, v->as.number);
        return;
    case TP_BYTES:
        check_given(L, at, v->as.bytes, v->n, "the bytes of a string");
        lua_pushlstring(L, v->as.bytes ? v->as.bytes : "", v->n);
        return;
    case TP_LIST:
        check_given(L, at, v->as.items, v->n, "the items of a list");
        lua_createtable(L, v->n < INT32_MAX ? (int)v->n : 0, 0);
        for (size_t i = 0; i < v->n; i++) {
            push(L, at, &v->as.items[i], depth + 1);
            lua_rawseti(L, -2, (int)(i + 1));
        }
        return;
    case TP_TABLE:
        check_given(L, at, v->as.pairs, v->n, "the pairs of a table");
        lua_newtable(L);
        for (size_t i = 0; i < v->n; i++) {
            const tp_pair *pair = &v->as.pairs[i];
            if (pair->key.kind == TP_NIL ||
                (pair->key.kind == TP_NUMBER && pair->key.as.number != pair->key.as.number))
                refuse(L, at, "the key of pair %d of a table is nil or nan", (int)i);
            push(L, at, &pair->key, depth + 1);
            push(L, at, &pair->value, depth + 1);
            lua_rawset(L, -3);
        }
        return;
    case TP_NIL:
        lua_pushnil(L);
        return;
    }
    refuse(L, at, "a value has the kind %d, which there is not", (int)v->kind);
}

void tp_value_push(struct lua_State *L, const tp_value *value, const char *array, size_t i)
{
    push(L, &(place){ array, i }, value, 1);
}

/* ---- from Lua ---- */

/* How many pairs a table has, and whether their keys are 1 to n. */
static size_t count_pairs(lua_State *L, int t, bool *is_list)
{
    size_t n = 0;
    lua_pushnil(L);
    while (lua_next(L, t)) {
        n++;
        lua_pop(L, 1);
    }
    *is_list = lua_objlen(L, t) == n && n < INT32_MAX;
    for (size_t i = 1; *is_list && i <= n; i++) {
        lua_rawgeti(L, t, (int)i);
        *is_list = !lua_isnil(L, -1);
        lua_pop(L, 1);
    }
    return n;
}

static const char *name_type(int type)
{
    switch (type) {
    case LUA_TFUNCTION: return "a function";
    case LUA_TTHREAD: return "a coroutine";
    case LUA_TUSERDATA:
    case LUA_TLIGHTUSERDATA: return "a userdata";
    default: return "a cdata, as a 64-bit integer is,";
    }
}

static int read_value(lua_State *L, int index, tp_value *out, tp_arena *arena, const char **why,
                      int depth);

static int read_table(lua_State *L, int t, tp_value *out, tp_arena *arena, const char **why,
                      int depth)
{
    bool is_list;
    size_t n = count_pairs(L, t, &is_list);
    if (is_list) {
        tp_value *items = tp_arena_take(arena, n * sizeof *items);
        if (!items)
            return -1;
        *out = tp_list(items, n);
        for (size_t i = 0; i < n; i++) {
            lua_rawgeti(L, t, (int)i + 1);
            int rc = read_value(L, lua_gettop(L), &items[i], arena, why, depth + 1);
            lua_pop(L, 1);
            if (rc)
                return -1;
        }
        return 0;
    }
    tp_pair *pairs = tp_arena_take(arena, n * sizeof *pairs);
    if (!pairs)
        return -1;
    *out = tp_table(pairs, n);
    lua_pushnil(L);
    for (size_t i = 0; lua_next(L, t); i++) {
        int top = lua_gettop(L);
        if (read_value(L, top - 1, &pairs[i].key, arena, why, depth + 1) ||
            read_value(L, top, &pairs[i].value, arena, why, depth + 1)) {
            lua_pop(L, 2);
            return -1;
        }
        lua_pop(L, 1);
    }
    return 0;
}

static int read_value(lua_State *L, int index, tp_value *out, tp_arena *arena, const char **why,
                      int depth)
{
    *why = NULL;
    switch (lua_type(L, index)) {
    case LUA_TNONE:
    case LUA_TNIL:
        *out = tp_nil();
        return 0;
    case LUA_TBOOLEAN:
        *out = tp_boolean(lua_toboolean(L, index));
        return 0;
    case LUA_TNUMBER:
        *out = tp_number(lua_tonumber(L, index));
        return 0;
    case LUA_TSTRING: {
        size_t len;
        const char *bytes = lua_tolstring(L, index, &len);
        const char *copy = tp_arena_copy(arena, bytes, len);
        *out = tp_bytes(copy, len);
        return copy ? 0 : -1;
    }
    case LUA_TTABLE:
        if (depth > DEPTH_MAX) {
            *why = "a table that is nested too deep, or in itself,";
            return -1;
        }
        return lua_checkstack(L, 4) ? read_table(L, index, out, arena, why, depth) : -1;
    default:
        *why = name_type(lua_type(L, index));
        return -1;
    }
}

int tp_value_read(struct lua_State *L, int index, tp_value *out, tp_arena *arena, const char **why)
{
    return read_value(L, index, out, arena, why, 1);
}

const tp_value *tp_value_field(const tp_value *table, const char *name)
{
    if (!table || !name || (table->n && !table->as.pairs))
        return NULL;
    size_t len = strlen(name);
    for (size_t i = 0; table->kind == TP_TABLE && i < table->n; i++) {
        const tp_pair *p = &table->as.pairs[i];
        if (p->key.kind == TP_BYTES && p->key.n == len && memcmp(p->key.as.bytes, name, len) == 0)
            return &p->value;
    }
    return NULL;
}

/* ---- C functions ---- */

static void free_callee(tp_ref *r)
{
    free(r);
}

const tp_ref_type tp_callee_type = { "tidepool.callee", free_callee };

tp_callee *tp_callee_new(const char *name, tp_c_function fn, void *user)
{
    size_t len = strlen(name);
    tp_callee *c = malloc(sizeof *c + len + 1);
    if (!c)
        return NULL;
    tp_ref_init(&c->ref, &tp_callee_type);
    c->fn = fn;
    c->user = user;
    memcpy(c->name, name, len + 1);
    return c;
}

/* One per Lua state, in which at most one C function runs at a time. */
struct tp_call {
    tp_arena in, out;
    tp_value *results;
    size_t n;
    const char *message; /* set when the call has failed */
};

static int copy_value(tp_call *call, tp_value *to, const tp_value *from, int depth)
{
    *to = *from;
    if (depth > DEPTH_MAX)
        return tp_call_fail(call, "a result is nested too deep");
    if (from->kind == TP_BYTES || from->kind == TP_LIST || from->kind == TP_TABLE)
        if (from->n && !from->as.bytes)
            return tp_call_fail(
                call,
                "tp_call_return: what a string, list or table consists of is NULL, with n > 0");
    if (from->kind == TP_BYTES) {
        to->as.bytes = tp_arena_copy(&call->out, from->as.bytes, from->n);
        return to->as.bytes ? 0 : tp_call_fail(call, TP_NO_MEMORY);
    }
    bool is_table = from->kind == TP_TABLE;
    if (!is_table && from->kind != TP_LIST)
        return 0;
    /* A pair is two values, one after the other. */
    size_t n = is_table ? from->n * 2 : from->n;
    tp_value *items = tp_arena_take(&call->out, n * sizeof *items);
    if (!items)
        return tp_call_fail(call, TP_NO_MEMORY);
    for (size_t i = 0; i < n; i++) {
        const tp_value *item = !is_table ? &from->as.items[i]
                               : i % 2   ? &from->as.pairs[i / 2].value
                                         : &from->as.pairs[i / 2].key;
        if (copy_value(call, &items[i], item, depth + 1))
            return -1;
    }
    if (is_table)
        to->as.pairs = (const tp_pair *)items;
    else
        to->as.items = items;
    return 0;
}

int tp_call_return(tp_call *call, const tp_value *results, size_t n)
{
    if (!call)
        return -1;
    tp_arena_reset(&call->out);
    call->message = NULL;
    call->n = 0;
    if (n && !results)
        return tp_call_fail(call, "tp_call_return: results is NULL");
    call->results = tp_arena_take(&call->out, n * sizeof *results);
    if (!call->results)
        return tp_call_fail(call, TP_NO_MEMORY);
    for (size_t i = 0; i < n; i++)
        if (copy_value(call, &call->results[i], &results[i], 1))
            return -1;
    call->n = n;
    return 0;
}

int tp_call_fail(tp_call *call, const char *message)
{
    if (!call)
        return -1;
    if (!message)
        message = "failed, without a message";
    const char *copy = tp_arena_copy(&call->out, message, strlen(message));
    call->message = copy ? copy : TP_NO_MEMORY;
    return -1;
}

/* invoke(callee, ...): upvalue 1 is the state's tp_call. */
static int invoke(lua_State *L)
{
    tp_call *call = lua_touserdata(L, lua_upvalueindex(1));
    const tp_callee *callee = tp_codec_to_ref(L, 1, &tp_callee_type);
    luaL_argcheck(L, callee, 1, "a registered C function expected");
    int n = lua_gettop(L) - 1;
    tp_arena_reset(&call->in);
    tp_arena_reset(&call->out);
    call->results = NULL;
    call->n = 0;
    call->message = NULL;
    tp_value *in = tp_arena_take(&call->in, (size_t)n * sizeof *in);
    if (!in)
        return tp_codec_raise_memory(L);
    for (int i = 0; i < n; i++) {
        const char *why;
        if (tp_value_read(L, i + 2, &in[i], &call->in, &why)) {
            if (!why)
                return tp_codec_raise_memory(L);
            lua_pushfstring(L, "%s: argument %d: %s does not reach C", callee->name, i + 1, why);
            return lua_error(L);
        }
    }
    int rc = callee->fn(callee->user, call, in, (size_t)n);
    if (rc || call->message) {
        if (call->message)
            lua_pushstring(L, call->message);
        else
            lua_pushfstring(L, "%s failed with code %d", callee->name, rc);
        return lua_error(L);
    }
    luaL_checkstack(L, (int)call->n + 4, "too many results");
    for (size_t i = 0; i < call->n; i++)
        tp_value_push(L, &call->results[i], "results", i);
    return (int)call->n;
}

static int free_call(lua_State *L)
{
    tp_call *call = lua_touserdata(L, 1);
    tp_arena_free(&call->in);
    tp_arena_free(&call->out);
    return 0;
}

void tp_value_push_invoke(struct lua_State *L)
{
    tp_call *call = lua_newuserdata(L, sizeof *call);
    *call = (tp_call){ 0 };
    lua_newtable(L);
    lua_pushcfunction(L, free_call);
    lua_setfield(L, -2, "__gc");
    lua_setmetatable(L, -2);
    lua_pushcclosure(L, invoke, 1);
}
