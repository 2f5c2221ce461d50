/* core_store.c: dictionaries and queues that all states of a host share (engine/store.h); the codec
 * encodes and decodes their values. In a worker process its host keeps them. */
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

/* Who keeps the stores of this process; NULL: it does. */
static const tp_store_keeper *keeper_of(const context *ctx)
{
    return ctx->host->stores;
}

/* Makes a stored value of the Lua value at an index: a number, or a message. A pushed box owns the
 * message (nil for a number), and must be emptied when somebody else owns it. -1 with err set when
 * the value cannot travel. Raises out of memory. */
static int pack(lua_State *L, int index, tp_stored *value, tp_ref ***box, tp_error *err)
{
    static const char *const names[] = { "value" };
    const tp_store_keeper *keeper = keeper_of(get_context(L));
    *value = (tp_stored){ .number = lua_tonumber(L, index) };
    *box = NULL;
    if (lua_type(L, index) == LUA_TNUMBER) {
        lua_pushnil(L);
        return 0;
    }
    tp_ref **made = tp_codec_push_box(L, &tp_image_type);
    tp_image *image = tp_image_new(&(tp_buf){ 0 });
    if (!image)
        tp_codec_raise_memory(L);
    *made = &image->ref;
    tp_codec_new_epoch(L);
    if (tp_encode(L, index, 1, names, keeper ? keeper->encoding : 0, &image->message, err))
        return -1;
    for (uint32_t i = 0; i < image->message.nrefs && !keeper; i++)
        if (image->message.refs[i]->type == &tp_array_type)
            tp_array_share((tp_array *)(void *)image->message.refs[i]); /* for worker processes */
    *box = made;
    value->packed = image;
    return 0;
}

/* Pushes the stored value, and frees it. -1 with err set when it cannot be decoded in this
 * state. */
static int push_value(lua_State *L, tp_stored *value, tp_error *err)
{
    if (!value->packed) {
        lua_pushnumber(L, value->number);
        return 0;
    }
    tp_ref **box = tp_codec_push_box(L, &tp_image_type);
    const tp_buf *m = &value->packed->message;
    *box = &value->packed->ref;
    value->packed = NULL;
    int n = tp_decode(L, m->data, m->len, m->refs, m->nrefs,
                      value->is_foreign ? 0 : TP_DECODE_TRUSTED, NULL, err);
    if (n < 0)
        return -1;
    lua_settop(L, lua_gettop(L) - n + 1); /* a well-formed message has one value */
    lua_remove(L, -2);
    return 0;
}

/* ---- operations ----
 *
 * Where one fails, these functions return nil and a message; out of memory is raised. */

static tp_store *check_store(lua_State *L, const tp_ref_type *type)
{
    return tp_core_check_ref(L, 1, type);
}

/* pushes nil and the message; returns 2. Raises out of memory. */
static int push_refusal(lua_State *L, const tp_error *err)
{
    return err->code == TP_EMEMORY ? tp_codec_raise_memory(L) : tp_core_push_message(L, err);
}

/* After an operation: empties the box when the store has taken its value; otherwise the box still
 * owns it. */
static void settle(tp_ref **box, const tp_store_op *op)
{
    if (box && !op->value.packed)
        *box = NULL;
}

static int new_store(lua_State *L, tp_store_verb verb, double capacity, const tp_ref_type *type)
{
    tp_error err;
    tp_error_clear(&err);
    tp_store_op op = { .verb = verb, .number = capacity };
    tp_ref **box = tp_codec_push_box(L, type);
    if (tp_store_perform(NULL, keeper_of(get_context(L)), &op, &err))
        return push_refusal(L, &err);
    *box = (tp_ref *)(void *)op.made;
    return 1;
}

/* ---- dictionaries ---- */

/* core.store.dict() -> a new dictionary */
static int l_store_dict(lua_State *L)
{
    return new_store(L, TP_STORE_NEW_DICT, 0, &tp_dict_type);
}

/* core.store.get(dict, key) -> version, value; 0 when there is none */
static int l_store_get(lua_State *L)
{
    tp_error err;
    tp_error_clear(&err);
    tp_store *d = check_store(L, &tp_dict_type);
    tp_store_op op = { .verb = TP_STORE_GET };
    op.key = push_key(L, 2, &op.len);
    if (tp_store_perform(d, NULL, &op, &err))
        return push_refusal(L, &err);
    lua_pushnumber(L, (double)op.version);
    if (!op.version)
        return 1;
    return push_value(L, &op.value, &err) ? push_refusal(L, &err) : 2;
}

static uint64_t opt_version(lua_State *L, int index)
{
    return lua_isnoneornil(L, index) ? TP_VERSION_ANY : (uint64_t)luaL_checknumber(L, index);
}

