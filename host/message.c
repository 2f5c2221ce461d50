/* message.c: messages of simple values, without a Lua state. */
#include "message.h"

#include <string.h>

static uint8_t *add_double(uint8_t *p, double x)
{
    *p++ = T_DOUBLE;
    memcpy(p, &x, sizeof x);
    return p + sizeof x;
}

int tp_encode_numbers(tp_buf *out, const double *values, const bool *is_boolean, unsigned n)
{
    uint8_t *begin = tp_buf_reserve(out, 1 + 9 * (size_t)n), *p = begin;
    if (!p)
        return -1;
    *p++ = (uint8_t)n;
    for (unsigned i = 0; i < n; i++)
        if (is_boolean[i])
            *p++ = values[i] != 0 ? T_TRUE : T_FALSE;
        else
            p = add_double(p, values[i]);
    out->len += (size_t)(p - begin);
    return 0;
}

static uint8_t *add_text(uint8_t *p, const char *text, size_t len)
{
    *p++ = T_STRING;
    uint32_t n = (uint32_t)len;
    memcpy(p, &n, sizeof n);
    memcpy(p + sizeof n, text, len);
    return p + sizeof n + len;
}

int tp_encode_failure(tp_buf *out, const char *kind, const char *message, unsigned attempt, int worker)
{
    size_t kind_len = strlen(kind), len = strlen(message);
    uint8_t *begin = tp_buf_reserve(out, 64 + kind_len + 2 * len), *p = begin;
    if (!p)
        return -1;
    *p++ = 6; /* kind, message, value, traceback, attempts, worker */
    p = add_text(p, kind, kind_len);
    p = add_text(p, message, len);
    if (strcmp(kind, "error") == 0)
        p = add_text(p, message, len);
    else
        *p++ = T_NIL;
    *p++ = T_NIL;
    p = add_double(p, attempt);
    p = add_double(p, worker);
    out->len += (size_t)(p - begin);
    return 0;
}

unsigned tp_decode_numbers(const uint8_t *p, size_t len, double *to, unsigned n, const char **other)
{
    const uint8_t *end = p + len;
    uint32_t count = len ? *p++ : 0;
    if (count == 255) {
        memcpy(&count, p, sizeof count);
        p += sizeof count;
    }
    for (unsigned i = 0; i < n; i++) {
        if (i >= count || p >= end)
            return i;
        uint8_t tag = *p++;
        if (tag < T_SHORT) {
            to[i] = tag;
        } else if (tag == T_INT8) {
            to[i] = (int8_t)*p++;
        } else if (tag == T_INT32) {
            int32_t x;
            memcpy(&x, p, sizeof x);
            p += sizeof x;
            to[i] = x;
        } else if (tag == T_DOUBLE) {
            memcpy(&to[i], p, sizeof to[i]);
            p += sizeof to[i];
        } else {
            *other = tag == T_NIL ? "nil" : tag == T_FALSE || tag == T_TRUE ? "a boolean"
                     : tag < T_NIL || (tag & ~SHARED) == T_STRING ? "a string"
                     : tag == T_INT64 || tag == T_UINT64 ? "a 64-bit integer"
                     : (tag & ~SHARED) == T_TABLE || (tag & ~SHARED) == T_OBJECT ? "a table"
                     : (tag & ~SHARED) == T_FUNC ? "a function" : "something else";
            return i;
        }
    }
    return n;
}
