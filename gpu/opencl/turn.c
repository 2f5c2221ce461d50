/* turn.c: launches that change arrays, one after the other. */
#include "opencl/turn.h"

#include "base/thread.h"

/* How often a wait looks whether the launch before it was given up, and how long that may take to
 * end all the same. */
static const uint64_t ASK_NS = 50 * 1000 * 1000, PATIENCE_NS = 1000 * 1000 * 1000;

int tp_turn_open(tp_turn *t, tp_error *err)
{
    *t = (tp_turn){ 0 };
    return tp_lock_open(&t->lock, &t->ended, err);
}

void tp_turn_close(tp_turn *t)
{
    tp_lock_close(&t->lock, &t->ended);
}

void tp_turn_begin(tp_turn *t, const tp_work *w)
{
    const tp_work *before = NULL; /* whose launch was given up, at `since` or before */
    uint64_t since = 0;
    uv_mutex_lock(&t->lock);
    while (t->owner) {
        /* the work is there as long as its launch has the turn */
        bool is_given_up = t->owner->sink->is_cancelled(t->owner);
        if (!is_given_up || before != t->owner) {
            before = is_given_up ? t->owner : NULL;
            since = uv_hrtime();
        } else if (uv_hrtime() - since > PATIENCE_NS) {
            break;
        }
        uv_cond_timedwait(&t->ended, &t->lock, ASK_NS);
    }
    t->owner = w;
    uv_mutex_unlock(&t->lock);
}

void tp_turn_end(tp_turn *t, const tp_work *w)
{
    uv_mutex_lock(&t->lock);
    if (t->owner == w) {
        t->owner = NULL;
        uv_cond_broadcast(&t->ended);
    }
    uv_mutex_unlock(&t->lock);
}
