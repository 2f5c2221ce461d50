/* core_pin.c: pins: strings of the owner's state that blocks point into (scalars of the kind
 * TP_SCALAR_PINNED).
 *
 * A reference in the registry keeps a table of such strings alive for as long as the block lives.
 * Any thread may drop the block, but only the owner's thread may touch the registry. So a dropped
 * pin waits in a list until the owner's thread calls tp_core_take_back.
 *
 * A state may be closed while workers still read pinned strings. It then cancels its maps, so that
 * no more items begin, and waits for all pins to be dropped, but not for ever. An item that runs on
 * after that does not read pinned strings any more: it has got its arguments, the work stops before
 * the next item, and the failure of an unwanted item does without its input (sink_append in
 * schedule.c). */
#include "lua/core_private.h"

#include "codec/codec.h"
#include "runtime/runtime.h"

#include <lauxlib.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

enum { END_NS = 1000 * 1000 * 1000, LOOK_NS = 100 * 1000 };

struct tp_pins {
    tp_ref ref;
    /* pins whose block is alive (dropping releases, waiting for it acquires) */
    _Atomic unsigned held;
    _Atomic(struct pin *) dropped;
};

typedef struct pin {
    tp_ref ref;
    tp_pins *from;      /* held until the pin is freed */
    struct pin *next; /* in from->dropped */
    int anchor;        /* registry reference */
} pin;

/* The last owner of the pin has dropped it. Any thread. */
static void unpin(tp_ref *r)
{
    pin *l = (pin *)r;
    tp_pins *from = l->from;
    l->next = atomic_load_explicit(&from->dropped, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(&from->dropped, &l->next, l, memory_order_acq_rel,
                                                  memory_order_relaxed))
        ;
    atomic_fetch_sub_explicit(&from->held, 1, memory_order_release);
    tp_ref_drop(from);
}

static const tp_ref_type pin_type = { "tidepool.pin", unpin };

static void free_pins(tp_ref *r)
{
    tp_pins *from = (tp_pins *)r;
    for (pin *l = atomic_load_explicit(&from->dropped, memory_order_acquire), *next; l; l = next) {
        next = l->next;
        free(l);
    }
    free(from);
}

static const tp_ref_type pins_type = { "tidepool.pins", free_pins };

void tp_core_take_back(lua_State *L, context *ctx)
{
    if (!ctx->pins || !atomic_load_explicit(&ctx->pins->dropped, memory_order_relaxed))
        return;
    for (pin *l = atomic_exchange_explicit(&ctx->pins->dropped, NULL, memory_order_acquire), *next;
         l; l = next) {
        next = l->next;
        luaL_unref(L, LUA_REGISTRYINDEX, l->anchor);
        free(l);
    }
}

void tp_core_pin(lua_State *L, context *ctx, tp_block *b)
{
    if (!ctx->pins) {
        tp_pins *made = malloc(sizeof *made);
        if (!made)
            tp_codec_raise_memory(L);
        tp_ref_init(&made->ref, &pins_type);
        atomic_init(&made->dropped, NULL);
        atomic_init(&made->held, 0);
        ctx->pins = made;
    }
    int anchor = luaL_ref(L, LUA_REGISTRYINDEX);
    pin *l = malloc(sizeof *l);
    if (!l || tp_block_give(b, &l->ref)) {
        free(l);
        luaL_unref(L, LUA_REGISTRYINDEX, anchor);
        tp_codec_raise_memory(L);
        return;
    }
    tp_ref_init(&l->ref, &pin_type);
    l->from = tp_ref_hold(ctx->pins);
    l->anchor = anchor;
    atomic_fetch_add_explicit(&ctx->pins->held, 1, memory_order_relaxed);
}

void tp_core_end_pins(context *ctx)
{
    if (!ctx->pins)
        return;
    const tp_pins *pins = ctx->pins;
    uint64_t until = uv_hrtime() + END_NS;
    /* a forked child has no workers, so nothing is cancelled or waited for there */
    bool are_cancelled = false, is_usable = tp_host_is_usable(ctx->host);
    while (is_usable && atomic_load_explicit(&pins->held, memory_order_acquire) > 0 &&
           uv_hrtime() < until) {
        if (!are_cancelled)
            tp_engine_cancel_of(ctx->host->engine, &ctx->listener->waiter);
        are_cancelled = true;
        nanosleep(&(struct timespec){ .tv_nsec = LOOK_NS }, NULL);
    }
    tp_ref_drop(ctx->pins);
    ctx->pins = NULL;
}
