/* globals.c: writes what functions read of their environments, and tries values that may not be
 * needed. */
#include "codec/encode/encoder.h"

#include <lauxlib.h>

int tp_encoder_try_value(encoder *e, int name)
{
    lua_State *L = e->L;
    int top = lua_gettop(L);
    luaL_checkstack(L, STACK_NEED, "message");
    encoder in;
    tp_encoder_start(&in, e->top, L, tp_codec_push_buf(L), 0);
    in.wants_globals = e->wants_globals;
    in.is_careful = true;
    in.outline = e->outline;
    lua_pushvalue(L, top);
    int rc = in.top->run(&in, lua_gettop(L), 1);
    tp_buf_free(in.out);
    lua_settop(L, top);
    if (rc == 0)
        return 0;
    if (in.code == TP_EMEMORY)
        return tp_encoder_refuse_memory(e);
    size_t colon = in.npath > 2 && in.path[0] == ':' ? 2 : 0;
    lua_pushfstring(L, "%s cannot be used here: ", lua_tostring(L, name));
    lua_pushlstring(L, in.path + colon, in.npath - colon);
    lua_pushfstring(L, "%s%s", in.npath ? ": " : "", in.why);
    lua_concat(L, 3);
    size_t len;
    const char *text = lua_tolstring(L, -1, &len);
    tp_codec_push_refused(L, text, len);
    lua_replace(L, top);
    lua_settop(L, top);
    return 1;
}

int tp_encoder_be_careful(encoder *e)
{
    if (!e->restart && e->code == TP_ECODEC && !e->is_careful) {
        e->is_careful = e->restart = true;
        e->code = TP_OK;
    }
    return -1;
}

static int get_field(lua_State *L)
{
    lua_gettable(L, 1);
    return 1;
}

/* Stack: env name -> env name value: the environment's value for the name. Raw, along tables in
 * __index; a function in __index (a sandbox's) is called, and when it raises (as `strict` modules
 * do) the value is nil. */
static void push_global(encoder *e)
{
    lua_State *L = e->L;
    int env = lua_gettop(L) - 1, name = env + 1;
    lua_pushvalue(L, env);                       /* ... table */
    for (int hops = 0; hops < 100 && lua_istable(L, -1); hops++) {
        lua_pushvalue(L, name);
        lua_rawget(L, -2);                       /* ... table value */
        if (!lua_isnil(L, -1) || !lua_getmetatable(L, -2)) {
            lua_replace(L, name + 1);
            return;
        }
        lua_pushliteral(L, "__index");
        lua_rawget(L, -2);
        lua_replace(L, name + 1);
        lua_settop(L, name + 1);                 /* ... __index */
    }
    if (lua_isfunction(L, -1)) {
        lua_pushcfunction(L, get_field);
        lua_pushvalue(L, env);
        lua_pushvalue(L, name);
        int rc = lua_pcall(L, 2, 1, 0);
        if (rc == LUA_ERRMEM)
            lua_error(L);
        if (rc == 0) {
            tp_encoder_anchor(e);
            lua_replace(L, name + 1);
            return;
        }
    }
    lua_settop(L, name);
    lua_pushnil(L);
}

/* Stack: name value. Do all states have that value under that name? */
static bool is_standard(encoder *e)
{
    lua_State *L = e->L;
    if (!tp_codec_is_object(L, -1))
        return false;
    const struct known *k = tp_codec_find_known(e->c, tp_codec_identity(L, -1));
    if (!k || k->kind != BUILTIN || k->index > e->c->nstandard)
        return false;
    e->reaches_globals |= tp_encoder_is_reaching(e->c, k);
    lua_rawgeti(L, LUA_REGISTRYINDEX, e->c->names);
    lua_rawgeti(L, -1, k->index);
    lua_rawgeti(L, -2, k->index + 1);
    /* a name without a prefix, and this one */
    bool is = lua_objlen(L, -2) == 0 && lua_rawequal(L, -1, -5);
    lua_pop(L, 3);
    return is;
}

/* Stack: env. Adds all of the environment's own fields. It is not the state's global table. */
static int put_all_globals(encoder *e, uint32_t *count)
{
    lua_State *L = e->L;
    lua_pushnil(L);
    while (lua_next(L, -2)) { /* env name value */
        if (lua_type(L, -2) == LUA_TSTRING && !is_standard(e)) {
            if (e->is_careful) {
                lua_pushfstring(L, "global \"%s\"", lua_tostring(L, -2));
                lua_insert(L, -2);
                int rc = tp_encoder_try_value(e, lua_gettop(L) - 1);
                lua_remove(L, -2);
                if (rc < 0)
                    return -1;
            }
            if (put_string(e, -2) < 0)
                return -1;
            if (put_value(e) < 0)
                return tp_encoder_be_careful(e);
            ++*count;
        }
        lua_pop(L, 1);
    }
    return 0;
}

int tp_encoder_put_globals(encoder *e)
{
    lua_State *L = e->L;
    lua_rawgeti(L, -1, 2);
    unsigned uses = (unsigned)lua_tointeger(L, -1);
    lua_pop(L, 1);
    e->uses |= uses;
    e->reaches_globals |= (uses & NAMES_GLOBALS) != 0;
    if (!(uses & USES_GLOBALS))
        return put_tag(e, T_NIL);
    lua_getfenv(L, -2); /* fn record env */
    bool is_states = lua_rawequal(L, -1, LUA_GLOBALSINDEX), has_reached = e->reaches_globals;
    if (is_states && e->wants_globals) {
        lua_pop(L, 1);
        return put_tag(e, T_NIL);
    }
    /* the same table may also be met as a value, which is written differently; hence another
     * address */
    int seen = tp_encoder_see(e, (const char *)lua_topointer(L, -1) + 1);
    if (seen < 0 || (seen ? put_back(e, T_BACK) : put_tag(e, T_ENV)) < 0 || room(e, 4) < 0)
        return -1;
    uint32_t head = offset(e), count = 0;
    e->p += 4;
    e->reaches_globals = false;
    int n = (int)lua_objlen(L, -2);
    for (int i = 3; i <= n; i++) {
        lua_rawgeti(L, -2, i);
        push_global(e); /* fn record env name value */
        if (!lua_isnil(L, -1) && !is_standard(e)) {
            if (put_string(e, -2) < 0)
                return -1;
            if (put_value(e) < 0)
                return tp_encoder_at_name(e, "global", lua_tostring(L, -2));
            count++;
        }
        lua_pop(L, 2);
    }
    if (e->reaches_globals && !is_states && !is_identity(e) && put_all_globals(e, &count) < 0)
        return -1;
    e->reaches_globals |= has_reached;
    write_u32(e->base + head, count);
    lua_pop(L, 1);
    return 0;
}
