/* amount.c: see amount.h. */
#include "base/amount.h"

#include <stdio.h>

const char *tp_amount_of_bytes(char text[TP_AMOUNT_TEXT], uint64_t bytes)
{
    if (bytes < 1 << 10)
        snprintf(text, TP_AMOUNT_TEXT, "%u byte%s", (unsigned)bytes, bytes == 1 ? "" : "s");
    else if (bytes < 1 << 20)
        snprintf(text, TP_AMOUNT_TEXT, "%.4g KiB", (double)bytes / (1 << 10));
    else
        snprintf(text, TP_AMOUNT_TEXT, "%.4g MiB", (double)bytes / (1 << 20));
    return text;
}
