/* message.c: messages of simple values, without a Lua state. */
#include "codec/message.h"

#include <string.h>

static uint8_t *add_double(uint8_t *p, double x)
{
    *p++ = T_DOUBLE;
    memcpy(p, &x, sizeof x);
    return p + sizeof x;
}

int tp_encode_elements(tp_buf *out, void *const *columns, const tp_type *types,
                       const bool *is_boolean, unsigned n, size_t at)
{
    uint8_t *begin = tp_buf_reserve(out, 1 + 9 * (size_t)n), *p = begin;
    if (!p)
        return -1;
    *p++ = (uint8_t)n;
    for (unsigned i = 0; i < n; i++) {
        if (types[i] == TP_INT64 || types[i] == TP_UINT64) {
            *p++ = types[i] == TP_INT64 ? T_INT64 : T_UINT64;
            memcpy(p, (const uint64_t *)columns[i] + at, sizeof(uint64_t));
            p += sizeof(uint64_t);
            continue;
        }
        double value = tp_element_load(types[i], columns[i], at);
        if (is_boolean[i])
            *p++ = value != 0 ? T_TRUE : T_FALSE;
        else
            p = add_double(p, value);
    }
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

int tp_encode_failure(tp_buf *out, tp_failure_kind kind, const char *message, const char *last,
                      size_t last_len, unsigned attempt, int worker)
{
    const char *name = tp_failure_kind_name(kind);
    size_t kind_len = strlen(name), len = strlen(message);
    uint8_t *begin = tp_buf_reserve(out, 64 + kind_len + 2 * len + last_len), *p = begin;
    if (!p)
        return -1;
    _Static_assert(TP_FAILURE_KIND == 0 && TP_FAILURE_MESSAGE == 1 && TP_FAILURE_VALUE == 2 &&
                       TP_FAILURE_TRACEBACK == 3 && TP_FAILURE_ATTEMPTS == 4 &&
                       TP_FAILURE_WORKER == 5 && TP_FAILURE_STDERR == 6,
                   "as they are written below");
    *p++ = TP_FAILURE_FIELDS_N;
    p = add_text(p, name, kind_len);
    p = add_text(p, message, len);
    if (kind == TP_KIND_ERROR)
        p = add_text(p, message, len);
    else
        *p++ = T_NIL;
    *p++ = T_NIL;
    p = add_double(p, attempt);
    p = add_double(p, worker);
    if (last_len > 0)
        p = add_text(p, last, last_len);
    else
        *p++ = T_NIL;
    out->len += (size_t)(p - begin);
    return 0;
}

unsigned tp_decode_numbers(const uint8_t *p, size_t len, double *to, const bool *is_boolean,
                           unsigned n, const char **other)
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
        bool is_number = tag < T_SHORT || tag == T_INT8 || tag == T_INT32 || tag == T_DOUBLE;
        if (is_boolean && is_boolean[i] && (tag == T_TRUE || tag == T_FALSE)) {
            to[i] = tag == T_TRUE;
        } else if (is_boolean && is_boolean[i] && is_number) {
            *other = "a number";
            return i;
        } else if (tag < T_SHORT) {
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
                     : tag == T_NULL ? "null"
                     : tag == T_INT64 || tag == T_UINT64 ? "a 64-bit integer"
                     : (tag & ~SHARED) == T_TABLE || (tag & ~SHARED) == T_OBJECT ? "a table"
                     : (tag & ~SHARED) == T_FIELDS ? "an object"
                     : (tag & ~SHARED) == T_FUNC ? "a function" : "something else";
            return i;
        }
    }
    return n;
}

static uint32_t read_u32(const uint8_t *p)
{
    uint32_t n;
    memcpy(&n, p, sizeof n);
    return n;
}

/* How many bytes lie between the tag and the values inside of it; -1 when the message ends before
 * that. Sets *values to how many values follow those bytes. */
