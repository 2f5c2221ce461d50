/* glance.c: reads as much of a message as fits into a short text. */
#include "codec/glance.h"

#include "base/text.h"
#include "codec/message.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

typedef struct glance {
    char *to;
    size_t used, room; /* without the zero at the end */
    bool is_full;      /* nothing more is written, or can be read */
    const uint8_t *p, *end;
} glance;

static void add(glance *g, const char *text, size_t len)
{
    size_t left = g->room - g->used;
    if (g->is_full)
        return;
    g->is_full = len > left;
    memcpy(g->to + g->used, text, g->is_full ? left : len);
    g->used += g->is_full ? left : len;
}

__attribute__((format(printf, 2, 3))) static void put(glance *g, const char *format, ...)
{
    char text[64];
    va_list arguments;
    va_start(arguments, format);
    int n = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    add(g, text, n < (int)sizeof text ? (size_t)n : sizeof text - 1);
}

static void put_string(glance *g, const char *s, size_t len)
{
    add(g, "\"", 1);
    for (size_t i = 0; i < len && !g->is_full; i++)
        if (s[i] == '\n')
            add(g, "\\n", 2);
        else if (s[i] == '"' || s[i] == '\\')
            put(g, "\\%c", s[i]);
        else if (iscntrl((unsigned char)s[i]))
            put(g, "\\%d", (unsigned char)s[i]);
        else
            add(g, s + i, 1);
    add(g, "\"", 1);
}

/* Takes n bytes of the message; NULL, with the glance ended, when there are not so many. */
static const uint8_t *take(glance *g, uint64_t n)
{
    const uint8_t *p = g->p;
    if (n > (uint64_t)(g->end - g->p)) {
        g->is_full = true;
        return NULL;
    }
    g->p += n;
    return p;
}

static uint32_t take_u32(glance *g)
{
    uint32_t n = 0;
    const uint8_t *p = take(g, sizeof n);
    if (p)
        memcpy(&n, p, sizeof n);
    return n;
}

static void show_value(glance *g);

/* A field's name: `name =`, or `[value] =`. */
static void show_key(glance *g)
{
    uint8_t tag = g->p < g->end ? *g->p : T_NIL;
    size_t len = tag >= T_SHORT && tag < T_NIL ? tag - T_SHORT : 0;
    const char *s = (const char *)g->p + 1;
    bool is_name = len > 0 && len < (size_t)(g->end - g->p) && !isdigit((unsigned char)s[0]);
    for (size_t i = 0; i < len && is_name; i++)
        is_name = isalnum((unsigned char)s[i]) || s[i] == '_';
    if (is_name) {
        add(g, s, len);
        g->p += 1 + len;
    } else {
        add(g, "[", 1);
        show_value(g);
        add(g, "]", 1);
    }
    add(g, " = ", 3);
}

/* Each level writes a brace, so the text's length bounds how deep this goes. */
static void show_table(glance *g)
{
    uint32_t items = take_u32(g), pairs = take_u32(g);
    add(g, "{", 1);
    for (uint32_t i = 0; i < items && !g->is_full;) {
        uint32_t run = 0;
        if (g->p < g->end && *g->p == T_RUN) {
            g->p++;
            run = take_u32(g);
        }
        for (uint32_t k = 0; k < (run ? run : 1) && !g->is_full; k++, i++) {
            double x = 0;
            const uint8_t *bytes = run ? take(g, sizeof x) : NULL;
            if (i > 0)
                add(g, ", ", 2);
            if (bytes) {
                memcpy(&x, bytes, sizeof x);
                put(g, "%.14g", x);
            } else if (!run) {
                show_value(g);
            }
        }
    }
    for (uint32_t i = 0; i < pairs && !g->is_full; i++) {
        if (i > 0 || items > 0)
            add(g, ", ", 2);
        show_key(g);
        show_value(g);
    }
    add(g, "}", 1);
}

/* Reads one value and writes it as text. */
static void show_value(glance *g)
{
    const uint8_t *p = take(g, 1);
    double x;
    int64_t i;
    int32_t small;
    uint32_t len;
    if (!p || g->is_full)
        return;
    uint8_t tag = *p;
    if (tag < T_SHORT) {
        put(g, "%d", tag);
        return;
    }
    if (tag < T_NIL) {
        p = take(g, tag - T_SHORT);
        if (p)
            put_string(g, (const char *)p, tag - T_SHORT);
        return;
    }
    switch (tag & ~(tag >= T_STRING ? SHARED : 0)) {
    case T_NIL: add(g, "nil", 3); return;
    case T_FALSE: add(g, "false", 5); return;
    case T_TRUE: add(g, "true", 4); return;
    case T_NULL: add(g, "null", 4); return;
    case T_INT8:
        if ((p = take(g, 1)))
            put(g, "%d", (int8_t)*p);
        return;
    case T_INT32:
        if ((p = take(g, sizeof small))) {
            memcpy(&small, p, sizeof small);
            put(g, "%" PRId32, small);
        }
        return;
    case T_DOUBLE:
        if ((p = take(g, sizeof x))) {
            memcpy(&x, p, sizeof x);
            put(g, "%.14g", x);
        }
        return;
    case T_INT64:
    case T_UINT64:
        if ((p = take(g, sizeof i))) {
            memcpy(&i, p, sizeof i);
            put(g, tag == T_INT64 ? "%" PRId64 "LL" : "%" PRIu64 "ULL", i);
        }
        return;
    case T_STRING:
        len = take_u32(g);
        if ((p = take(g, len)))
            put_string(g, (const char *)p, len);
        return;
    case T_CLASS:
        len = take_u32(g);
        if ((p = take(g, len)))
            add(g, (const char *)p, len);
        return;
    case T_TABLE: show_table(g); return;
    case T_OBJECT:
        show_value(g); /* its class */
        show_table(g);
        return;
    case T_FIELDS:
        show_value(g); /* its class */
        show_value(g);
        return;
    case T_ARRAY: /* u32, u8, two u64, u64 */
        if ((p = take(g, 29))) {
            memcpy(&i, p + 13, sizeof i);
            put(g, "array of %" PRId64, i);
        }
        return;
    case T_FUNC: add(g, "function", 8); break;
    default: break;
    }
    g->is_full = true;
}

