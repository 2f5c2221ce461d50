/* encoder.c: what all that writes a message needs: refusals with their path, room for bytes, the
 * objects that were met. */
#include "codec/encode/encoder.h"

#include <lauxlib.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

__attribute__((format(printf, 3, 4)))
int tp_encoder_refuse(encoder *e, tp_code code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(e->why, sizeof e->why, format, args);
    va_end(args);
    e->code = code;
    e->npath = 0;
    e->is_cut = e->is_deep = false;
    return -1;
}

int tp_encoder_refuse_memory(encoder *e)
{
    return tp_encoder_refuse(e, TP_EMEMORY, "out of memory: message");
}

int tp_encoder_refuse_type(encoder *e, const char *what)
{
    return tp_encoder_refuse(e, TP_ECODEC, "%s cannot travel to a worker", what);
}

int tp_encoder_at(encoder *e, const char *step, size_t n)
{
    if (e->restart)
        return -1;
    if (n > sizeof e->path)
        n = sizeof e->path;
    if (e->npath > sizeof e->path - n) {
        e->npath = sizeof e->path - n;
        e->is_cut = true;
    }
    memmove(e->path + n, e->path, e->npath);
    memcpy(e->path, step, n);
    e->npath += n;
    return -1;
}

int tp_encoder_at_name(encoder *e, const char *what, const char *name)
{
    char step[80];
    snprintf(step, sizeof step, ": %s \"%.50s\"", what, name);
    return tp_encoder_at(e, step, strlen(step));
}

int tp_encoder_at_index(encoder *e, size_t i)
{
    char step[32];
    snprintf(step, sizeof step, "[%zu]", i);
    return tp_encoder_at(e, step, strlen(step));
}

