/* core_func.c: functions as the engine knows them, and their images for workers. */
#include "lua/core_private.h"

#include "codec/captured.h"
#include "codec/codec.h"
#include "codec/identity.h"
#include "engine/func.h"

#include <lauxlib.h>
#include <string.h>
#include <uv.h>

/* core.func.new(name, limit) -> func */
static int l_func_new(lua_State *L)
{
    const char *name = luaL_checkstring(L, 1);
    unsigned limit = (unsigned)luaL_optinteger(L, 2, 0);
    tp_ref **box = tp_codec_push_box(L, &tp_func_type);
    tp_func *f = tp_func_new(name, limit);
    if (!f)
        return tp_codec_raise_memory(L);
    *box = &f->ref;
    return 1;
}

/* core.func.stats(func) -> queued, running, done, failed; and of the durations of all attempts, in
 * seconds: mean, median, 90th and 99th percentile, maximum (not before the first one is over) */
static int l_func_stats(lua_State *L)
{
    tp_func *f = tp_core_check_ref(L, 1, &tp_func_type);
    uv_mutex_t *lock = tp_engine_lock(get_context(L)->host->engine);
    uv_mutex_lock(lock);
    double counts[4] = { (double)f->queued, (double)f->active, (double)f->done, (double)f->failed };
    tp_durations d = f->durations;
    uv_mutex_unlock(lock);
    for (int i = 0; i < 4; i++)
        lua_pushnumber(L, counts[i]);
    if (d.count == 0)
        return 4;
    lua_pushnumber(L, d.total_ns / (double)d.count * 1e-9);
    lua_pushnumber(L, tp_durations_quantile(&d, 0.5) * 1e-9);
    lua_pushnumber(L, tp_durations_quantile(&d, 0.9) * 1e-9);
    lua_pushnumber(L, tp_durations_quantile(&d, 0.99) * 1e-9);
    lua_pushnumber(L, d.max_ns * 1e-9);
    return 9;
}

/* core.func.mean(func) -> seconds that an item took lately on workers (0: not known), those that
 * all items have taken so far, and those that an item takes on the devices that are known to run
 * it, together (0: not known). */
static int l_func_mean(lua_State *L)
{
    const tp_func *f = tp_core_check_ref(L, 1, &tp_func_type);
    uv_mutex_t *lock = tp_engine_lock(get_context(L)->host->engine);
    uv_mutex_lock(lock);
    double ns = f->item_ns, all_ns = f->durations.total_ns, speed = 0;
    for (int d = 0; d < 64; d++)
        speed += f->site_ns[d] > 0 ? 1 / (double)f->site_ns[d] : 0;
    uv_mutex_unlock(lock);
    lua_pushnumber(L, ns * 1e-9);
    lua_pushnumber(L, all_ns * 1e-9);
    lua_pushnumber(L, speed > 0 ? 1e-9 / speed : 0);
    return 3;
}

/* its address is the key of a list in the environment of a func's userdata; the list has these
 * items: */
static const char kept_key = 0;
/* the captured tables of its last image; that image, if it has an outline; the outline */
enum { TABLES = 1, OUTLINED, OUTLINE };

/* Stack: the func at 7. Pushes, as 8, the captured tables of its last image, or nil; then that
 * image and its outline, or nil for each. They lie in the func's own environment, so that the
 * collector can free all of them when only they refer to each other. */
static void push_kept(lua_State *L)
{
    lua_getfenv(L, 7);
    lua_pushlightuserdata(L, (void *)&kept_key);
    lua_rawget(L, -2);
    lua_replace(L, 8);                              // list or nil
    for (int i = TABLES; i <= OUTLINE; i++) {
        if (lua_istable(L, 8))
            lua_rawgeti(L, 8, i);
        else
            lua_pushnil(L);
    }
    lua_remove(L, 8);
}

/* Stores the values at 8, 9 and 10 for the func at 7. */
static void keep(lua_State *L)
{
    lua_createtable(L, 0, 1);
    lua_pushlightuserdata(L, (void *)&kept_key);
    lua_createtable(L, OUTLINE, 0);                 // env key list
    for (int i = TABLES; i <= OUTLINE; i++) {
        lua_pushvalue(L, 7 + i);
        lua_rawseti(L, -2, i);
    }
    lua_rawset(L, -3);
    lua_setfenv(L, 7);
}

/* Stack: as l_func_image has it after push_kept. Would encoding give the image at 6 again? */
static bool is_same_outline(lua_State *L, unsigned flags, tp_buf *scratch)
{
    if (lua_isnoneornil(L, 6) || !lua_rawequal(L, 6, 9))
        return false;
    const tp_image *outline = tp_codec_to_ref(L, 10, &tp_image_type);
    return outline && tp_image_outline(L, 1, 8, flags, scratch) && tp_image_is(outline, scratch);
}

