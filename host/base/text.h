/* text.h: cutting UTF-8 text. */
#ifndef TP_TEXT_H
#define TP_TEXT_H

#include <stddef.h>

/* Where the text may be cut: at that position, or before the character that it is within. */
static inline size_t tp_text_cut(const char *text, size_t at)
{
    while (at > 0 && ((unsigned char)text[at] & 0xc0) == 0x80)
        at--;
    return at;
}

#endif