static bool is_identifier(const char *s, size_t len)
{
    static const char first[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_";
    static const char rest[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789";
    return len > 0 && len <= 50 && strlen(s) == len && strchr(first, s[0]) &&
           strspn(s, rest) == len;
}

/* Adds the step `["..."]` for a string key that is not an identifier. */
static int at_odd_key(encoder *e, const char *s, size_t len)
{
    char step[128];
    size_t n = 2;
    memcpy(step, "[\"", 2);
    for (size_t i = 0; i < len && n < sizeof step - 12; i++) {
        unsigned char c = (unsigned char)s[i];
        if (i == 40) {
            n += (size_t)sprintf(step + n, "...");
            break;
        }
        if (c < 32 || c == 127)
            n += (size_t)sprintf(step + n, "\\%03d", c);
        else if (c == '"' || c == '\\')
            n += (size_t)sprintf(step + n, "\\%c", c);
        else
            step[n++] = (char)c;
    }
    memcpy(step + n, "\"]", 2);
    return tp_encoder_at(e, step, n + 2);
}

int tp_encoder_at_key(encoder *e, int index)
{
    lua_State *L = e->L;
    char step[64];
    size_t len;
    const char *s;
    switch (lua_type(L, index)) {
    case LUA_TSTRING:
        s = lua_tolstring(L, index, &len);
        if (!is_identifier(s, len))
            return at_odd_key(e, s, len);
        snprintf(step, sizeof step, ".%s", s);
        break;
    case LUA_TNUMBER:
        snprintf(step, sizeof step, "[%.14g]", lua_tonumber(L, index));
        break;
    case LUA_TBOOLEAN:
        snprintf(step, sizeof step, "[%s]", lua_toboolean(L, index) ? "true" : "false");
        break;
    default:
        snprintf(step, sizeof step, "[%s]", lua_typename(L, lua_type(L, index)));
    }
    return tp_encoder_at(e, step, strlen(step));
}

static int grow_seen(struct work *w)
{
    uint32_t size = w->seen_size ? w->seen_size * 2 : 64;
    struct seen *table = calloc(size, sizeof *table);
    if (!table)
        return -1;
    for (uint32_t i = 0; i < w->seen_size; i++) {
        if (w->seen[i].stamp == w->stamp) {
            uint32_t k = tp_codec_slot(w->seen[i].object, size);
            while (table[k].stamp)
                k = (k + 1) & (size - 1);
            table[k] = w->seen[i];
        }
    }
    free(w->seen);
    w->seen = table;
    w->seen_size = size;
    return 0;
}

/* Forgets the objects of the message before. */
static void start_seen(struct work *w)
{
    w->nseen = 0;
    if (++w->stamp == 0) { /* after 2^32 messages the count starts anew: no entry may look used */
        if (w->seen)
            memset(w->seen, 0, w->seen_size * sizeof *w->seen);
        w->stamp = 1;
    }
}

void tp_encoder_acquire(encoder *e)
{
    e->w = tp_codec_push_work(e->L);
    lua_insert(e->L, -2);
    e->c = e->w->codec;
    start_seen(e->w);
}

void tp_encoder_anchor(encoder *e)
{
    lua_State *L = e->L;
    if (e->w->anchors == LUA_NOREF)
        e->w->anchors = tp_codec_new_table(L);
    lua_rawgeti(L, LUA_REGISTRYINDEX, e->w->anchors);
    lua_pushvalue(L, -2);
    lua_rawseti(L, -2, (int)lua_objlen(L, -2) + 1);
    lua_pop(L, 1);
}

void tp_encoder_release(encoder *e)
{
    if (!e->w)
        return;
    if (e->w->anchors != LUA_NOREF) {
        luaL_unref(e->L, LUA_REGISTRYINDEX, e->w->anchors);
        e->w->anchors = LUA_NOREF;
    }
    e->w->busy = false;
}

int tp_encoder_grow(encoder *e, size_t n)
{
    tp_buf *b = e->out;
    size_t used = (size_t)(e->p - e->base);
    if (used + n > UINT32_MAX - b->len) /* offsets are 32 bits */
        return tp_encoder_refuse(e, TP_ECODEC, "a message over the limit of %u bytes cannot travel",
                                 (unsigned)UINT32_MAX);
    b->len += used; /* for this call: what was written is kept */
    uint8_t *p = tp_buf_reserve(b, n);
    b->len -= used;
    if (!p)
        return tp_encoder_refuse_memory(e);
    e->base = p - used;
    e->p = p;
    e->end = b->data + b->cap;
    return 0;
}

int tp_encoder_see(encoder *e, const void *object)
{
    struct work *w = e->w;
    if (w->nseen * 2 >= w->seen_size && grow_seen(w) < 0)
        return tp_encoder_refuse_memory(e);
    uint32_t i = tp_codec_slot(object, w->seen_size);
    while (w->seen[i].stamp == w->stamp) {
        if (w->seen[i].object == object) {
            e->found = w->seen[i].offset;
            return 1;
        }
        i = (i + 1) & (w->seen_size - 1);
    }
    w->seen[i] = (struct seen){ object, w->stamp, offset(e) };
    w->nseen++;
    return 0;
}

int tp_encoder_put_long_string(encoder *e, const char *s, size_t len)
{
    if (len > TP_STRING_MAX)
        return tp_encoder_refuse(e, TP_ECODEC, "a string of %zu bytes is over the limit of %d", len,
                                 TP_STRING_MAX);
    if (!e->w)
        tp_encoder_acquire(e);
    /* an identity has no references: identity.c writes strings so, too */
    int seen = is_identity(e) ? 0 : tp_encoder_see(e, s);
    if (seen)
        return seen < 0 ? -1 : put_back(e, T_BACK);
    return put_tag(e, T_STRING) < 0 ? -1 : put_bytes(e, s, len);
}

int tp_encoder_deeper(encoder *e)
{
    if (++e->depth > TP_DEPTH_MAX)
        tp_encoder_refuse(e, TP_ECODEC, "nested deeper than %d", TP_DEPTH_MAX);
    else if (e->depth > SHALLOW && !tp_stack_has(&e->c->stack, C_STACK_NEED))
        tp_encoder_refuse(e, TP_ECODEC, "nested too deep for this thread's stack");
    else
        return 0;
    e->is_deep = true;
    return -1;
}

void tp_encoder_start(encoder *e, const encoder_top *top, lua_State *L, tp_buf *out, unsigned flags)
{
    e->top = top;
    e->L = L;
    e->out = out;
    e->flags = flags;
    e->nrefs = out->nrefs;
    e->code = TP_OK;
    e->outer = NULL;
    e->captured = NULL;
    e->outline = NULL;
    e->defining = -1;
    e->is_partial = e->scanned = e->is_cut = e->is_deep = false;
    e->adds_tables = false;
    e->is_image = e->reaches_globals = e->wants_globals = e->is_careful = e->has_library = false;
    e->uses = 0;
    e->npath = 0;
    e->failed = 0;
    e->ranking = 0;
}
