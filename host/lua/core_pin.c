/* core_pin.c: what the owner's state lends to blocks: the strings that scalars of TP_SCALAR_LENT point into.
 *
 * A table of strings is kept alive by a reference in the registry for as long as the block lives. Any thread may let go of the block; its loan then waits in
 * a list until the owner's thread is here again, which alone may touch the registry. */
#include "lua/core_private.h"

#include "codec/codec.h"

#include <lauxlib.h>
#include <stdatomic.h>
#include <stdlib.h>

struct lender {
    tp_ref ref;
    _Atomic(struct loan *) returned;
};

typedef struct loan {
    tp_ref ref;
    lender *from;      /* held until it is returned */
    struct loan *next; /* in from->returned */
    int anchor;        /* registry reference */
} loan;

/* The last owner of a loan: any thread. */
static void return_loan(tp_ref *r)
{
    loan *l = (loan *)r;
    lender *from = l->from;
    l->next = atomic_load_explicit(&from->returned, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(&from->returned, &l->next, l, memory_order_acq_rel, memory_order_relaxed))
        ;
    tp_ref_drop(from);
}

static const tp_ref_type loan_type = { "tidepool.loan", return_loan };

static void free_lender(tp_ref *r)
{
    lender *from = (lender *)r;
    for (loan *l = atomic_load_explicit(&from->returned, memory_order_acquire), *next; l; l = next) {
        next = l->next;
        free(l);
    }
    free(from);
}

static const tp_ref_type lender_type = { "tidepool.lender", free_lender };

void tp_core_take_back(lua_State *L, context *ctx)
{
    if (!ctx->lender || !atomic_load_explicit(&ctx->lender->returned, memory_order_relaxed))
        return;
    for (loan *l = atomic_exchange_explicit(&ctx->lender->returned, NULL, memory_order_acquire), *next; l; l = next) {
        next = l->next;
        luaL_unref(L, LUA_REGISTRYINDEX, l->anchor);
        free(l);
    }
}

void tp_core_lend(lua_State *L, context *ctx, tp_block *b)
{
    if (!ctx->lender) {
        lender *made = malloc(sizeof *made);
        if (!made)
            tp_codec_raise_memory(L);
        tp_ref_init(&made->ref, &lender_type);
        atomic_init(&made->returned, NULL);
        ctx->lender = made;
    }
    int anchor = luaL_ref(L, LUA_REGISTRYINDEX);
    loan *l = malloc(sizeof *l);
    if (!l || tp_block_give(b, &l->ref)) {
        free(l);
        luaL_unref(L, LUA_REGISTRYINDEX, anchor);
        tp_codec_raise_memory(L);
        return;
    }
    tp_ref_init(&l->ref, &loan_type);
    l->from = tp_ref_hold(ctx->lender);
    l->anchor = anchor;
}
