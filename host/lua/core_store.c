/* core_store.c: dictionaries and queues that all states of a host share (engine/store.h); the codec
 * encodes and decodes their values. */
#include "lua/core_private.h"

#include "base/deadline.h"
#include "codec/codec.h"
#include "engine/store.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- keys ---- */

enum { NUMBER_KEY = 1 + sizeof(double) };

/* A key as bytes: a letter for its type, then the string, number or boolean. Pushes a string that
 * keeps them alive. Raises for other types. */
static const char *push_key(lua_State *L, int index, size_t *len)
{
    char bytes[NUMBER_KEY] = "b";
    switch (lua_type(L, index)) {
    case LUA_TSTRING:
        lua_pushliteral(L, "s");
        lua_pushvalue(L, index);
        lua_concat(L, 2);
        break;
    case LUA_TNUMBER: {
        double x = lua_tonumber(L, index) + 0.0; /* -0 is 0 */
        bytes[0] = 'n';
        memcpy(bytes + 1, &x, sizeof x);
        lua_pushlstring(L, bytes, NUMBER_KEY);
        break;
    }
    default:
        luaL_argcheck(L, lua_isboolean(L, index), index, "no key");
        bytes[1] = (char)lua_toboolean(L, index);
        lua_pushlstring(L, bytes, 2);
    }
    return lua_tolstring(L, -1, len);
}

static void push_key_value(lua_State *L, const char *key, size_t len)
{
    double x;
    switch (*key) {
    case 's': lua_pushlstring(L, key + 1, len - 1); break;
    case 'n':
        memcpy(&x, key + 1, sizeof x);
        lua_pushnumber(L, x);
        break;
    default: lua_pushboolean(L, key[1]);
    }
}

/* ---- values ---- */

/* Makes a stored value of the Lua value at an index: a number, or a message. A pushed box owns the
 * message (nil for a number), and must be emptied when somebody else owns it. -1 with err set when
 * the value cannot travel. Raises out of memory. */
static int pack(lua_State *L, int index, tp_stored *value, tp_ref ***box, tp_error *err)
{
    static const char *const names[] = { "value" };
    context *ctx = get_context(L);
    *value = (tp_stored){ .number = lua_tonumber(L, index) };
    *box = NULL;
    if (lua_type(L, index) == LUA_TNUMBER) {
        lua_pushnil(L);
        return 0;
    }
    tp_codec_new_epoch(L);
    tp_buf_clear(&ctx->scratch);
    if (tp_encode(L, index, 1, names, 0, &ctx->scratch, err))
        return -1;
    *box = tp_codec_push_box(L, &tp_image_type);
    value->packed = tp_image_new(&ctx->scratch);
    if (!value->packed)
        tp_codec_raise_memory(L);
    **box = &value->packed->ref;
    return 0;
}

/* Pushes the stored value, and frees it. Raises when it cannot be decoded in this state. */
static void push_value(lua_State *L, tp_stored *value)
{
    if (!value->packed) {
        lua_pushnumber(L, value->number);
        return;
    }
    tp_ref **box = tp_codec_push_box(L, &tp_image_type);
    const tp_buf *m = &value->packed->message;
    tp_error err = { 0 };
    *box = &value->packed->ref;
    if (tp_decode(L, m->data, m->len, m->refs, m->nrefs, TP_DECODE_TRUSTED, NULL, &err) < 0)
        luaL_error(L, "%s", err.message);
    lua_remove(L, -2);
}

/* ---- dictionaries ---- */

static tp_dict *check_dict(lua_State *L)
{
    return tp_core_check_ref(L, 1, &tp_dict_type);
}

/* core.store.dict() -> a new dictionary */
static int l_store_dict(lua_State *L)
{
    tp_error err = { 0 };
    tp_dict *d;
    tp_ref **box = tp_codec_push_box(L, &tp_dict_type);
    if (tp_dict_open(&d, &err))
        return tp_codec_raise_memory(L);
    *box = (tp_ref *)(void *)d;
    return 1;
}

