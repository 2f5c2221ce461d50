/* luv.c: lets the module luv, when users load it, run on the host's own loop. */
#include "lua/core_private.h"

#include "runtime/own_loop.h"
#include "runtime/runtime.h"

#include <dlfcn.h>
#include <lauxlib.h>
#include <string.h>
#include <uv.h>

static const char callback_key[] = "tidepool.core.callback", closer_key[] = "tidepool.core.closer";

/* core.luv.set_callback(fn, closer): luv's callbacks are called as fn(callback, ...); fn nil: not
 * at all. The closer is kept alive as long as the state. */
static int l_luv_set_callback(lua_State *L)
{
    lua_settop(L, 2);
    lua_setfield(L, LUA_REGISTRYINDEX, closer_key);
    lua_setfield(L, LUA_REGISTRYINDEX, callback_key);
    return 0;
}

/* luv calls this instead of lua_pcall, with a callback and its arguments on the stack. luv's own
 * way would end the process on an error. */
static int call_back(lua_State *L, int nargs, int nresults, int flags)
{
    (void)flags;
    lua_getfield(L, LUA_REGISTRYINDEX, callback_key); // callback args fn
    if (lua_isnil(L, -1)) {
        lua_pop(L, nargs + 2);
        return 0;
    }
    lua_insert(L, -nargs - 2);                        // fn callback args
    int before = lua_gettop(L) - nargs - 2;
    if (lua_pcall(L, nargs + 1, nresults, 0)) {
        lua_pop(L, 1);
        return -1;
    }
    return lua_gettop(L) - before;
}

/* ---- which state owns a handle: several states may have luv on the one loop ---- */

/* The beginning of what luv attaches to a handle or a request, which tells the state that owns it.
 * luv 1.30 and later. */
typedef struct luv_handle {
    int ref, callbacks[2];
    const void *ctx;
    void *rest[4];
} luv_handle;

/* What luv finds at handles that are hidden from it while it walks: they seem to belong to another
 * state, and their callback is skip_handle. */
typedef struct luv_context {
    uv_loop_t *loop;
    lua_State *L;
    int (*call)(lua_State *L, int nargs, int nresults, int flags);
} luv_context;

static int skip_handle(lua_State *L, int nargs, int nresults, int flags)
{
    (void)nresults, (void)flags;
    lua_pop(L, nargs + 1);
    return 0;
}

static const luv_context not_luvs = { .call = skip_handle };
static const luv_handle not_luvs_handle = {
    LUA_REFNIL, { LUA_NOREF, LUA_NOREF }, &not_luvs, { NULL }
};

typedef struct hidden {
    uv_handle_t *handle;
    void *data;
} hidden;

/* The loop that a state's luv is on: the host's, or a worker's own. */
typedef struct place {
    uv_loop_t *loop;
    const uv_handle_t *own[2]; /* handles that are not luv's */
    const void **luv;
    bool is_shared; /* other states may have luv there, too */
} place;

/* False in a worker without a loop. */
static bool find_place(const context *ctx, place *p)
{
    tp_listener *l = ctx->listener;
    tp_own_loop *own = ctx->agent ? ctx->agent->own_loop : NULL;
    if (l)
        *p = (place){ .loop = &l->host->loop,
                      .own = { (const uv_handle_t *)&l->host->wake_up,
                               (const uv_handle_t *)&l->host->timer },
                      .luv = &l->luv,
                      .is_shared = l->host->n_luv != 1 };
    else if (own)
        *p = (place){ .loop = &own->loop,
                      .own = { (const uv_handle_t *)&own->bell,
                               (const uv_handle_t *)&own->timer },
                      .luv = &own->luv };
    return l || own;
}

/* A walk over the loop's handles. */
typedef struct census {
    const place *at;
    size_t n, n_alive; /* the state's handles; those of them that keep the loop alive */
    hidden *others;    /* the handles of others are hidden here; NULL: they are only counted */
    size_t n_others;
} census;