static int64_t size_behind(uint8_t tag, const uint8_t *p, size_t left, int64_t *values)
{
    *values = 0;
    if (tag < T_SHORT)
        return 0;
    if (tag < T_NIL)
        return tag - T_SHORT;
    switch (tag & ~(tag >= T_STRING ? SHARED : 0)) {
    case T_NIL:
    case T_FALSE:
    case T_TRUE:
    case T_NULL:
        return 0;
    case T_INT8:
        return 1;
    case T_INT32:
    case T_BACK:
        return 4;
    case T_DOUBLE:
    case T_INT64:
    case T_UINT64:
        return 8;
    case T_COMPLEX:
        return 16;
    case T_RUN:
        /* a run stands for this many items of its table; the tag itself was counted as one of
         * them */
        *values = left < 4 ? 0 : 1 - (int64_t)read_u32(p);
        return left < 4 ? -1 : 4 + 8 * (int64_t)read_u32(p);
    case T_STRING:
    case T_BUILTIN:
    case T_CLASS:
        return left < 4 ? -1 : 4 + (int64_t)read_u32(p);
    case T_TABLE:
    case T_OBJECT:
        if (left < 8)
            return -1;
        *values = (int64_t)read_u32(p) + 2 * (int64_t)read_u32(p + 4) +
                  ((tag & ~SHARED) == T_OBJECT);
        return 8;
    default:
        return -1;
    }
}

/* Reads the message's count of values; returns where the values begin, NULL when the count is
 * malformed. */
static const uint8_t *read_count(const uint8_t *p, const uint8_t *end, uint32_t *count)
{
    if (p == end)
        return NULL;
    *count = *p++;
    if (*count < 255)
        return p;
    if (end - p < 4)
        return NULL;
    *count = read_u32(p);
    return p + 4;
}

bool tp_message_is_plain(const uint8_t *bytes, size_t len)
{
    const uint8_t *end = bytes + len;
    uint32_t count = 0;
    const uint8_t *p = read_count(bytes, end, &count);
    int64_t left = count;
    while (p && left > 0 && p < end) {
        uint8_t tag = *p++;
        int64_t values, size = size_behind(tag, p, (size_t)(end - p), &values);
        if (size < 0 || size > end - p)
            return false;
        p += size;
        left += values - 1;
    }
    return p == end && left == 0;
}

/* Reads a string with its tag; false when it is none, or does not end before `end`. */
static bool read_string(const uint8_t *p, const uint8_t *end, const char **text, size_t *len)
{
    if (p < end && *p >= T_SHORT && *p < T_NIL) {
        *len = *p - T_SHORT;
        *text = (const char *)p + 1;
    } else if (end - p >= 5 && (*p & ~SHARED) == T_STRING) {
        *len = read_u32(p + 1);
        *text = (const char *)p + 5;
    } else {
        return false;
    }
    return *len <= (size_t)((const char *)end - *text);
}

bool tp_message_text(const uint8_t *bytes, size_t message_len, uint32_t index, const char **text,
                     size_t *len)
{
    const uint8_t *end = bytes + message_len;
    uint32_t count = 0;
    const uint8_t *p = read_count(bytes, end, &count);
    if (!p || index >= count)
        return false;
    for (int64_t left = index; left > 0;) {
        if (p >= end)
            return false;
        uint8_t tag = *p++;
        int64_t values, size = size_behind(tag, p, (size_t)(end - p), &values);
        if (size < 0 || size > end - p)
            return false;
        p += size;
        left += values - 1;
    }
    /* it refers to an earlier string */
    if (end - p >= 5 && *p == T_BACK && read_u32(p + 1) < message_len)
        p = bytes + read_u32(p + 1);
    return read_string(p, end, text, len);
}

enum tag tp_message_single(const uint8_t *bytes, size_t message_len, double *number,
                           const char **text, size_t *len)
{
    const char *other = NULL;
    if (message_len < 2 || bytes[0] != 1)
        return T_NIL;
    uint8_t tag = bytes[1];
    if (tag >= T_SHORT && tag < T_NIL) {
        *text = (const char *)bytes + 2;
        *len = tag - T_SHORT;
        return T_STRING;
    }
    if ((tag & ~SHARED) == T_STRING && message_len >= 6) {
        *text = (const char *)bytes + 6;
        *len = read_u32(bytes + 2);
        return T_STRING;
    }
    return tp_decode_numbers(bytes, message_len, number, NULL, 1, &other) == 1 ? T_DOUBLE : T_NIL;
}