/* core.store.get(dict, key) -> version, value; 0 when there is none */
static int l_store_get(lua_State *L)
{
    size_t len;
    tp_stored value;
    tp_dict *d = check_dict(L);
    const char *key = push_key(L, 2, &len);
    uint64_t version = tp_dict_get(d, key, len, &value);
    lua_pushnumber(L, (double)version);
    if (!version)
        return 1;
    push_value(L, &value);
    return 2;
}

/* core.store.put(dict, key, value, version or nil) -> whether it was put; or nil and a message.
 * With a version it is put only if the key has that version (0: has no value). */
static int l_store_put(lua_State *L)
{
    size_t len;
    tp_stored value;
    tp_ref **box;
    tp_error err = { 0 };
    bool is_put;
    tp_dict *d = check_dict(L);
    const char *key = push_key(L, 2, &len);
    uint64_t expected = lua_isnoneornil(L, 4) ? TP_VERSION_ANY : (uint64_t)luaL_checknumber(L, 4);
    if (pack(L, 3, &value, &box, &err))
        return tp_core_push_message(L, &err);
    if (tp_dict_put(d, key, len, &value, expected, &is_put, &err))
        return tp_codec_raise_memory(L);
    if (is_put && box)
        *box = NULL;
    lua_pushboolean(L, is_put);
    return 1;
}

/* core.store.add(dict, key, number) -> the sum; or nil and a message */
static int l_store_add(lua_State *L)
{
    size_t len;
    tp_error err = { 0 };
    double sum;
    tp_dict *d = check_dict(L);
    double by = luaL_checknumber(L, 3);
    const char *key = push_key(L, 2, &len);
    if (tp_dict_add(d, key, len, by, &sum, &err))
        return err.code == TP_EMEMORY ? tp_codec_raise_memory(L) : tp_core_push_message(L, &err);
    lua_pushnumber(L, sum);
    return 1;
}

/* core.store.pop(dict, key, version or nil) -> whether it was there, and the value */
static int l_store_pop(lua_State *L)
{
    size_t len;
    tp_stored value;
    tp_dict *d = check_dict(L);
    uint64_t expected = lua_isnoneornil(L, 3) ? TP_VERSION_ANY : (uint64_t)luaL_checknumber(L, 3);
    const char *key = push_key(L, 2, &len);
    bool is_taken = tp_dict_pop(d, key, len, expected, &value);
    lua_pushboolean(L, is_taken);
    if (!is_taken)
        return 1;
    push_value(L, &value);
    return 2;
}

typedef struct snapshot {
    tp_entry *entries;
    size_t n;
} snapshot;

static int free_snapshot(lua_State *L)
{
    snapshot *s = lua_touserdata(L, 1);
    tp_entries_free(s->entries, s->n);
    *s = (snapshot){ 0 };
    return 0;
}

/* core.store.snapshot(dict) -> a list of all keys and values in turns, and the number of entries */
static int l_store_snapshot(lua_State *L)
{
    tp_error err = { 0 };
    tp_dict *d = check_dict(L);
    snapshot *s = lua_newuserdata(L, sizeof *s);
    *s = (snapshot){ 0 };
    lua_createtable(L, 0, 1);
    lua_pushcfunction(L, free_snapshot);
    lua_setfield(L, -2, "__gc");
    lua_setmetatable(L, -2);
    s->entries = tp_dict_snapshot(d, &s->n, &err);
    if (err.code)
        return tp_codec_raise_memory(L);
    lua_createtable(L, (int)(2 * s->n), 0);
    for (size_t i = 0; i < s->n; i++) {
        tp_stored value = s->entries[i].value;
        push_key_value(L, s->entries[i].key, s->entries[i].len);
        lua_rawseti(L, -2, (int)(2 * i + 1));
        s->entries[i].value.packed = NULL; /* push_value has it */
        push_value(L, &value);
        lua_rawseti(L, -2, (int)(2 * i + 2));
    }
    lua_pushnumber(L, (double)s->n);
    return 2;
}

