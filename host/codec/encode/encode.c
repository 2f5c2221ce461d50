/* encode.c: Lua values to bytes; encoder.h says how. */
#include "codec/encode/encoder.h"
#include "codec/message.h"

#include <stdio.h>

static int put_count(encoder *e, int n)
{
    if (room(e, 5) < 0)
        return -1;
    if (n < 255) {
        *e->p++ = (uint8_t)n;
        return 0;
    }
    return put_tag_u32(e, 255, (uint32_t)n);
}

static int put_values(encoder *e, int first, int n)
{
    if (put_count(e, e->is_image ? n + 3 : n) < 0)
        return -1;
    if (e->is_image) {
        tp_codec_push_ffi(e->L, tp_codec_of(e->L), "declarations");
        if (!lua_isnil(e->L, -1))
            lua_call(e->L, 0, 1);
        if (tp_encoder_put_value(e) < 0)
            return -1;
        lua_settop(e->L, lua_gettop(e->L) - 1);
    }
    for (int i = 0; i < n; i++) {
        lua_pushvalue(e->L, first + i);
        if (tp_encoder_put_value(e) < 0) {
            e->failed = i;
            return -1;
        }
        lua_pop(e->L, 1);
    }
    return 0;
}

/* Writes the message of the values first, first + 1, ... at the end of e->out. On failure e says
 * why. `tables`: for an image, the stack index of its captured tables; 0: no image. */
static int encode_with_tables(encoder *e, int first, int n, int tables)
{
    tp_buf *out = e->out;
    int top = lua_gettop(e->L), rc = 0;
    do {
        e->restart = e->has_paths = false;
        e->depth = e->inside = 0;
        e->w = NULL;
        e->c = NULL;
        e->base = e->p = out->data ? out->data + out->len : NULL;
        e->end = out->data ? out->data + out->cap : NULL;
        e->ntables = 0;
        if (e->adds_tables) {
            e->captured = tp_captured_push(e->L);
            lua_replace(e->L, tables);
        }
        rc = put_values(e, first, n);
        if (rc == 0 && e->is_image)
            rc = tp_encoder_put_changes(e, n);
        if (rc == 0 && e->is_image && !e->adds_tables && e->ntables > 0 &&
            e->ntables < tp_captured_count(e->captured)) {
            e->adds_tables = e->restart = true;
            rc = -1;
        }
        tp_encoder_release(e);
        lua_settop(e->L, top);
        if (rc < 0)
            tp_buf_drop_refs(out, e->nrefs);
    } while (e->restart);
    if (rc == 0)
        out->len += offset(e);
    return rc;
}

static int run(encoder *e, int first, int n)
{
    return encode_with_tables(e, first, n, 0);
}

static const encoder_top top = { tp_encoder_put_value, run };

static int report(const encoder *e, const char *const *root, tp_error *err)
{
    char unnamed[32];
    snprintf(unnamed, sizeof unnamed, "value %d", e->failed + 1);
    const char *name = root && root[e->failed] ? root[e->failed] : unnamed;
    if (e->code == TP_EMEMORY)
        return tp_error_set(err, e->code, "%s", e->why);
    if (e->is_deep)
        return tp_error_set(err, e->code, "%.200s: %s at %.*s...", name, e->why,
                            (int)(e->npath < 40 ? e->npath : 40), e->path);
    return tp_error_set(err, e->code, "%.100s%.*s%s: %s", name, (int)e->npath, e->path,
                        e->is_cut ? "..." : "", e->why);
}

int tp_encode_with(lua_State *L, int first, int n, const char *const *root, unsigned flags,
                   tp_captured *captured, tp_buf *out, tp_error *err)
{
    if (!lua_checkstack(L, 2 * STACK_NEED))
        return tp_error_set(err, TP_ECODEC, "too many values at once to travel to a worker");
    encoder e;
    tp_encoder_start(&e, &top, L, out, flags);
    e.captured = captured;
    if (captured)
        tp_captured_start(captured);
    if (first < 0)
        first += lua_gettop(L) + 1;
    return run(&e, first, n) < 0 ? report(&e, root, err) : 0;
}

int tp_encode(lua_State *L, int first, int n, const char *const *root, unsigned flags, tp_buf *out,
              tp_error *err)
{
    return tp_encode_with(L, first, n, root, flags, NULL, out, err);
}

int tp_encode_image(lua_State *L, int first, int n, const char *const *root, int tables,
                    unsigned flags, tp_buf *out, tp_error *err)
{
    if (!lua_checkstack(L, 2 * STACK_NEED))
        return tp_error_set(err, TP_ECODEC, "too many values at once to travel to a worker");
    encoder e;
    tp_encoder_start(&e, &top, L, out, flags);
    e.is_image = true;
    e.captured = tp_captured_at(L, tables);
    if (encode_with_tables(&e, first, n, tables) < 0)
        return report(&e, root, err);
    if (e.adds_tables)
        tp_captured_seal(L, e.captured);
    if (e.ntables == 0) {
        lua_pushnil(L);
        lua_replace(L, tables);
    }
    return e.adds_tables || e.ntables == 0;
}

bool tp_encode_watch(lua_State *L, int tables)
{
    tp_captured *captured = tp_captured_at(L, tables);
    return captured && tp_captured_watch(L, captured, &tp_codec_of(L)->layout) > 0;
}

bool tp_encode_outline(lua_State *L, int first, int n, int tables, unsigned flags, tp_buf *out)
{
    const tp_captured *captured = tp_captured_at(L, tables);
    if (!captured || !lua_checkstack(L, 2 * STACK_NEED) ||
        !tp_captured_holds(captured, &tp_codec_of(L)->layout))
        return false;
    encoder e;
    tp_encoder_start(&e, &top, L, out, flags);
    e.is_image = true;
    e.outline = captured;
    return run(&e, first, n) == 0;
}