/* Stack: the image at the top, its captured tables at 8. Stores them for the func at 7, with an
 * outline if the image is large. */
static void keep_outline(lua_State *L, unsigned flags, tp_buf *scratch)
{
    const tp_image *image = tp_codec_to_ref(L, -1, &tp_image_type);
    lua_pushnil(L);                                 // image nil
    if (image->message.len >= TP_IMAGE_LARGE && tp_encode_watch(L, 8) &&
        tp_image_outline(L, 1, 8, flags, scratch)) {
        tp_ref **box = tp_codec_push_box(L, &tp_image_type);
        tp_image *outline = tp_image_new(scratch);
        if (!outline)
            tp_codec_raise_memory(L);
        *box = &outline->ref;
        lua_replace(L, -2);                         // image outline
    }
    lua_replace(L, 10);
    lua_pushvalue(L, -1);
    lua_replace(L, 9);
    keep(L);
}

/* How many bytes the value on top takes in a message; 0: it cannot travel. */
static size_t measure(lua_State *L, tp_buf *scratch)
{
    tp_error err = { 0 };
    tp_buf_clear(scratch);
    return tp_encode(L, lua_gettop(L), 1, NULL, 0, scratch, &err) ? 0 : scratch->len;
}

/* Which value that the function at 1 captures, as an upvalue or a global, is the largest? Notes it
 * for the function of that name. Changes nothing on the stack. */
static void note_captured(lua_State *L, uint32_t name, tp_buf *scratch)
{
    tp_trace *trace = tp_engine_trace(get_context(L)->host->engine);
    const char *largest = NULL, *captured;
    size_t most = 0, size;
    int top = lua_gettop(L);
    for (int i = 1; (captured = lua_getupvalue(L, 1, i)) != NULL; i++) {
        size = measure(L, scratch);
        if (size > most)
            /* `captured` stays valid: the function keeps the string alive */
            most = size, largest = captured;
        lua_settop(L, top);
    }
    tp_codec_inspect(L, 1, scratch);                // globals strings
    lua_getfenv(L, 1);                              // globals strings env
    for (size_t i = 1; i <= lua_objlen(L, top + 1); i++) {
        lua_rawgeti(L, top + 1, (int)i);
        captured = lua_tostring(L, -1);
        lua_rawget(L, top + 3);                     // globals strings env value
        size = measure(L, scratch);
        if (captured && size > most)
            /* `captured` stays valid: the list and the function keep the string alive */
            most = size, largest = captured;
        lua_settop(L, top + 3);
    }
    lua_settop(L, top);
    if (largest)
        tp_trace_note(trace, TP_EVENT_CAPTURED, 0, most,
                      tp_trace_name(trace, largest, strlen(largest)), name);
}

/* Stack: as l_func_image has it. Notes that the image, of so many bytes, has been made since
 * then. */
static void note_image(lua_State *L, uint64_t since_ns, size_t bytes)
{
    enum { LARGE = 64 << 10 };
    context *ctx = get_context(L);
    tp_trace *trace = tp_engine_trace(ctx->host->engine);
    size_t len;
    if (!tp_trace_is_on(trace))
        return;
    const char *text = luaL_checklstring(L, 5, &len);
    uint32_t name = tp_trace_name(trace, text, len);
    tp_trace_note(trace, TP_EVENT_ENCODE, ctx->agent ? ctx->agent->worker.id : 0, bytes,
                  uv_hrtime() - since_ns, name);
    if (bytes >= LARGE && lua_isnoneornil(L, 6)) /* its first image */
        note_captured(L, name, &ctx->scratch);
}

/* core.func.image(fn, package.path, package.cpath, list of setups or nil, name, last image or nil,
 * func, whether typed arrays are copied, or even those that lie in the host's file) -> image, its
 * captured tables for core.job.open (nil: it has none), and true if it is the last image, which was
 * known without encoding; or nil, a message and the kind of failure: what the function captures
 * that cannot travel */
