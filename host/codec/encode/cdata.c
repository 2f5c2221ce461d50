/* cdata.c: writes values of the FFI, and typed arrays, which are such values. */
#include "base/amount.h"
#include "base/array.h"
#include "base/blake2b.h"
#include "codec/encode/encoder.h"
#include "codec/identity.h"

#include <lauxlib.h>

/* Writes a typed array's tag, type, length and shape, and makes room for `elements` more
 * bytes. */
static int put_shape(encoder *e, uint8_t tag, tp_type type, const uint64_t numbers[3],
                     size_t elements)
{
    if (room(e, 2 + 2 * sizeof numbers[1] + elements) < 0)
        return -1;
    *e->p++ = tag;
    *e->p++ = (uint8_t)type;
    memcpy(e->p, &numbers[1], 2 * sizeof numbers[1]);
    e->p += 2 * sizeof numbers[1];
    return 0;
}

/* For an identity: a typed array's shape and a hash of its elements. */
static int put_elements(encoder *e, const tp_array *memory, tp_type type, const uint64_t numbers[3])
{
    if (put_shape(e, T_ARRAY, type, numbers, TP_IDENTITY) < 0)
        return -1;
    tp_blake2b_hash(e->p, TP_IDENTITY, (const char *)memory->data + numbers[0],
                    numbers[1] * tp_type_size(type));
    e->p += TP_IDENTITY;
    return 0;
}

/* Writes a reference to a host object, reusing one of the message's last few. */
static int put_memory(encoder *e, tp_ref *r)
{
    tp_buf *b = e->out;
    for (uint32_t i = b->nrefs; i > 0 && b->nrefs - i < LATELY; i--)
        if (b->refs[i - 1] == r)
            return put_tag_u32(e, T_ARRAY, i - 1);
    if (tp_buf_hold_ref(b, r) < 0)
        return tp_encoder_refuse_memory(e);
    return put_tag_u32(e, T_ARRAY, b->nrefs - 1);
}

/* Writes a copy of the array at the stack's index `top`. */
static int put_copy(encoder *e, const tp_array *memory, tp_type type, const uint64_t numbers[3],
                    int top)
{
    uint64_t size = numbers[1] * tp_type_size(type);
    int seen = tp_encoder_see(e, lua_topointer(e->L, top));
    if (seen)
        return seen < 0 ? -1 : put_back(e, T_BACK);
    char shown[TP_AMOUNT_TEXT];
    if (size > UINT32_MAX)
        return tp_encoder_refuse(
            e, TP_ECODEC,
            "a typed array of %s cannot be copied to a worker: 4 GiB is the most",
            tp_amount_of_bytes(shown, size));
    if (put_shape(e, T_ELEMENTS, type, numbers, size) < 0)
        return -1;
    if (size)
        memcpy(e->p, (const char *)memory->data + numbers[0], size);
    e->p += size;
    return 0;
}

static int write_array(encoder *e, const struct lately *a)
{
    uint64_t numbers[3] = { a->offset, a->elements, a->shape };
    if (room(e, 5 + 1 + sizeof numbers) < 0 || put_memory(e, a->memory) < 0)
        return -1;
    *e->p++ = a->type;
    memcpy(e->p, numbers, sizeof numbers);
    e->p += sizeof numbers;
    return 0;
}

/* The entry for the cdata on top if it is an array that was written lately; else NULL. */
static const struct lately *find_sent(lua_State *L, const struct codec *c)
{
    const void *object = lua_topointer(L, -1);
    for (int i = 0; i < LATELY; i++) {
        if (c->sent[i].object != object)
            continue;
        tp_codec_push_lately(L);
        lua_rawgeti(L, -1, i + 1); /* nil when the object is gone and another one has its address */
        bool is = lua_rawequal(L, -1, -3);
        lua_pop(L, 2);
        if (is)
            return &c->sent[i];
    }
    return NULL;
}

/* Writes the cdata at the stack's index `top` if it is a typed array: 1 when written, 0 when it is
 * none, -1 on failure. */
