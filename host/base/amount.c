/* amount.c: see amount.h. */
#include "base/amount.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>

const char *tp_amount_of_bytes(char text[TP_AMOUNT_TEXT], uint64_t bytes)
{
    static const char *const units[] = { "KiB", "MiB", "GiB", "TiB" };
    if (bytes < 1 << 10) {
        snprintf(text, TP_AMOUNT_TEXT, "%u byte%s", (unsigned)bytes, bytes == 1 ? "" : "s");
        return text;
    }
    double x = (double)bytes / 1024;
    unsigned unit = 0;
    for (; round(x) >= 1024 && unit < 3; unit++) /* as it would be shown */
        x /= 1024;
    double tenths = round(x * 10);
    bool has_tenth = tenths < 1000 && fmod(tenths, 10) != 0;
    snprintf(text, TP_AMOUNT_TEXT, "%.*f %s", has_tenth ? 1 : 0, x, units[unit]);
    return text;
}
