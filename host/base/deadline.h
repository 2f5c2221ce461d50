/* deadline.h: seconds, as users give them, to points on the clock of uv_hrtime. */
#ifndef TP_DEADLINE_H
#define TP_DEADLINE_H

#include <stdint.h>
#include <uv.h>

/* The time after so many seconds, in nanoseconds. Infinity, and more seconds than the clock can
 * count, give UINT64_MAX (for ever); less than 0, and NaN, give now. */
static inline uint64_t tp_deadline_after(double seconds)
{
    if (!(seconds > 0))
        return uv_hrtime();
    return seconds < 9e9 ? uv_hrtime() + (uint64_t)(seconds * 1e9) : UINT64_MAX;
}

#endif
