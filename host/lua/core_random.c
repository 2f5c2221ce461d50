/* core_random.c: where the random numbers of maps, calls and tasks come from, and math.randomseed.
 * See engine/random.h. */
#include "lua/core_private.h"

#include "codec/codec.h"
#include "codec/standard.h"
#include "engine/random.h"
#include "workers/workers.h"

#include <lauxlib.h>
#include <stddef.h>
#include <string.h>

/* What an item was drawing from, and whether standard libraries were changed, while the item is set
 * aside. */
typedef struct aside {
    tp_draws draws;
    bool is_changed;
} aside;

/* What the running item draws from, and its offset there; NULL outside an item. */
static tp_draws *running_draws(const context *ctx, int32_t *at)
{
    tp_work *w = tp_core_work(ctx);
    *at = w ? tp_work_running(w) : 0;
    return w ? &w->draws : ctx->replay ? &ctx->replay->draws : NULL;
}

tp_source *tp_core_source(const context *ctx)
{
    int32_t at;
    tp_draws *draws = running_draws(ctx, &at);
    return draws ? tp_draws_source(draws, at) : ctx->source;
}

/* core.random.source(is_stray) -> a source for a task that starts. Stray tasks start at a time that
 * differs from run to run (in callbacks), so they are counted apart and do not change the numbers
 * of others. */
static int l_random_source(lua_State *L)
{
    tp_key key = tp_source_next(tp_core_source(get_context(L)), lua_toboolean(L, 1));
    tp_source *made = lua_newuserdata(L, sizeof *made);
    *made = tp_source_new(key);
    return 1;
}

/* core.random.enter(source or nil): makes it the source of the task that runs from here on, which
 * must keep it alive; nil: no task runs */
static int l_random_enter(lua_State *L)
{
    context *ctx = get_context(L);
    tp_source *source = lua_touserdata(L, 1);
    ctx->source = source ? source : &ctx->script;
    return 0;
}

/* core.random.streams() -> pointer to the pointer to the tp_draws of the running work, or of the
 * replay, which is NULL outside an item; and how many bytes behind it there is the offset of the
 * running item, an int32_t */
static int l_random_streams(lua_State *L)
{
    context *ctx = get_context(L);
    if (ctx->agent)
        lua_pushlightuserdata(L, &ctx->agent->worker.current);
    else
        lua_pushlightuserdata(L, &ctx->replay);
    lua_pushinteger(L, ctx->agent ? offsetof(tp_work, ctl) : offsetof(tp_replay, at));
    return 2;
}

/* core.random.next() -> the key of the map that is started next, as 16 bytes */
static int l_random_next(lua_State *L)
{
    tp_source next = *tp_core_source(get_context(L));
    tp_key key = tp_source_next(&next, false);
    lua_pushlstring(L, (const char *)&key, sizeof key);
    return 1;
}

static const char replay_key = 0; /* its address is the key of the tp_replay in the registry */

/* core.random.replay(key of a map, as 16 bytes, index from 1): from here on the script's state
 * draws, and starts maps, as that input does; without arguments: no more */
static int l_random_replay(lua_State *L)
{
    context *ctx = get_context(L);
    ctx->replay = NULL;
    if (lua_isnoneornil(L, 1))
        return 0;
    size_t len;
    const char *bytes = luaL_checklstring(L, 1, &len);
    double index = luaL_checknumber(L, 2);
    tp_key key;
    luaL_argcheck(L, len == sizeof key, 1, "a key expected");
    memcpy(&key, bytes, sizeof key);
    lua_pushlightuserdata(L, (void *)&replay_key);
    tp_replay *replay = lua_newuserdata(L, sizeof *replay);
    *replay = (tp_replay){ 0 };
    tp_draws_open(&replay->draws, key, (uint64_t)index - 1);
    lua_rawset(L, LUA_REGISTRYINDEX);
    ctx->replay = replay;
    return 0;
}

