/* report_text.c: text of a report's page. */
#include "base/json.h"
#include "trace/report_private.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int tp_report_put(tp_buf *out, const char *format, ...)
{
    enum { TEXT_MAX = 1024 };
    uint8_t *to = tp_buf_reserve(out, TEXT_MAX);
    va_list arguments;
    if (!to)
        return -1;
    va_start(arguments, format);
    int n = vsnprintf((char *)to, TEXT_MAX, format, arguments);
    va_end(arguments);
    if (n > 0)
        out->len += n < TEXT_MAX ? (size_t)n : TEXT_MAX - 1;
    return 0;
}

/* Without "<", which could end the page's script; "&" and quotes mean nothing there. */
int tp_report_quote(tp_buf *out, const char *text)
{
    size_t len = strlen(text);
    char *to = (char *)tp_buf_reserve(out, 6 * len + 3), *begin = to;
    if (!to)
        return -1;
    *to++ = '"';
    to = tp_json_escape(to, text, len);
    *to++ = '"';
    out->len += (size_t)(to - begin);
    return 0;
}
