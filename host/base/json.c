/* json.c: escapes. */
#include "base/json.h"

#include <stdio.h>
#include <string.h>

/* How many bytes the character at s has in UTF-8; 0: it is none. */
static int utf8_length(const unsigned char *s, size_t left)
{
    int n = s[0] < 0x80 ? 1 : s[0] >= 0xc2 && s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;
    if (s[0] >= 0x80 && (s[0] < 0xc2 || s[0] > 0xf4))
        return 0;
    if ((size_t)n > left)
        return 0;
    for (int i = 1; i < n; i++)
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) ||
        (s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f))
        return 0;
    return n;
}

char *tp_json_escape(char *to, const char *text, size_t len)
{
    const unsigned char *s = (const unsigned char *)text, *end = s + len;
    while (s < end) {
        int n = utf8_length(s, (size_t)(end - s));
        if (n == 0) {
            to += sprintf(to, "\\ufffd");
            s++;
        } else if (n == 1 && (*s < 0x20 || *s == '"' || *s == '\\' || *s == '<' || *s == 0x7f)) {
            to += sprintf(to, "\\u%04x", *s++);
        } else {
            memcpy(to, s, (size_t)n);
            to += n;
            s += n;
        }
    }
    return to;
}