static int l_func_image(lua_State *L)
{
    context *ctx = get_context(L);
    luaL_checktype(L, 1, LUA_TFUNCTION);
    tp_error err = { 0 };
    uint64_t since = uv_hrtime();
    tp_codec_new_epoch(L);
    tp_core_check_ref(L, 7, &tp_func_type);
    unsigned flags = (lua_toboolean(L, 8) ? TP_ENCODE_COPIES : 0) |
                     (lua_toboolean(L, 9) ? TP_ENCODE_ELEMENTS : 0);
    lua_settop(L, 7);
    push_kept(L);                                   // ... tables image outline
    if (is_same_outline(L, flags, &ctx->scratch)) {
        note_image(L, since, 0);
        lua_pushvalue(L, 6);
        lua_pushvalue(L, 8);
        lua_pushboolean(L, 1);
        return 3;
    }
    int is_new = tp_image_encode(L, 1, luaL_checkstring(L, 5), 8, flags, &ctx->scratch, &err);
    if (is_new < 0)
        return tp_core_push_refusal(L, &err, TP_KIND_CODEC);
    size_t bytes = ctx->scratch.len;
    tp_image *last = lua_isnoneornil(L, 6) ? NULL : tp_codec_to_ref(L, 6, &tp_image_type);
    if (last && tp_image_is(last, &ctx->scratch)) {
        lua_pushvalue(L, 6);
    } else {
        if (!is_new)
            tp_captured_renew(L, 8);
        tp_ref **box = tp_codec_push_box(L, &tp_image_type);
        tp_image *image = tp_image_new(&ctx->scratch);
        if (!image)
            return tp_codec_raise_memory(L);
        *box = &image->ref;
    }
    keep_outline(L, flags, &ctx->scratch);
    note_image(L, since, bytes);
    lua_pushvalue(L, 8);
    return 2;
}

/* core.func.identity(name, ...) -> the identity of the values, 16 bytes (codec/identity.h); or nil
 * and a message, which calls them `name` */
static int l_func_identity(lua_State *L)
{
    context *ctx = get_context(L);
    const char *const names[] = { luaL_checkstring(L, 1) };
    uint8_t id[TP_IDENTITY];
    tp_error err = { 0 };
    tp_codec_new_epoch(L);
    if (tp_identity_of_values(L, 2, lua_gettop(L) - 1, lua_gettop(L) == 2 ? names : NULL,
                              &ctx->scratch, id, &err))
        return tp_core_push_message(L, &err);
    lua_pushlstring(L, (const char *)id, sizeof id);
    return 1;
}

/* core.func.inspect(fn) -> 16 bytes that tell what its own code does; lists of the names of the
 * globals that it reads, and of the strings in it */
static int l_func_inspect(lua_State *L)
{
    context *ctx = get_context(L);
    luaL_checktype(L, 1, LUA_TFUNCTION);
    luaL_argcheck(L, !lua_iscfunction(L, 1), 1, "a Lua function expected");
    uint8_t id[TP_IDENTITY];
    tp_codec_inspect(L, 1, &ctx->scratch);
    tp_identity_of_bytes(ctx->scratch.data, ctx->scratch.len, id);
    lua_pushlstring(L, (const char *)id, sizeof id);
    lua_insert(L, -3);
    return 3;
}

/* core.value.pack(value) -> the value as an object that travels by reference, for
 * core.value.unpack; or nil and a message */
static int l_value_pack(lua_State *L)
{
    context *ctx = get_context(L);
    static const char *const names[] = { "value" };
    tp_error err = { 0 };
    luaL_checkany(L, 1);
    lua_settop(L, 1);
    tp_codec_new_epoch(L);
    tp_buf_clear(&ctx->scratch);
    if (tp_encode(L, 1, 1, names, 0, &ctx->scratch, &err))
        return tp_core_push_message(L, &err);
    tp_ref **box = tp_codec_push_box(L, &tp_image_type);
    tp_image *packed = tp_image_new(&ctx->scratch);
    if (!packed)
        return tp_codec_raise_memory(L);
    *box = &packed->ref;
    return 1;
}

/* core.value.unpack(packed) -> the value; or nil and a message */
static int l_value_unpack(lua_State *L)
{
    const tp_buf *m = &((const tp_image *)tp_core_check_ref(L, 1, &tp_image_type))->message;
    tp_error err = { 0 };
    if (tp_decode(L, m->data, m->len, m->refs, m->nrefs, TP_DECODE_TRUSTED, NULL, &err) < 0)
        return tp_core_push_message(L, &err);
    return 1;
}

/* core.value.bytes(packed value or image) -> its bytes */
static int l_value_bytes(lua_State *L)
{
    const tp_image *packed = tp_core_check_ref(L, 1, &tp_image_type);
    lua_pushnumber(L, (double)packed->message.len);
    return 1;
}

static const luaL_Reg func_functions[] = {
    { "new", l_func_new },
    { "stats", l_func_stats },
    { "mean", l_func_mean },
    { "image", l_func_image },
    { "identity", l_func_identity },
    { "inspect", l_func_inspect },
    { NULL, NULL },
};

static const luaL_Reg value_functions[] = {
    { "pack", l_value_pack },
    { "unpack", l_value_unpack },
    { "bytes", l_value_bytes },
    { NULL, NULL },
};

void tp_core_register_func(lua_State *L)
{
    tp_codec_ref_type(L, &tp_func_type);
    tp_codec_ref_type(L, &tp_image_type);
    lua_pop(L, 2); /* the metatables, which the registry keeps */
    tp_core_register(L, "func", func_functions);
    tp_core_register(L, "value", value_functions);
}