static void finish(glance *g)
{
    if (g->is_full) {
        if (g->used > g->room - 3)
            g->used = g->room - 3;
        g->used = tp_text_cut(g->to, g->used);
        memcpy(g->to + g->used, "...", 3);
        g->used += 3;
    }
    g->to[g->used] = '\0';
}

static glance begin(char *to, size_t size, const uint8_t *bytes, size_t len)
{
    memset(to, 0, size);
    return (glance){ .to = to, .room = size - 1, .p = bytes, .end = bytes + len };
}

/* Writes the first `most` values of the message. */
static void show_message(glance *g, uint32_t most)
{
    const uint8_t *p = take(g, 1);
    uint32_t n = p ? *p : 0;
    if (n == 255)
        n = take_u32(g);
    for (uint32_t i = 0; i < n && i < most && !g->is_full; i++) {
        if (i > 0)
            add(g, ", ", 2);
        show_value(g);
    }
}

void tp_glance_message(const uint8_t *bytes, size_t len, char *to, size_t size)
{
    glance g = begin(to, size, bytes, len);
    show_message(&g, UINT32_MAX);
    finish(&g);
}

static void show_scalar(glance *g, const tp_block *b, const tp_scalar *s)
{
    switch ((tp_scalar_kind)s->kind) {
    case TP_SCALAR_ABSENT: break;
    case TP_SCALAR_NIL: add(g, "nil", 3); break;
    case TP_SCALAR_FALSE: add(g, "false", 5); break;
    case TP_SCALAR_TRUE: add(g, "true", 4); break;
    case TP_SCALAR_NUMBER: put(g, "%.14g", s->as.number); break;
    case TP_SCALAR_STRING:
        put_string(g, b->text.bytes + s->as.string.at, s->as.string.length);
        break;
    case TP_SCALAR_PINNED:
    case TP_SCALAR_SHARED: put_string(g, s->as.pinned, s->pinned_length); break;
    }
}

static void show_columns(glance *g, const tp_block *b, uint32_t at)
{
    for (uint32_t c = 0; c < b->columns; c++) {
        const void *column = b->column[c];
        if (c > 0 && !(b->type[c] == TP_MIXED &&
                       ((const tp_scalar *)column)[at].kind == TP_SCALAR_ABSENT))
            add(g, ", ", 2);
        if (b->type[c] == TP_MIXED)
            show_scalar(g, b, &((const tp_scalar *)column)[at]);
        else if (b->type[c] == TP_INT64)
            put(g, "%" PRId64, ((const int64_t *)column)[at]);
        else if (b->type[c] == TP_UINT64)
            put(g, "%" PRIu64, ((const uint64_t *)column)[at]);
        else
            put(g, "%.14g", tp_element_load((tp_type)b->type[c], column, at));
    }
}

/* Writes the first line of a failure's text (the field TP_FAILURE_MESSAGE), without quotes. */
static void show_failure(glance *g)
{
    char kind[16];
    glance skipped = begin(kind, sizeof kind, g->p, (size_t)(g->end - g->p));
    show_message(&skipped, TP_FAILURE_MESSAGE);
    const uint8_t *p = skipped.p;
    size_t len = 0;
    if (p < g->end && *p >= T_SHORT && *p < T_NIL) {
        len = *p++ - T_SHORT;
    } else if (g->end - p >= 5 && (*p & ~SHARED) == T_STRING) {
        uint32_t n;
        memcpy(&n, p + 1, sizeof n);
        p += 5;
        len = n;
    }
    if (len > (size_t)(g->end - p))
        len = 0;
    const uint8_t *line = memchr(p, '\n', len);
    add(g, (const char *)p, line ? (size_t)(line - p) : len);
}

void tp_glance_item(const tp_block *b, uint32_t at, char *to, size_t size)
{
    size_t len = 0;
    const uint8_t *message = (const uint8_t *)"";
    bool is_failure = b->kind == TP_BLOCK_FAILURE || b->kind == TP_BLOCK_RETRY;
    if (is_failure)
        message = b->bytes.data, len = b->bytes.len;
    else if (b->kind == TP_BLOCK_VALUES || b->kind == TP_BLOCK_PART)
        message = tp_block_message(b, at, &len);
    glance g = begin(to, size, message, len);
    if (is_failure)
        show_failure(&g);
    else if (b->kind == TP_BLOCK_COLUMNS)
        show_columns(&g, b, at);
    else if (len > 0)
        show_message(&g, UINT32_MAX);
    finish(&g);
}