/* core.store.put(dict, key, value, version or nil) -> whether it was put; or nil and a message.
 * With a version it is put only if the key has that version (0: has no value). */
static int l_store_put(lua_State *L)
{
    tp_ref **box;
    tp_error err;
    tp_error_clear(&err);
    tp_store *d = check_store(L, &tp_dict_type);
    tp_store_op op = { .verb = TP_STORE_PUT, .version = opt_version(L, 4) };
    op.key = push_key(L, 2, &op.len);
    if (pack(L, 3, &op.value, &box, &err) || tp_store_perform(d, NULL, &op, &err))
        return push_refusal(L, &err);
    settle(box, &op);
    lua_pushboolean(L, op.is_done);
    return 1;
}

/* core.store.add(dict, key, number) -> the sum; or nil and a message */
static int l_store_add(lua_State *L)
{
    tp_error err;
    tp_error_clear(&err);
    tp_store *d = check_store(L, &tp_dict_type);
    tp_store_op op = { .verb = TP_STORE_ADD, .number = luaL_checknumber(L, 3) };
    op.key = push_key(L, 2, &op.len);
    if (tp_store_perform(d, NULL, &op, &err))
        return push_refusal(L, &err);
    lua_pushnumber(L, op.number);
    return 1;
}

/* core.store.pop(dict, key, version or nil) -> whether it was there, and the value */
static int l_store_pop(lua_State *L)
{
    tp_error err;
    tp_error_clear(&err);
    tp_store *d = check_store(L, &tp_dict_type);
    tp_store_op op = { .verb = TP_STORE_POP, .version = opt_version(L, 3) };
    op.key = push_key(L, 2, &op.len);
    if (tp_store_perform(d, NULL, &op, &err))
        return push_refusal(L, &err);
    lua_pushboolean(L, op.is_done);
    if (!op.is_done)
        return 1;
    return push_value(L, &op.value, &err) ? push_refusal(L, &err) : 2;
}

static int free_op(lua_State *L)
{
    tp_store_op_clear(lua_touserdata(L, 1));
    return 0;
}

/* core.store.list(dict) -> a list of all keys and values in turns, and the number of entries */
static int l_store_list(lua_State *L)
{
    tp_error err;
    tp_error_clear(&err);
    tp_store *d = check_store(L, &tp_dict_type);
    tp_store_op *op = lua_newuserdata(L, sizeof *op);
    *op = (tp_store_op){ .verb = TP_STORE_LIST };
    lua_createtable(L, 0, 1);
    lua_pushcfunction(L, free_op);
    lua_setfield(L, -2, "__gc");
    lua_setmetatable(L, -2);
    if (tp_store_perform(d, NULL, op, &err))
        return push_refusal(L, &err);
    lua_createtable(L, (int)(2 * op->n), 0);
    for (size_t i = 0; i < op->n; i++) {
        push_key_value(L, op->entries[i].key, op->entries[i].len);
        lua_rawseti(L, -2, (int)(2 * i + 1));
        if (push_value(L, &op->entries[i].value, &err))
            return push_refusal(L, &err);
        lua_rawseti(L, -2, (int)(2 * i + 2));
    }
    lua_pushnumber(L, (double)op->n);
    return 2;
}

/* ---- queues ---- */

/* core.store.queue(capacity, 0 for any number of values) -> a new queue */
static int l_store_queue(lua_State *L)
{
    double capacity = fmin(luaL_checknumber(L, 1), 0x1p62);
    return new_store(L, TP_STORE_NEW_QUEUE, capacity, &tp_store_queue_type);
}

static bool is_unwanted(void *user)
{
    const tp_agent *a = user;
    tp_work *w = a->worker.current;
    /* told first: an engine that is stopped has cancelled its job */
    return (w && tp_work_tell_cancelled(w)) || tp_engine_is_stopped(a->engine);
}

/* Carries out PUSH or TAKE. A worker waits meanwhile, at most until the deadline, or until
 * everything is stuck; the owner does not wait. Not 0 with err set when that fails. */
static int move(lua_State *L, tp_store *q, tp_store_op *op, uint64_t deadline, tp_error *err)
{
    enum { LOOK_NS = 50 * 1000000 };
    const context *ctx = get_context(L);
    uint64_t now = uv_hrtime();
    op->wait_ns = deadline == UINT64_MAX ? UINT64_MAX : deadline > now ? deadline - now : 0;
    if (tp_store_perform(q, NULL, op, err))
        return -1;
    while (op->moved == TP_NOT_YET && ctx->agent && !keeper_of(ctx) && uv_hrtime() < deadline) {
        tp_agent *a = ctx->agent;
        op->moved = tp_store_await(q, op->verb == TP_STORE_PUSH, a, deadline, LOOK_NS, is_unwanted,
                                   a);
        if (a->worker.current)
            a->worker.current->sink->take_permit(a->worker.current);
        if (op->moved == TP_MOVED && tp_store_perform(q, NULL, op, err))
            return -1;
    }
    return op->moved == TP_UNWANTED ? tp_error_set(err, TP_EUSAGE, "cancelled") : 0;
}