/* ---- queues ---- */

static tp_store_queue *check_queue(lua_State *L)
{
    return tp_core_check_ref(L, 1, &tp_store_queue_type);
}

/* core.store.queue(capacity, 0 for any number of values) -> a new queue */
static int l_store_queue(lua_State *L)
{
    tp_error err = { 0 };
    tp_store_queue *q;
    uint64_t capacity = (uint64_t)fmin(luaL_checknumber(L, 1), 0x1p62);
    tp_ref **box = tp_codec_push_box(L, &tp_store_queue_type);
    if (tp_store_queue_open(&q, capacity, &err))
        return tp_codec_raise_memory(L);
    *box = (tp_ref *)(void *)q;
    return 1;
}

/* The results of putting and taking, by tp_moved. */
static void push_moved(lua_State *L, tp_moved moved, bool is_stuck)
{
    static const char *const names[] = { "moved", "not yet", "closed" };
    if (moved == TP_NO_ROOM)
        tp_codec_raise_memory(L);
    lua_pushstring(L, is_stuck ? "stuck" : names[moved]);
}

/* Waits in a worker; the item's permit is released meanwhile, and another worker may run in this
 * one's place. It wakes up now and then to see whether the item was cancelled, or whether nothing
 * can end the wait: then it gives true. */
static bool block(lua_State *L, const context *ctx, tp_store_queue *q, bool for_room,
                  uint64_t deadline)
{
    enum { STEP_NS = 50 * 1000000, STUCK_STEPS = 40 };
    tp_engine *e = ctx->host->engine;
    const tp_work *w = ctx->agent->worker.current;
    bool is_unwanted = false, is_hopeless = false;
    int stuck_for = 0;
    tp_job_begin_block(ctx->agent, deadline == UINT64_MAX);
    for (uint64_t now; (now = uv_hrtime()) < deadline && !is_unwanted && !is_hopeless;) {
        tp_store_queue_wait(q, for_room, deadline - now < STEP_NS ? deadline - now : STEP_NS);
        if (tp_store_queue_is_ready(q, for_room))
            break;
        is_unwanted = tp_engine_is_stopped(e) || (w && w->sink->is_cancelled(w));
        is_hopeless = tp_job_is_hopeless(ctx->agent);
        stuck_for = deadline == UINT64_MAX && tp_engine_is_stuck(e, ctx->agent) ? stuck_for + 1 : 0;
        if (stuck_for == STUCK_STEPS)
            tp_engine_give_up(e);
    }
    tp_job_end_block(ctx->agent);
    if (is_unwanted)
        luaL_error(L, "cancelled");
    return is_hopeless;
}

/* core.store.push(queue, value, seconds or nil) -> "moved", "not yet", "closed" or "stuck"; or nil
 * and a message. A worker waits for room, at most so long, or until everything is stuck; the owner
 * does not wait. */
static int l_store_push(lua_State *L)
{
    const context *ctx = get_context(L);
    tp_store_queue *q = check_queue(L);
    uint64_t deadline = tp_core_deadline_after(L, 3);
    tp_stored value;
    tp_ref **box;
    tp_error err = { 0 };
    if (pack(L, 2, &value, &box, &err))
        return tp_core_push_message(L, &err);
    tp_moved moved;
    bool is_stuck = false;
    while ((moved = tp_store_queue_put(q, &value)) == TP_NOT_YET && !is_stuck && ctx->agent &&
           uv_hrtime() < deadline)
        is_stuck = block(L, ctx, q, true, deadline);
    if (moved == TP_MOVED && box)
        *box = NULL;
    push_moved(L, moved, is_stuck && moved == TP_NOT_YET);
    return 1;
}

/* core.store.take(queue, seconds or nil) -> "moved" and a value, "not yet", "closed" or "stuck": as
 * core.store.push */