/* core.random.stream(seed, i) -> the state of a stream made by hand, as four int32 */
static int l_random_stream(lua_State *L)
{
    tp_key key = tp_key_by_hand(luaL_checknumber(L, 1), luaL_checknumber(L, 2));
    for (int i = 0; i < 4; i++)
        lua_pushnumber(L, (int32_t)(uint32_t)(key.half[i / 2] >> 32 * (i % 2)));
    return 4;
}

/* math.randomseed(seed). In an item, the item draws LuaJIT's numbers for this seed from here on. In
 * a script, seeds LuaJIT's own generator (upvalue 2) and the keys of the script's maps. */
static int l_randomseed(lua_State *L)
{
    context *ctx = get_context(L);
    double seed = luaL_checknumber(L, 1);
    int32_t at;
    tp_draws *draws = running_draws(ctx, &at);
    if (draws) {
        tp_draws_seed(draws, at, seed);
        return 0;
    }
    *ctx->source = tp_source_new(tp_key_of_seed(seed));
    lua_settop(L, 1);
    lua_pushvalue(L, lua_upvalueindex(2));
    lua_insert(L, 1);
    lua_call(L, 1, 0);
    return 0;
}

void tp_core_open_random(lua_State *L, context *ctx)
{
    lua_getfield(L, LUA_REGISTRYINDEX, "_LOADED");
    lua_getfield(L, -1, "math");                           // ctx loaded math
    ctx->source = &ctx->script;
    ctx->script = tp_source_new(tp_key_of_seed(0));
    lua_getfield(L, -1, "random");                         // ctx loaded math random
    if (lua_iscfunction(L, -1) && lua_getupvalue(L, -1, 1)) {
        if (lua_type(L, -1) == LUA_TUSERDATA && lua_objlen(L, -1) >= 4 * sizeof(uint64_t))
            ctx->script = tp_source_new(tp_key_of_luajit(lua_touserdata(L, -1)));
        lua_pop(L, 1);
    }
    lua_pop(L, 1);                                         // ctx loaded math
    lua_pushvalue(L, -3);
    lua_getfield(L, -2, "randomseed");                     // ctx loaded math ctx randomseed
    lua_pushcclosure(L, l_randomseed, 2);
    lua_setfield(L, -2, "randomseed");                     // ctx loaded math
    if (!ctx->agent)
        tp_codec_add_builtins(L, "math", lua_gettop(L));
    lua_pop(L, 3);
}

/* core.random.set_aside() -> a value for core.random.go_back; nil outside an item. In between,
 * random numbers are LuaJIT's from its start, since it is chance which item of a worker runs the
 * code in between, and changes to standard libraries are not blamed on the item. */
static int l_random_set_aside(lua_State *L)
{
    int32_t at;
    tp_draws *draws = running_draws(get_context(L), &at);
    if (!draws)
        return 0;
    aside *before = lua_newuserdata(L, sizeof *before);
    before->draws = *draws;
    before->is_changed = tp_standard_is_changed(tp_codec_standard(L));
    tp_draws_seed(draws, at, 0);
    return 1;
}

/* core.random.go_back(aside, whether changes to standard libraries are kept) */
static int l_random_go_back(lua_State *L)
{
    int32_t at;
    const context *ctx = get_context(L);
    const aside *before = lua_touserdata(L, 1);
    *running_draws(ctx, &at) = before->draws;
    if (ctx->agent && lua_toboolean(L, 2) && !before->is_changed &&
        tp_standard_is_changed(tp_codec_standard(L)))
        tp_standard_adopt(L, tp_codec_standard(L));
    return 0;
}

static const luaL_Reg random_functions[] = {
    { "set_aside", l_random_set_aside },
    { "go_back", l_random_go_back },
    { "source", l_random_source },
    { "enter", l_random_enter },
    { "streams", l_random_streams },
    { "next", l_random_next },
    { "replay", l_random_replay },
    { "stream", l_random_stream },
    { NULL, NULL },
};

void tp_core_register_random(lua_State *L)
{
    tp_core_register(L, "random", random_functions);
}