static void count_handle(uv_handle_t *handle, void *user)
{
    census *c = user;
    bool is_hosts = handle == c->at->own[0] || handle == c->at->own[1];
    if (!is_hosts && handle->data && ((const luv_handle *)handle->data)->ctx == *c->at->luv) {
        c->n++;
        c->n_alive += uv_is_closing(handle) || (uv_is_active(handle) && uv_has_ref(handle));
        return;
    }
    if (c->others) {
        c->others[c->n_others] = (hidden){ handle, handle->data };
        handle->data = (void *)&not_luvs_handle;
    }
    c->n_others++;
}

static census count_handles(const place *at)
{
    census c = { .at = at };
    uv_walk(at->loop, count_handle, &c);
    return c;
}

/* Has this request of a file's been done at once, without a callback? luv keeps those of a folder's
 * entries (uv.fs_scandir) as long as somebody may read them. */
static bool is_done(const uv_req_t *request)
{
    return request->type == UV_FS && !((const uv_fs_t *)request)->cb;
}

/* How many of luv's requests are under way in this state: luv keeps them in the registry until they
 * are over. `is_cancelled`: tries to cancel them. */
static size_t count_requests(lua_State *L, bool is_cancelled)
{
    static const char *const types[] = { "uv_req", "luv_work_ctx" };
    size_t n = 0;
    luaL_checkstack(L, 6, "requests");
    for (int i = 0; i < 2; i++)
        luaL_getmetatable(L, types[i]);              // req work
    lua_pushnil(L);
    while (lua_next(L, LUA_REGISTRYINDEX)) {         // req work key value
        if (lua_type(L, -1) == LUA_TUSERDATA && lua_getmetatable(L, -1)) {
            uv_req_t *request = lua_rawequal(L, -1, -5) ? lua_touserdata(L, -2) : NULL;
            if (request && is_done(request))
                request = NULL;
            else if (request || lua_rawequal(L, -1, -4))
                n++;
            if (request && is_cancelled)
                uv_cancel(request);
            lua_pop(L, 1);
        }
        lua_pop(L, 1);
    }
    lua_pop(L, 2);
    return n;
}

bool tp_core_has_luv_work(lua_State *L, const context *ctx)
{
    place at;
    if (!find_place(ctx, &at) || !*at.luv || !uv_loop_alive(at.loop))
        return false;
    return !at.is_shared || count_handles(&at).n_alive > 0 || count_requests(L, false) > 0;
}

/* core.luv.apart(fn, ...): calls fn, which walks over luv's handles, with the handles of other
 * states hidden. fn must not run the loop. */
static int l_luv_apart(lua_State *L)
{
    place at;
    if (!find_place(get_context(L), &at))
        return luaL_error(L, "there is no loop");
    census c = count_handles(&at);
    c.others = lua_newuserdata(L, (c.n_others + 1) * sizeof *c.others);
    lua_insert(L, 1);
    c.n_others = 0;
    uv_walk(at.loop, count_handle, &c);
    int status = lua_pcall(L, lua_gettop(L) - 2, 0, 0);
    for (size_t i = 0; i < c.n_others; i++)
        c.others[i].handle->data = c.others[i].data;
    return status ? lua_error(L) : 0;
}

/* core.luv.run_out(): takes turns of the loop until luv has nothing left in this state. Its
 * handles must be closing. Other things on the loop go on meanwhile. */
static int l_luv_run_out(lua_State *L)
{
    context *ctx = get_context(L);
    place at;
    if (!find_place(ctx, &at) || !*at.luv)
        return 0;
    count_requests(L, true);
    while (count_handles(&at).n > 0 ||
           (at.loop->active_reqs.count > 0 && count_requests(L, false) > 0))
        uv_run(at.loop, UV_RUN_ONCE);
    *at.luv = NULL;
    if (ctx->listener)
        ctx->host->n_luv--;
    return 0;
}

/* ---- loading it ---- */

