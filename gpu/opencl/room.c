/* room.c: who has the memory of a device, and those who have to wait for it.
 *
 * No lock is held while memory is given back, or a device is waited for: a tenant is marked
 * instead, and only its own thread waits for the mark. Who waits to be alone has given back its own
 * memory, and may be emptied meanwhile. So nobody who waits has what another one waits for. */
#include "opencl/room.h"

#include "base/amount.h"
#include "base/thread.h"

#include <stdio.h>

/* How often waits look whether launches were given up, and how long such a one may take to end. */
static const uint64_t ASK_NS = 50 * 1000 * 1000, PATIENCE_NS = 1000 * 1000 * 1000;

int tp_room_open(tp_room *r, const tp_cl_device *device, tp_error *err)
{
    r->device = device;
    return tp_lock_open(&r->lock, &r->changed, err);
}

void tp_room_close(tp_room *r)
{
    tp_lock_close(&r->lock, &r->changed);
}

/* ---- counts ---- */

void tp_room_add(tp_room *r, tp_holder holder, uint64_t bytes)
{
    atomic_fetch_add_explicit(&r->held[holder], bytes, memory_order_relaxed);
}

void tp_room_subtract(tp_room *r, tp_holder holder, uint64_t bytes)
{
    atomic_fetch_sub_explicit(&r->held[holder], bytes, memory_order_relaxed);
}

uint64_t tp_room_held(const tp_room *r, tp_holder holder)
{
    return atomic_load_explicit(&r->held[holder], memory_order_relaxed);
}

bool tp_room_is_short(cl_int rc)
{
    return rc == CL_MEM_OBJECT_ALLOCATION_FAILURE || rc == CL_OUT_OF_HOST_MEMORY;
}

int tp_room_say_full(const tp_room *r, const char *what, uint64_t bytes, cl_int rc, tp_error *err)
{
    static const char *const names[] = { "launches", "copies of arrays", "buffers",
                                         "pinned memory" };
    char size[TP_AMOUNT_TEXT], held[256] = "";
    size_t n = 0;
    for (int i = 0; i < TP_HOLDERS; i++) {
        uint64_t has = tp_room_held(r, (tp_holder)i);
        if (has)
            n += (size_t)snprintf(held + n, sizeof held - n, "%s%s for %s", n ? ", " : "",
                                  tp_amount_of_bytes(size, has), names[i]);
    }
    char all[TP_AMOUNT_TEXT], wanted[TP_AMOUNT_TEXT + 8] = "";
    if (bytes)
        snprintf(wanted, sizeof wanted, " of %s", tp_amount_of_bytes(size, bytes));
    return tp_error_set(err, TP_ESYS,
                        "%s: no memory for %s%s: %s (%d). Of the device's %s this program has %s: "
                        "let go of buffers and results that are not needed any more, map less at a "
                        "time, or use a device with more memory",
                        r->device->name, what, wanted, tp_cl_error_name(rc), rc,
                        tp_amount_of_bytes(all, r->device->memory), n ? held : "none");
}

/* ---- tenants ---- */

void tp_room_join(tp_room *r, tp_tenant *t)
{
    uv_mutex_lock(&r->lock);
    t->next = r->tenants;
    r->tenants = t;
    uv_mutex_unlock(&r->lock);
}

/* Locked. Waits until no other thread touches the tenant. */
static void await_mine(tp_room *r, const tp_tenant *t)
{
    while (t->is_emptied)
        uv_cond_wait(&r->changed, &r->lock);
}

void tp_room_leave(tp_room *r, tp_tenant *t)
{
    uv_mutex_lock(&r->lock);
    await_mine(r, t);
    for (tp_tenant **at = &r->tenants; *at; at = &(*at)->next)
        if (*at == t) {
            *at = t->next;
            break;
        }
    uv_mutex_unlock(&r->lock);
}

void tp_room_use(tp_room *r, tp_tenant *t)
{
    uv_mutex_lock(&r->lock);
    await_mine(r, t);
    t->is_used = true;
    uv_mutex_unlock(&r->lock);
}