static void push_moved(lua_State *L, tp_moved moved)
{
    static const char *const names[] = { "moved", "not yet", "closed", "stuck" };
    lua_pushstring(L, names[moved]);
}

/* core.store.push(queue, value, seconds or nil) -> "moved", "not yet", "closed" or "stuck"; or nil
 * and a message. A worker waits for room, at most so long, or until everything is stuck; the owner
 * does not wait. */
static int l_store_push(lua_State *L)
{
    tp_ref **box;
    tp_error err;
    tp_error_clear(&err);
    tp_store *q = check_store(L, &tp_store_queue_type);
    uint64_t deadline = tp_core_deadline_after(L, 3);
    tp_store_op op = { .verb = TP_STORE_PUSH };
    if (pack(L, 2, &op.value, &box, &err) || move(L, q, &op, deadline, &err))
        return push_refusal(L, &err);
    settle(box, &op);
    push_moved(L, op.moved);
    return 1;
}

/* core.store.take(queue, seconds or nil) -> "moved" and a value, "not yet", "closed" or "stuck"; or
 * nil and a message: as core.store.push */
static int l_store_take(lua_State *L)
{
    tp_error err;
    tp_error_clear(&err);
    tp_store *q = check_store(L, &tp_store_queue_type);
    tp_store_op op = { .verb = TP_STORE_TAKE };
    if (move(L, q, &op, tp_core_deadline_after(L, 2), &err))
        return push_refusal(L, &err);
    push_moved(L, op.moved);
    if (op.moved != TP_MOVED)
        return 1;
    return push_value(L, &op.value, &err) ? push_refusal(L, &err) : 2;
}

/* An operation that gives `is_done` or `number`, which is pushed; or nil and a message. */
static int ask(lua_State *L, tp_store *s, tp_store_verb verb)
{
    tp_error err;
    tp_error_clear(&err);
    tp_store_op op = { .verb = verb };
    if (tp_store_perform(s, NULL, &op, &err))
        return push_refusal(L, &err);
    if (verb == TP_STORE_COUNT)
        lua_pushnumber(L, op.number);
    else
        lua_pushboolean(L, op.is_done);
    return 1;
}

/* core.store.close(queue) */
static int l_store_close(lua_State *L)
{
    return ask(L, check_store(L, &tp_store_queue_type), TP_STORE_CLOSE);
}

/* core.store.is_closed(queue) */
static int l_store_is_closed(lua_State *L)
{
    return ask(L, check_store(L, &tp_store_queue_type), TP_STORE_IS_CLOSED);
}

/* core.store.is_stuck() -> is everything stuck, so that workers cannot go on? When the owner asks,
 * it waits for workers, and paused jobs resume. */
static int l_store_is_stuck(lua_State *L)
{
    const context *ctx = get_context(L);
    tp_engine *e = ctx->host->engine;
    const tp_store_keeper *keeper = keeper_of(ctx);
    if (!ctx->agent)
        tp_engine_come_back(e);
    lua_pushboolean(L, keeper ? keeper->is_stuck(keeper->user)
                              : tp_engine_is_stuck(e, ctx->agent));
    return 1;
}

/* ---- their metatables ---- */

/* # of either */
static int count(lua_State *L)
{
    tp_store *s = tp_codec_to_ref(L, 1, &tp_dict_type);
    return ask(L, s ? s : check_store(L, &tp_store_queue_type), TP_STORE_COUNT);
}

/* core.store.install(methods of dictionaries, methods of queues) -> the metatables of both: sets
 * where methods are looked up */
static int l_store_install(lua_State *L)
{
    const tp_ref_type *const types[] = { &tp_dict_type, &tp_store_queue_type };
    for (int i = 0; i < 2; i++) {
        luaL_checktype(L, i + 1, LUA_TTABLE);
        tp_codec_ref_type(L, types[i]);
        lua_pushvalue(L, i + 1);
        lua_setfield(L, -2, "__index");
    }
    return 2;
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
    { "list", l_store_list },
    { "queue", l_store_queue },
    { "push", l_store_push },
    { "take", l_store_take },
    { "close", l_store_close },
    { "is_closed", l_store_is_closed },
    { "is_stuck", l_store_is_stuck },
    { NULL, NULL },
};

void tp_core_open_store(lua_State *L)
{
    set_meta(L, &tp_dict_type, "dict_index", "newindex", "dict_tostring");
    set_meta(L, &tp_store_queue_type, "queue_index", "newindex", "queue_tostring");
}

void tp_core_register_store(lua_State *L)
{
    tp_core_register(L, "store", store_functions);
}
