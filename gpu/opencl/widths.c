/* widths.c: launches that run beside each other, or alone. */
#include "opencl/widths.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <uv.h>

static const uint64_t PATIENCE_NS = 10ull * 1000 * 1000 * 1000;

struct tp_widths {
    tp_ref ref;
    uv_mutex_t lock; /* a leaf */
    uv_cond_t ended;
    /* ---- guarded by lock ---- */
    size_t widest; /* that was launched; 0: nothing was */
    unsigned running;
    bool is_alone; /* one of those makes a version */
};

static void free_widths(tp_ref *r)
{
    tp_widths *w = (tp_widths *)r;
    uv_cond_destroy(&w->ended);
    uv_mutex_destroy(&w->lock);
    free(w);
}

static const tp_ref_type widths_type = { "tidepool.widths", free_widths };

tp_widths *tp_widths_new(void)
{
    tp_widths *w = calloc(1, sizeof *w);
    if (!w)
        return NULL;
    tp_ref_init(&w->ref, &widths_type);
    if (uv_mutex_init(&w->lock))
        goto no_lock;
    if (uv_cond_init(&w->ended) == 0)
        return w;
    uv_mutex_destroy(&w->lock);
no_lock:
    free(w);
    return NULL;
}

void tp_widths_begin(tp_widths *w, size_t width)
{
    uint64_t until = uv_hrtime() + PATIENCE_NS, now;
    uv_mutex_lock(&w->lock);
    while ((w->is_alone || (width > w->widest && w->running > 0)) && (now = uv_hrtime()) < until)
        uv_cond_timedwait(&w->ended, &w->lock, until - now);
    if (width > w->widest) {
        w->is_alone = true;
        w->widest = width == SIZE_MAX ? w->widest : width;
    }
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