void tp_room_end_use(tp_room *r, tp_tenant *t)
{
    uv_mutex_lock(&r->lock);
    t->is_used = false;
    uv_mutex_unlock(&r->lock);
}

static bool is_given_up(const tp_tenant *t)
{
    return t->is_given_up && t->is_given_up(t);
}

/* Locked. Has another launch to be alone, which ends? */
static bool is_held_up(const tp_room *r, const tp_tenant *t)
{
    return r->alone && r->alone != t && !is_given_up(r->alone);
}

void tp_room_begin(tp_room *r, tp_tenant *t)
{
    uv_mutex_lock(&r->lock);
    while (is_held_up(r, t) || t->is_emptied)
        uv_cond_timedwait(&r->changed, &r->lock, ASK_NS);
    t->is_used = t->is_running = true;
    uv_mutex_unlock(&r->lock);
}

void tp_room_end(tp_room *r, tp_tenant *t)
{
    uv_mutex_lock(&r->lock);
    t->is_used = t->is_running = false;
    if (r->alone == t)
        r->alone = NULL;
    uv_cond_broadcast(&r->changed);
    uv_mutex_unlock(&r->lock);
}

/* Locked. The first one behind `after` (NULL: of all) that may be emptied. */
static tp_tenant *find_unused(tp_room *r, tp_tenant *after)
{
    for (tp_tenant *t = after ? after->next : r->tenants; t; t = t->next)
        if (t->give_back && !t->is_used && !t->is_emptied)
            return t;
    return NULL;
}

static bool runs_more(const tp_room *r) /* locked */
{
    for (const tp_tenant *t = r->tenants; t; t = t->next)
        if (t->is_running && t != r->alone)
            return true;
    return false;
}

bool tp_room_is_busy(tp_room *r)
{
    uv_mutex_lock(&r->lock);
    bool is = runs_more(r);
    uv_mutex_unlock(&r->lock);
    return is;
}

bool tp_room_empty(tp_room *r, bool all)
{
    bool has_given = false;
    uv_mutex_lock(&r->lock);
    all = all && !runs_more(r);
    /* it stays in the list as long as it is marked */
    for (tp_tenant *t = find_unused(r, NULL); t; t = find_unused(r, t)) {
        t->is_emptied = true;
        uv_mutex_unlock(&r->lock);
        has_given |= t->give_back(t, all);
        uv_mutex_lock(&r->lock);
        t->is_emptied = false;
        uv_cond_broadcast(&r->changed);
    }
    uv_mutex_unlock(&r->lock);
    return has_given;
}

/* Locked. Runs another launch, which may end? It is waited for since then. */
static bool is_crowded(const tp_room *r, const tp_tenant *but, uint64_t since)
{
    bool is_patient = uv_hrtime() - since < PATIENCE_NS;
    for (const tp_tenant *t = r->tenants; t; t = t->next)
        if (t != but && t->is_running && (is_patient || !is_given_up(t)))
            return true;
    return false;
}

bool tp_room_be_alone(tp_room *r, tp_tenant *t, bool (*gives_up)(void *user), void *user)
{
    bool is_wanted = true;
    uint64_t began = uv_hrtime();
    uv_mutex_lock(&r->lock);
    t->is_used = t->is_running = false; /* who waits has nothing that others need */
    uv_cond_broadcast(&r->changed);
    while (is_held_up(r, t) || (r->alone = t, is_crowded(r, t, began)) || t->is_emptied) {
        if (!is_wanted && !t->is_emptied)
            break;
        uv_cond_timedwait(&r->changed, &r->lock, ASK_NS);
        uv_mutex_unlock(&r->lock);
        is_wanted = !gives_up(user);
        uv_mutex_lock(&r->lock);
    }
    t->is_used = t->is_running = true;
    uv_mutex_unlock(&r->lock);
    return is_wanted;
}
