/* last_line.c: making a line in a signal handler. See last_line.h. */
#include "program/last_line.h"

#include <string.h>

void tp_last_line_put(tp_last_line *l, const char *bytes, size_t len)
{
    size_t left = sizeof l->text - l->len;
    len = len < left ? len : left;
    memcpy(l->text + l->len, bytes, len);
    l->len += len;
}

void tp_last_line_put_text(tp_last_line *l, const char *text)
{
    tp_last_line_put(l, text, strlen(text));
}

void tp_last_line_put_number(tp_last_line *l, uint64_t n)
{
    char digits[20];
    size_t at = sizeof digits;
    do
        digits[--at] = (char)('0' + n % 10);
    while (n /= 10);
    tp_last_line_put(l, digits + at, sizeof digits - at);
}