static int l_store_take(lua_State *L)
{
    const context *ctx = get_context(L);
    tp_store_queue *q = check_queue(L);
    uint64_t deadline = tp_core_deadline_after(L, 2);
    tp_stored value;
    tp_moved moved;
    bool is_stuck = false;
    while ((moved = tp_store_queue_take(q, &value)) == TP_NOT_YET && !is_stuck && ctx->agent &&
           uv_hrtime() < deadline)
        is_stuck = block(L, ctx, q, false, deadline);
    push_moved(L, moved, is_stuck && moved == TP_NOT_YET);
    if (moved != TP_MOVED)
        return 1;
    push_value(L, &value);
    return 2;
}

/* core.store.close(queue) */
static int l_store_close(lua_State *L)
{
    tp_store_queue_close(check_queue(L));
    return 0;
}

/* core.store.is_closed(queue) */
static int l_store_is_closed(lua_State *L)
{
    lua_pushboolean(L, tp_store_queue_is_closed(check_queue(L)));
    return 1;
}

/* core.store.is_stuck() -> is everything stuck, so that workers cannot go on? Called by the owner
 * when it waits for workers; paused jobs resume. */
static int l_store_is_stuck(lua_State *L)
{
    tp_engine *e = get_context(L)->host->engine;
    tp_engine_come_back(e);
    lua_pushboolean(L, tp_engine_is_stuck(e, NULL));
    return 1;
}

/* ---- their metatables ---- */

/* # of either */
static int count(lua_State *L)
{
    tp_dict *d = tp_codec_to_ref(L, 1, &tp_dict_type);
    lua_pushnumber(L, (double)(d ? tp_dict_count(d) : tp_store_queue_count(check_queue(L))));
    return 1;
}

/* core.store.install(methods of dictionaries, methods of queues): sets where methods are looked
 * up */
static int l_store_install(lua_State *L)
{
    const tp_ref_type *const types[] = { &tp_dict_type, &tp_store_queue_type };
    for (int i = 0; i < 2; i++) {
        luaL_checktype(L, i + 1, LUA_TTABLE);
        tp_codec_ref_type(L, types[i]);
        lua_pushvalue(L, i + 1);
        lua_setfield(L, -2, "__index");
        lua_pop(L, 1);
    }
    return 0;
}

/* (dict or queue, key): looks the method up in tidepool.store, which is loaded at its first use.
 * Upvalue: the name of the function there. */
static int index_store(lua_State *L)
{
    lua_getglobal(L, "require");
    lua_pushliteral(L, "tidepool.store");
    lua_call(L, 1, 1);
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_rawget(L, -2);
    lua_insert(L, 1);
    lua_pop(L, 1);
    lua_call(L, lua_gettop(L) - 1, 1);
    return 1;
}

static void set_meta(lua_State *L, const tp_ref_type *type, const char *index, const char *newindex,
                     const char *tostring)
{
    tp_codec_ref_type(L, type);
    const char *const names[][2] = { { "__index", index },
                                     { "__newindex", newindex },
                                     { "__tostring", tostring } };
    for (int i = 0; i < 3; i++) {
        lua_pushstring(L, names[i][1]);
        lua_pushcclosure(L, index_store, 1);
        lua_setfield(L, -2, names[i][0]);
    }
    lua_pushcfunction(L, count);
    lua_setfield(L, -2, "__len");
    lua_pop(L, 1);
}

static const luaL_Reg store_functions[] = {
    { "install", l_store_install },
    { "dict", l_store_dict },
    { "get", l_store_get },
    { "put", l_store_put },
    { "add", l_store_add },
    { "pop", l_store_pop },
    { "snapshot", l_store_snapshot },
    { "queue", l_store_queue },
    { "push", l_store_push },
    { "take", l_store_take },
    { "close", l_store_close },
    { "is_closed", l_store_is_closed },
    { "is_stuck", l_store_is_stuck },
    { NULL, NULL },
};

void tp_core_register_store(lua_State *L)
{
    set_meta(L, &tp_dict_type, "dict_index", "newindex", "dict_tostring");
    set_meta(L, &tp_store_queue_type, "queue_index", "newindex", "queue_tostring");
    tp_core_register(L, "store", store_functions);
}
