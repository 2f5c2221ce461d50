/* userdata.c: writes userdata: objects of the host, those of ours that have fields, libraries of
 * the FFI, and what modules have. */
#include "codec/encode/encoder.h"

#include <stdio.h>

/* Refuses the userdata on top, with the name of its type where that is known, and says what to do
 * instead. */
static int refuse_userdata(encoder *e)
{
    lua_State *L = e->L;
    int top = lua_gettop(L);
    char which[60] = "";
    if (lua_getmetatable(L, -1)) {
        int mt = lua_gettop(L);
        if (tp_encoder_push_travels(L, mt) == LUA_TSTRING) {
            tp_encoder_refuse(e, TP_ECODEC, "%s", lua_tostring(L, -1));
            lua_settop(L, top);
            return -1;
        }
        lua_pushnil(L);
        while (!which[0] && lua_next(L, LUA_REGISTRYINDEX)) {
            if (lua_type(L, -2) == LUA_TSTRING && lua_rawequal(L, -1, mt))
                snprintf(which, sizeof which, "%.48s: ", lua_tostring(L, -2));
            else
                lua_pop(L, 1);
        }
    }
    lua_settop(L, top);
    return tp_encoder_refuse(
        e, TP_ECODEC,
        "a userdata cannot travel to a worker (%smake it inside of the function, or in app:setup)",
        which);
}

/* Writes the userdata on top if ffi.load made it: 1 when written; 0 when it is something else; -1
 * on failure. */
static int put_library(encoder *e)
{
    lua_State *L = e->L;
    int top = lua_gettop(L), rc = 0;
    tp_codec_push_ffi(L, e->c, "library_of");
    if (!lua_isnil(L, -1)) {
        lua_pushvalue(L, top);
        lua_call(L, 1, 2); // name is_global
        if (!lua_isnil(L, -2) && e->flags & TP_ENCODE_NO_CODE) {
            rc = tp_encoder_refuse(e, TP_ECODEC,
                                   "a library of the FFI cannot travel from a worker process");
        } else if (!lua_isnil(L, -2)) {
            rc = put_tag(e, T_LIBRARY) < 0 || put_string(e, -2) < 0 || put_value(e) < 0
                     ? -1
                     : 1;
        }
    }
    lua_settop(L, top);
    return rc;
}

/* Writes the userdata on top if it is an object with fields: 1 when written; 0 when it is something
 * else; -1 when refused. */
static int put_fields(encoder *e)
{
    lua_State *L = e->L;
    if (!lua_getmetatable(L, -1))
        return 0;
    if (!tp_codec_has_fields(L, e->c)) {
        lua_pop(L, 1);
        return 0;
    }
    if ((e->c->scanned_epoch != e->c->epoch && tp_encoder_scan_modules(e) < 0) ||
        tp_encoder_deeper(e) < 0 || put_tag(e, T_FIELDS) < 0 || put_value(e) < 0)
        return -1;
    lua_pop(L, 1);
    lua_getfenv(L, -1);
    if (put_value(e) < 0)
        return -1;
    lua_pop(L, 1);
    e->depth--;
    return 1;
}

int tp_encoder_put_userdata(encoder *e)
{
    const void *object = tp_codec_identity(e->L, -1);
    int seen = tp_encoder_see(e, object);
    if (seen)
        return seen < 0 ? -1 : put_back(e, T_BACK);
    tp_ref *r = tp_codec_any_ref(e->L);
    if (r)
        return tp_encoder_put_ref(e, r);
    int with_fields = put_fields(e);
    if (with_fields)
        return with_fields < 0 ? -1 : 0;
    size_t len;
    const char *text = tp_codec_refused(e->L, &len);
    if (text && !e->is_image && !e->is_careful &&
        e->defining < 0) /* it is a value of the user's: an argument, a result */
        return tp_encoder_refuse(e, TP_ECODEC, "%s", text);
    if (text)
        return put_tag(e, T_REFUSED) < 0 ? -1 : put_bytes(e, text, len);
    struct known *k = tp_codec_find_known(e->c, object);
    if (!k && tp_encoder_scan_modules(e) < 0)
        return -1;
    int library = k ? 0 : put_library(e);
    if (library)
        return library < 0 ? -1 : 0;
    if (!k)
        k = tp_encoder_find_field(e, object);
    return k ? tp_encoder_put_known(e, k) : refuse_userdata(e);
}
