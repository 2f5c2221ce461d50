/* ref.h: objects of the host that several threads own together, by counting.
 *
 * A tp_ref is the first member of every such struct. Messages (codec.h) carry references to them
 * beside their bytes, so that an object travels between Lua states without being copied. */
#ifndef TP_REF_H
#define TP_REF_H

#include "base/invariant.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct tp_ref tp_ref;

/* What kind of object it is. One static const table per kind; its address identifies the kind. */
typedef struct tp_ref_type {
    const char *metatable;   /* name of the metatable that its userdata have in a Lua state */
    void (*free)(tp_ref *r); /* called by the last drop, on the thread that dropped */
} tp_ref_type;

struct tp_ref {
    const tp_ref_type *type;
    _Atomic uint32_t owners;
};

static inline void tp_ref_init(tp_ref *r, const tp_ref_type *type)
{
    r->type = type;
    atomic_init(&r->owners, 1);
}

/* One more owner. Any thread that owns it already. */
static inline void *tp_ref_hold(void *ref)
{
    uint32_t before = atomic_fetch_add_explicit(&((tp_ref *)ref)->owners, 1, memory_order_relaxed);
    TP_ASSERT(before > 0);
    return ref;
}

/* One more owner, for who does not own it but keeps it from being freed meanwhile; false: nobody
 * owns it any more. */
static inline bool tp_ref_try_hold(void *ref)
{
    _Atomic uint32_t *owners = &((tp_ref *)ref)->owners;
    uint32_t before = atomic_load_explicit(owners, memory_order_relaxed);
    while (before > 0 && !atomic_compare_exchange_weak_explicit(
                             owners, &before, before + 1, memory_order_relaxed,
                             memory_order_relaxed))
        ;
    return before > 0;
}

/* Has it no owner but the caller? */
static inline bool tp_ref_is_alone(const void *ref)
{
    return atomic_load_explicit(&((const tp_ref *)ref)->owners, memory_order_acquire) == 1;
}

/* One owner fewer; the last one frees. Accepts NULL. Every drop releases and the last one acquires:
 * what any owner wrote is seen by the thread that frees. */
static inline void tp_ref_drop(void *ref)
{
    tp_ref *r = ref;
    uint32_t before = r ? atomic_fetch_sub_explicit(&r->owners, 1, memory_order_acq_rel) : 2;
    TP_ASSERT(before > 0);
    if (before == 1)
        r->type->free(r);
}

#endif
