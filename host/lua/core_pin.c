/* core_pin.c: the strings of the owner's state that are pinned for blocks, whose scalars of TP_SCALAR_PINNED point into them.
 *
 * A table of strings is kept alive by a reference in the registry for as long as the block lives. Any thread may let go of the block; its pin then waits in
 * a list until the owner's thread is here again, which alone may touch the registry. */
#include "lua/core_private.h"

#include "codec/codec.h"

#include <lauxlib.h>
#include <stdatomic.h>
#include <stdlib.h>

struct tp_pins {
    tp_ref ref;
    _Atomic(struct pin *) dropped;
};

typedef struct pin {
    tp_ref ref;
    tp_pins *from;      /* held until it is dropped */
    struct pin *next; /* in from->dropped */
    int anchor;        /* registry reference */
} pin;

/* Nobody holds the pin any more: any thread. */
static void unpin(tp_ref *r)
{
    pin *l = (pin *)r;
    tp_pins *from = l->from;
    l->next = atomic_load_explicit(&from->dropped, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(&from->dropped, &l->next, l, memory_order_acq_rel, memory_order_relaxed))
        ;
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
    for (pin *l = atomic_exchange_explicit(&ctx->pins->dropped, NULL, memory_order_acquire), *next; l; l = next) {
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
}
