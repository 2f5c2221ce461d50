/* functions.c: writes functions with their upvalues. */
#include "codec/bytecode.h"
#include "codec/encode/encoder.h"

/* The upvalues of the function on top. */
static int put_upvalues(encoder *e)
{
    lua_State *L = e->L;
    uint32_t head = offset(e);
    if (put_tag(e, 0) < 0)
        return -1;
    int n = 0;
    const char *name;
    for (; (name = lua_getupvalue(L, -1, n + 1)) != NULL; n++) { /* fn value */
        int seen = tp_encoder_see(e, lua_upvalueid(L, -2, n + 1));
        if (seen < 0)
            return -1;
        if (seen) {
            if (put_back(e, T_UPBACK) < 0)
                return -1;
        } else if (put_tag(e, T_UPVAL) < 0 || put_value(e) < 0) {
            return tp_encoder_at_name(e, "upvalue", name);
        }
        lua_pop(L, 1);
    }
    e->base[head] = (uint8_t)n;
    return 0;
}

/* For an identity: what the bytecode on top does. */
APART static int put_code(encoder *e)
{
    lua_State *L = e->L;
    size_t len;
    const char *text = lua_tolstring(L, -1, &len);
    uint8_t *bytes = lua_newuserdata(L, len + 1);
    struct bytecode_pair *sorting = lua_newuserdata(L, (len / 2 + 1) * sizeof *sorting);
    size_t n = tp_bytecode_write_identity(text, len, &e->c->patches, bytes, sorting);
    int rc = n ? put_bytes(e, (const char *)bytes, n) : put_bytes(e, text, len);
    lua_pop(L, 2);
    return rc;
}

static int put_lua_function(encoder *e)
{
    lua_State *L = e->L;
    if (put_tag(e, T_FUNC) < 0)
        return -1;
    tp_encoder_push_record(L, e->c); /* fn record */
    lua_rawgeti(L, -1, 1);                        /* fn record bytecode */
    if ((is_identity(e) ? put_code(e) : put_string(e, -1)) < 0)
        return -1;
    lua_pop(L, 1);
    if (tp_encoder_put_globals(e) < 0)
        return -1;
    lua_pop(L, 1);                                /* fn */
    return put_upvalues(e);
}

/* Something in the Lua function at index `top` is refused. If it is a library's function it travels
 * by its name instead. */
APART static int refuse_function(encoder *e, int top)
{
    lua_settop(e->L, top);
    return tp_encoder_take_by_name(e);
}

/* Is the C function on the top one that coroutine.wrap has made? Its coroutine is its only upvalue.
 */
static bool is_wrap(lua_State *L)
{
    if (!lua_getupvalue(L, -1, 1))
        return false;
    bool is_thread = lua_isthread(L, -1);
    lua_pop(L, 1);
    return is_thread;
}

int tp_encoder_put_function(encoder *e)
{
    const void *fn = lua_topointer(e->L, -1);
    int seen = tp_encoder_see(e, fn);
    if (seen)
        return seen < 0 ? -1 : put_back(e, T_BACK);
    struct known *k = tp_codec_find_known(e->c, fn);
    if (!k && tp_encoder_scan_modules(e) < 0)
        return -1;
    if (!k && lua_iscfunction(e->L, -1)) {
        k = tp_encoder_find_field(e, fn);
        if (!k)
            return tp_encoder_refuse_type(e, is_wrap(e->L)
                                                 ? "a coroutine (of coroutine.wrap)"
                                                 : "a C function that no loaded module has");
    }
    if (k)
        return tp_encoder_put_known(e, k);
    if (e->flags & TP_ENCODE_NO_CODE)
        return tp_encoder_refuse(e, TP_ECODEC, "a function cannot travel from a worker process");
    if (tp_encoder_deeper(e) < 0)
        return -1;
    int top = lua_gettop(e->L), rc = put_lua_function(e);
    e->depth--;
    return rc < 0 ? refuse_function(e, top) : 0;
}
