/* deadline.h: times of users, in seconds, as points on the clock of uv_hrtime. */
#ifndef TP_DEADLINE_H
#define TP_DEADLINE_H

#include <stdint.h>
#include <uv.h>

/* The time after so many seconds, in nanoseconds. UINT64_MAX, for ever, is what comes of infinity and of more seconds than the clock counts; now of
 * less than 0 and of NaN. */
static inline uint64_t tp_deadline_after(double seconds)
{
    if (!(seconds > 0))
        return uv_hrtime();
    return seconds < 9e9 ? uv_hrtime() + (uint64_t)(seconds * 1e9) : UINT64_MAX;
}

#endif