/* Tells the loaded library at path which loop to use. False when it is too old to be told. */
static bool share_loop(const char *path, context *ctx)
{
    void *lib = dlopen(path, RTLD_NOW);
    void (*set_loop)(lua_State *, uv_loop_t *) = NULL;
    void (*set_callback)(lua_State *, int (*)(lua_State *, int, int, int)) = NULL;
    const void *(*get_luv)(lua_State *) = NULL;
    if (!lib)
        return false;
    *(void **)&set_loop = dlsym(lib, "luv_set_loop");
    *(void **)&set_callback = dlsym(lib, "luv_set_callback");
    *(void **)&get_luv = dlsym(lib, "luv_context");
    bool can_share = set_loop && set_callback && get_luv;
    place at;
    tp_error err = { 0 };
    /* a worker without a loop of its own gets luv's own loop */
    if (ctx->agent && can_share)
        can_share = tp_own_loop_open(ctx->agent, &err) == 0;
    if (can_share && find_place(ctx, &at)) {
        set_loop(ctx->main, at.loop);
        set_callback(ctx->main, call_back);
        if (ctx->listener)
            ctx->host->n_luv += *at.luv == NULL;
        *at.luv = get_luv(ctx->main);
    }
    dlclose(lib); /* package.loadlib keeps it loaded */
    return can_share;
}

/* Opens luv on the host's loop. Upvalue 2 is its path. */
static int open_luv(lua_State *L)
{
    context *ctx = get_context(L);
    const char *path = lua_tostring(L, lua_upvalueindex(2));
    lua_getfield(L, LUA_REGISTRYINDEX, "_LOADED");
    lua_getfield(L, -1, "package");
    lua_getfield(L, -1, "loadlib");
    lua_pushstring(L, path);
    lua_pushliteral(L, "luaopen_luv");
    lua_call(L, 2, 2);                            // fn, or nil message
    if (lua_isnil(L, -2))
        return lua_error(L);
    lua_pop(L, 1);                                // fn
    bool is_shared = share_loop(path, ctx);
    lua_pushliteral(L, "luv");
    lua_call(L, 1, 1);                            // luv
    if (is_shared) {
        lua_getglobal(L, "require");
        lua_pushliteral(L, "tidepool.engine.luv");
        lua_call(L, 1, 1);
        lua_getfield(L, -1, "open");              // luv ours open
        lua_pushvalue(L, -3);
        lua_call(L, 1, 0);
        lua_pop(L, 1);                            // luv
    }
    return 1;
}

/* In package.loaders before the loader of C modules: loads "luv" in its place. */
static int find_luv(lua_State *L)
{
    if (strcmp(luaL_checkstring(L, 1), "luv") != 0)
        return 0;
    lua_getfield(L, LUA_REGISTRYINDEX, "_LOADED");
    lua_getfield(L, -1, "package");
    lua_getfield(L, -1, "searchpath");
    lua_pushliteral(L, "luv");
    lua_getfield(L, -3, "cpath");
    lua_call(L, 2, 1);
    if (lua_isnil(L, -1))
        return 0;
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, -2);
    lua_pushcclosure(L, open_luv, 2);
    return 1;
}

void tp_core_open_luv(lua_State *L, int package)
{
    lua_getfield(L, package, "loaders");             // ctx loaders
    for (int i = (int)lua_objlen(L, -1); i >= 3; i--) {
        lua_rawgeti(L, -1, i);
        lua_rawseti(L, -2, i + 1);
    }
    lua_insert(L, -2);                               // loaders ctx
    lua_pushcclosure(L, find_luv, 1);
    lua_rawseti(L, -2, 3);
    lua_pop(L, 1);
}

static const luaL_Reg luv_functions[] = {
    { "set_callback", l_luv_set_callback },
    { "apart", l_luv_apart },
    { "run_out", l_luv_run_out },
    { NULL, NULL },
};

void tp_core_register_luv(lua_State *L)
{
    tp_core_register(L, "luv", luv_functions);
}