static int put_array(encoder *e, struct codec *c, int top)
{
    lua_State *L = e->L;
    lua_rawgeti(L, LUA_REGISTRYINDEX, c->array_of);
    if (lua_isnil(L, -1))
        return 0;
    lua_pushvalue(L, top);
    lua_call(L, 1, 6); /* memory, type, offset, elements, columns, planes */
    tp_ref *r = lua_touserdata(L, -6);
    if (!r)
        return 0;
    tp_type type = (tp_type)lua_tointeger(L, -5);
    uint64_t numbers[3] = { (uint64_t)lua_tonumber(L, -4), (uint64_t)lua_tonumber(L, -3),
                            pack_shape(lua_tonumber(L, -2), lua_tonumber(L, -1)) };
    if (is_identity(e))
        return put_elements(e, (const tp_array *)r, type, numbers) < 0 ? -1 : 1;
    if (e->flags & TP_ENCODE_COPIES &&
        (e->flags & TP_ENCODE_ELEMENTS || !tp_array_share((tp_array *)r)))
        return put_copy(e, (const tp_array *)r, type, numbers, top) < 0 ? -1 : 1;
    int at = (int)(c->next_sent++ % LATELY);
    struct lately *a = &c->sent[at];
    *a = (struct lately){
        lua_topointer(L, top), r, (uint8_t)type, numbers[0], numbers[1], numbers[2]
    };
    tp_codec_push_lately(L);
    lua_pushvalue(L, top);
    lua_rawseti(L, -2, at + 1);
    return write_array(e, a) < 0 ? -1 : 1;
}

/* Stack: text of a C type, its metatable or nil, bytes. Writes the cdata below them as a copy. */
static int put_cdata_bytes(encoder *e, int top, int kind)
{
    lua_State *L = e->L;
    size_t size = kind == T_BYTES ? (size_t)lua_tonumber(L, top + 4) : 0;
    int seen = tp_encoder_see(e, lua_topointer(L, top));
    if (seen)
        return seen < 0 ? -1 : put_back(e, T_BACK);
    if (put_tag(e, (uint8_t)kind) < 0 || put_string(e, top + 2) < 0)
        return -1;
    lua_pushvalue(L, top + 3);
    if (put_value(e) < 0)
        return -1;
    return kind == T_BYTES ? put_bytes(e, lua_topointer(L, top), size) : 0;
}

int tp_encoder_put_cdata(encoder *e)
{
    lua_State *L = e->L;
    if (!e->w)
        tp_encoder_acquire(e);
    luaL_checkstack(L, STACK_NEED, "message");
    struct codec *c = e->c;
    int top = lua_gettop(L), rc = -1;
    const struct lately *array = is_identity(e) ? NULL : find_sent(L, c);
    if (array && !(e->flags & TP_ENCODE_ELEMENTS) &&
        (!(e->flags & TP_ENCODE_COPIES) || ((const tp_array *)array->memory)->at >= 0))
        return write_array(e, array);
    tp_codec_push_ffi(L, c, "kind_of");
    if (lua_isnil(L, -1)) {
        lua_settop(L, top);
        return tp_encoder_refuse_type(e, "a cdata");
    }
    lua_pushvalue(L, top);
    lua_call(L, 1,
             4); /* kind (a tag; 0: none), value or re or text, im or metatable or library, bytes */
    int kind = (int)lua_tointeger(L, top + 1);
    int is_array = kind == 0 ? put_array(e, c, top) : 0;
    if (is_array != 0) {
        rc = is_array < 0 ? -1 : 0;
    } else if (kind == 0) {
        rc = tp_encoder_refuse(e, TP_ECODEC, "a %.80s cannot travel to a worker (%s)",
                               lua_tostring(L, top + 2), lua_tostring(L, top + 3));
    } else if (kind == T_BYTES && e->flags & TP_ENCODE_NO_CODE) {
        rc = tp_encoder_refuse(
            e, TP_ECODEC,
            "a cdata<%.80s> cannot travel from a worker process (give what is in it, as "
            "numbers, strings or tables)",
            lua_tostring(L, top + 2));
    } else if ((kind == T_CTYPE || kind == T_SYMBOL) && e->flags & TP_ENCODE_NO_CODE) {
        rc = tp_encoder_refuse(e, TP_ECODEC,
                               "a ctype or symbol of the FFI cannot travel from a worker process");
    } else if (kind == T_CTYPE || kind == T_BYTES || kind == T_SYMBOL) {
        rc = put_cdata_bytes(e, top, kind);
    } else if (room(e, 17) == 0) {
        double parts[2] = { lua_tonumber(L, top + 2), lua_tonumber(L, top + 3) };
        bool is_complex = kind == T_COMPLEX;
        *e->p = (uint8_t)kind;
        memcpy(e->p + 1, is_complex ? (const void *)parts : lua_topointer(L, top + 2),
               is_complex ? 16 : 8);
        e->p += is_complex ? 17 : 9;
        rc = 0;
    }
    lua_settop(L, top);
    return rc;
}
