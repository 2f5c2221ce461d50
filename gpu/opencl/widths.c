/* widths.c: launches that run beside each other, or alone. */
#include "opencl/widths.h"

#include "base/thread.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

/* How long a launch may take that is waited for. */
static const uint64_t PATIENCE_NS = 10ull * 1000 * 1000 * 1000;

struct tp_widths {
    tp_ref ref;
    uv_mutex_t lock; /* a leaf */
    uv_cond_t ended;
    /* ---- guarded by lock ---- */
    size_t widest; /* that was launched; 0: nothing was */
    unsigned running;
    uint64_t since; /* when the last of those began (uv_hrtime) */
    bool is_alone; /* one of those makes a version */
};

static void free_widths(tp_ref *r)
{
    tp_widths *w = (tp_widths *)r;
    tp_lock_close(&w->lock, &w->ended);
    free(w);
}

static const tp_ref_type widths_type = { "tidepool.widths", free_widths };

tp_widths *tp_widths_new(void)
{
    tp_error ignored = { 0 }; /* there is but one reason */
    tp_widths *w = calloc(1, sizeof *w);
    if (!w)
        return NULL;
    tp_ref_init(&w->ref, &widths_type);
    if (tp_lock_open(&w->lock, &w->ended, &ignored) == 0)
        return w;
    free(w);
    return NULL;
}

void tp_widths_begin(tp_widths *w, size_t width)
{
    uint64_t now = uv_hrtime(), until = now + PATIENCE_NS;
    uv_mutex_lock(&w->lock);
    while (w->is_alone || (width > w->widest && w->running > 0)) {
        uint64_t end = w->since + PATIENCE_NS < until ? w->since + PATIENCE_NS : until;
        if (now >= end)
            break; /* it has made its version long ago, and runs for long, or for ever */
        uv_cond_timedwait(&w->ended, &w->lock, end - now);
        now = uv_hrtime();
    }
    w->is_alone = width > w->widest;
    if (w->is_alone && width != SIZE_MAX)
        w->widest = width;
    w->since = now;
    w->running++;
    uv_mutex_unlock(&w->lock);
}

void tp_widths_end(tp_widths *w)
{
    uv_mutex_lock(&w->lock);
    w->running--;
    w->is_alone = false;
    uv_cond_broadcast(&w->ended);
    uv_mutex_unlock(&w->lock);
}
