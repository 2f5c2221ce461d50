/* stuck.c: devices that do not come back from what was given up: an endless kernel, a driver that
 * does not return. Nothing can end those, and for what else a device can run meanwhile there is no
 * rule: PoCL has a thread for each processor, and runs other kernels as long as one of them is
 * free, whatever their context, and whatever their device: all that its driver "pthread" makes
 * have the same threads (the scheduler in lib/CL/devices/pthread/pthread_scheduler.c), while
 * "basic" runs kernels in the thread that asks. Cards share their time between contexts, but hardly
 * within one.
 *
 * So it is tried (tp_opencl_free_up): a thread of its own, the scout, since a driver may not
 * return, runs a small kernel in the device's context, and then one in a new context. Where the
 * first comes back, only the device's threads that hang are replaced, and all that is on the device
 * stays. Where the second does, the device's life is abandoned: all of its threads leave it, the
 * new context is the device's next life, and what only the old one had is lost.
 *
 * What hangs is never freed before it has ended: threads and lives that were left are looked for
 * now and then (tp_cl_pool_reap). */
#include "opencl/stuck.h"

#include "base/thread.h"
#include "runtime/runtime.h"

#include <limits.h>
#include <stdlib.h>

/* How long a scout's kernel has to run, from its launch on; after how long it is also tried in a
 * new context; and how long compiling it may take. */
static const uint64_t TRY_NS = 3000ull * 1000 * 1000, FIRST_NS = 500 * 1000 * 1000,
                      BUILD_NS = 30000ull * 1000 * 1000, ASK_NS = 10 * 1000 * 1000;

static unsigned index_of(const tp_cl_worker *w)
{
    return w->runner.queue.open.index;
}

/* ---- what was left ---- */

void tp_opencl_lose(tp_executor *ex, const tp_open_device *open, tp_ref *queue, cl_event event,
                    tp_lost *lost)
{
    tp_cl_pool *p = (tp_cl_pool *)ex;
    cl_event before = NULL;
    uv_mutex_lock(tp_engine_lock(p->engine));
    open->cl->RetainEvent(event);
    if (lost->queue) { /* its launch before this one has ended, and nobody has looked */
        before = lost->event;
    } else {
        lost->queue = tp_ref_hold(queue);
        lost->next = p->lost;
        p->lost = lost;
        atomic_fetch_add_explicit(&open->life->given_up, 1, memory_order_relaxed);
    }
    lost->cl = open->cl;
    lost->life = open->life;
    lost->device = open->index;
    lost->event = event;
    lost->passed = 0;
    atomic_store_explicit(&p->has_left, true, memory_order_relaxed);
    uv_mutex_unlock(tp_engine_lock(p->engine));
    if (before)
        open->cl->ReleaseEvent(before);
}

unsigned tp_cl_pool_count_lost(const tp_cl_pool *p)
{
    unsigned n = 0;
    for (const tp_lost *l = p->lost; l; l = l->next)
        n += !tp_cl_has_run(l->cl, l->event);
    return n;
}

/* Locked by the engine's lock. Has all ended that was left in that life? */
static bool is_at_rest(const tp_cl_pool *p, const tp_life *life)
{
    for (const tp_cl_worker *w = p->workers; w; w = w->next)
        if (w->left == life && !w->has_ended)
            return false;
    for (const tp_lost *l = p->lost; l; l = l->next)
        if (l->life == life && !tp_cl_has_run(l->cl, l->event))
            return false;
    return true;
}

/* Locked by the engine's lock. Takes the workers that have left a life which is at rest out of the
 * list. */
static tp_cl_worker *take_workers(tp_cl_pool *p)
{
    tp_cl_worker *taken = NULL;
    for (tp_cl_worker **at = &p->workers, *w; (w = *at);) {
        if (w->left && w->has_ended && is_at_rest(p, w->left)) {
            *at = w->next;
            w->next = taken;
            taken = w;
        } else {
            at = &w->next;
        }
    }
    return taken;
}

/* Locked by the engine's lock. Takes a launch by hand that has run out of its list; false: there is
 * none. */
static bool take_lost(tp_cl_pool *p, tp_lost *taken)
{
    for (tp_lost **at = &p->lost, *l; (l = *at); at = &l->next)
        if (tp_cl_has_run(l->cl, l->event)) {
            *taken = *l;
            *at = l->next;
            atomic_fetch_sub_explicit(&l->life->given_up, 1, memory_order_relaxed);
            *l = (tp_lost){ 0 };
            return true;
        }
    return false;
}

/* Frees what launches by hand have used that have run. */
static void free_lost(tp_cl_pool *p)
{
    tp_lost taken = { 0 };
    for (;;) {
        uv_mutex_lock(tp_engine_lock(p->engine));
        bool has = take_lost(p, &taken);
        uv_mutex_unlock(tp_engine_lock(p->engine));
        if (!has)
            return;
        taken.cl->ReleaseEvent(taken.event);
        tp_ref_drop(taken.queue);
    }
}

/* Joins and frees the scouts that have ended. */
static void free_scouts(tp_cl_pool *p)
{
    for (tp_cl_scout **at = &p->scouts, *s; (s = *at);) {
        uv_mutex_lock(tp_engine_lock(p->engine));
        bool is_over = s->has_ended && s->waiting == 0;
        uv_mutex_unlock(tp_engine_lock(p->engine));
        if (!is_over) {
            at = &s->next;
            continue;
        }
        *at = s->next;
        uv_thread_join(&s->thread);
        tp_ref_drop(s->life);
        free(s);
    }
}

void tp_cl_pool_reap(tp_cl_pool *p)
{
    uv_mutex_t *lock = tp_engine_lock(p->engine);
    uv_mutex_lock(lock);
    tp_cl_worker *workers = take_workers(p);
    uv_mutex_unlock(lock);
    tp_cl_pool_free_workers(workers);
    free_lost(p);
    free_scouts(p);
    for (tp_life **at = &p->abandoned, *life; (life = *at);) {
        uv_mutex_lock(lock);
        bool is_over = is_at_rest(p, life);
        uv_mutex_unlock(lock);
        if (is_over) {
            *at = life->next;
            tp_life_come_to_rest(life);
            tp_cl_pool_bury(p, life);
        } else {
            at = &life->next;
        }
    }
    bool has_left = p->abandoned || p->scouts;
    uv_mutex_lock(lock);
    has_left |= p->lost != NULL;
    for (const tp_cl_worker *w = p->workers; w; w = w->next)
        has_left |= w->left != NULL;
    atomic_store_explicit(&p->has_left, has_left, memory_order_relaxed);
    uv_mutex_unlock(lock);
}

/* ---- is it stuck? ---- */

/* Locked by the engine's lock. Does another device run something that was given up, which has a
 * place among `passed` for devices that run kernels beside it, and may share its threads with this
 * one? */
static bool is_in_doubt(const tp_cl *cl, unsigned other, uint64_t passed, unsigned device)
{
    return other != device && !(passed >> device & 1) &&
           cl->devices[other].platform_id == cl->devices[device].platform_id;
}

static bool hangs(const tp_cl_worker *w)
{
    return w->slice && !w->has_ended && (w->left || tp_slice_is_cancelled_locked(w->slice));
}

/* Locked by the engine's lock. A device that this one may wait for: it has not come back from
 * something, and whether this one runs kernels beside that was not tried. -1: there is none. */
static int find_doubt(const tp_cl_pool *p, unsigned device)
{
    for (const tp_cl_worker *w = p->workers; w; w = w->next)
        if (hangs(w) && is_in_doubt(w->runner.queue.open.cl, index_of(w), w->passed, device))
            return (int)index_of(w);
    for (const tp_lost *l = p->lost; l; l = l->next)
        if (!tp_cl_has_run(l->cl, l->event) && is_in_doubt(l->cl, l->device, l->passed, device))
            return (int)l->device;
    return -1;
}

/* Locked by the engine's lock. The device is used beside all that hangs, here and on others. */
static void pass(tp_cl_pool *p, unsigned device)
{
    for (tp_cl_worker *w = p->workers; w; w = w->next)
        if (hangs(w))
            w->passed |= (uint64_t)1 << device;
    for (tp_lost *l = p->lost; l; l = l->next)
        l->passed |= (uint64_t)1 << device;
}

/* Locked by the engine's lock: does the device run only what nobody waits for, or has it not come
 * back from some? `all`: if it has more than one thread, all of them do. */
static bool hangs_itself(const tp_cl_pool *p, unsigned device, bool all)
{
    unsigned serving = 0, idle = 0, wanted = 0, given_up = 0;
    bool has_left = false, is_hung = p->hung >> device & 1;
    for (const tp_lost *l = p->lost; l; l = l->next)
        if (l->device == device && !(l->passed >> device & 1) && !tp_cl_has_run(l->cl, l->event))
            return true;
    for (const tp_cl_worker *w = p->workers; w; w = w->next) {
        if (index_of(w) != device)
            continue;
        has_left |= w->left != NULL;
        if (w->left)
            continue;
        serving++;
        if (!w->slice)
            idle++;
        else if (tp_slice_is_cancelled_locked(w->slice))
            given_up++;
        else
            wanted++;
    }
    if (serving == 0)
        return has_left; /* nobody could be started in their place */
    if (given_up > 0 && p->base.lost_sites >> device & 1)
        return true;
    return wanted == 0 && given_up > 0 && !(all && idle > 0 && !is_hung);
}

/* The same, and is it in doubt? With `all` only if it ran nothing when it was tried. */
static bool is_stuck(const tp_cl_pool *p, unsigned device, bool all)
{
    bool is_hung = p->hung >> device & 1;
    return ((!all || is_hung) && find_doubt(p, device) >= 0) || hangs_itself(p, device, all);
}

bool tp_opencl_is_stuck(tp_executor *ex, unsigned device, uint64_t patience_ns)
{
    tp_cl_pool *p = (tp_cl_pool *)ex;
    uv_mutex_t *lock = tp_engine_lock(p->engine);
    uint64_t began = uv_hrtime();
    if (device >= TP_DEVICES_MAX)
        return false;
    if (atomic_load_explicit(&p->has_left, memory_order_relaxed)) {
        uv_mutex_lock(&p->lock);
        tp_cl_pool_reap(p);
        uv_mutex_unlock(&p->lock);
    }
    for (;;) {
        uv_mutex_lock(lock);
        /* the others would wait for a device that hangs: so a map behind one that was given up
         * looks whether that ends */
        bool is = is_stuck(p, device, patience_ns == 0);
        if (!is)
            p->hung &= ~((uint64_t)1 << device);
        uv_mutex_unlock(lock);
        if (!is || uv_hrtime() - began >= patience_ns)
            return is;
        uv_sleep(5);
    }
}

/* ---- trying ---- */

static void try_kernel(void *arg)
{
    tp_cl_scout *s = arg;
    tp_cl_pool *p = s->pool;
    tp_error ignored = { 0 }; /* it has not run */
    tp_life *life = s->is_fresh ? tp_life_begin(s->cl, &s->cl->devices[s->device], &ignored)
                                : s->life;
    bool ran = life && tp_life_try(life, &s->launched_ns, &ignored) == 0;
    uv_mutex_lock(tp_engine_lock(p->engine));
    if (s->is_fresh)
        s->life = life;
    s->has_run = ran;
    s->has_ended = true;
    tp_idle_end(&p->idle); /* wakes who waits for it */
    uv_mutex_unlock(tp_engine_lock(p->engine));
}

/* The scout that is under way; starts one when there is none. NULL with err set when that fails. */
static tp_cl_scout *send_scout(tp_cl_pool *p, const tp_cl *cl, unsigned device, tp_life *life,
                               tp_error *err)
{
    for (tp_cl_scout *s = p->scouts; s; s = s->next)
        if (s->device == device && (life ? !s->is_fresh && s->life == life : s->is_fresh))
            return s;
    tp_cl_scout *s = calloc(1, sizeof *s);
    if (!s) {
        tp_error_oom(err, "a device's thread");
        return NULL;
    }
    *s = (tp_cl_scout){ .pool = p, .cl = cl, .device = device, .is_fresh = !life,
                        .sent_ns = uv_hrtime() };
    s->life = life ? tp_ref_hold(life) : NULL;
    uv_mutex_lock(tp_engine_lock(p->engine));
    p->idle.alive++;
    uv_mutex_unlock(tp_engine_lock(p->engine));
    int status = tp_thread_create(&s->thread, 0, try_kernel, s);
    if (status) {
        uv_mutex_lock(tp_engine_lock(p->engine));
        tp_idle_end(&p->idle);
        uv_mutex_unlock(tp_engine_lock(p->engine));
        tp_ref_drop(s->life);
        free(s);
        tp_error_set(err, TP_ESYS, "cannot start a thread for a device: %s", uv_strerror(status));
        return NULL;
    }
    s->next = p->scouts;
    p->scouts = s;
    atomic_store_explicit(&p->has_left, true, memory_order_relaxed);
    return s;
}

/* Locked by the engine's lock. Is there still something to wait for? */
static bool is_awaited(const tp_cl_scout *s)
{
    uint64_t launched = atomic_load_explicit(&s->launched_ns, memory_order_relaxed);
    return !s->has_ended && (launched ? uv_hrtime() - launched < TRY_NS
                                      : uv_hrtime() - s->sent_ns < BUILD_NS);
}

/* Waits for two scouts, of which the first is preferred; returns the one that has run its kernel,
 * or NULL. `second`: NULL, to wait for a little while only. Called with p->lock held, which it
 * releases meanwhile: a compiler may take long, and other devices are used. */
static tp_cl_scout *await(tp_cl_pool *p, tp_cl_scout *first, tp_cl_scout *second)
{
    uv_mutex_t *lock = tp_engine_lock(p->engine);
    tp_cl_scout *found = NULL, *both[] = { first, second };
    for (int i = 0; i < 2; i++)
        if (both[i])
            both[i]->waiting++;
    uv_mutex_unlock(&p->lock);
    uv_mutex_lock(lock);
    for (;;) {
        uint64_t launched =
            first ? atomic_load_explicit(&first->launched_ns, memory_order_relaxed) : 0;
        bool had_time = launched && uv_hrtime() - launched > FIRST_NS;
        bool waits = first && is_awaited(first) && !(had_time && !second);
        if (first && first->has_ended && first->has_run)
            found = first;
        else if (second && second->has_ended && second->has_run && (had_time || !waits))
            found = second;
        if (found || (!waits && !(second && is_awaited(second))))
            break;
        uv_cond_timedwait(&p->idle.ended, lock, ASK_NS);
    }
    uv_mutex_unlock(lock);
    uv_mutex_lock(&p->lock);
    for (int i = 0; i < 2; i++)
        if (both[i])
            both[i]->waiting--;
    return found;
}

/* The device's workers that hang leave it, or all of them. */
static void leave(tp_cl_pool *p, unsigned device, const tp_life *life, bool all)
{
    uv_mutex_lock(tp_engine_lock(p->engine));
    for (tp_cl_worker *w = p->workers; w; w = w->next)
        if (index_of(w) == device && !w->left &&
            (all || (w->slice && tp_slice_is_cancelled_locked(w->slice))))
            w->left = life;
    pass(p, device);
    tp_idle_offer(&p->idle, UINT_MAX); /* those that sleep end */
    atomic_store_explicit(&p->has_left, true, memory_order_relaxed);
    uv_mutex_unlock(tp_engine_lock(p->engine));
}

/* Sets err: the device runs nothing beside what was given up. */
static void say_stuck(const tp_cl_pool *p, const tp_cl *cl, unsigned device, tp_error *err)
{
    static const char how[] = "wait for it, use another device, have processes run what may not "
                              "end (executor = \"processes\", with a timeout), or end the program";
    uv_mutex_lock(tp_engine_lock(p->engine));
    int other = find_doubt(p, device);
    uv_mutex_unlock(tp_engine_lock(p->engine));
    if (other < 0)
        tp_error_set(err, TP_ESYS,
                     "%s still runs a map or a kernel that was given up, OpenCL cannot stop it, "
                     "and nothing runs there beside it: %s",
                     cl->devices[device].name, how);
    else
        tp_error_set(err, TP_ESYS,
                     "%s shares its threads with another device, %s, which still runs a map or a "
                     "kernel that was given up, OpenCL cannot stop it, and nothing runs there "
                     "beside it: %s",
                     cl->devices[device].name, cl->devices[other].name, how);
}

/* Finds a life in which the device runs a kernel: `life`, which it has (or NULL), or a new one;
 * NULL with err set when it runs none. The caller holds it. Called with p->lock held, which it
 * releases meanwhile. */
static tp_life *find_life(tp_cl_pool *p, const tp_cl *cl, unsigned device, tp_life *life,
                          tp_error *err)
{
    bool is_over = life && tp_life_is_over(life);
    tp_cl_pool_reap(p); /* what scouts have found out before is not what is true now */
    tp_cl_scout *here = life && !is_over ? send_scout(p, cl, device, life, err) : NULL;
    tp_cl_scout *found = here ? await(p, here, NULL) : NULL;
    if (!found) {
        tp_cl_scout *fresh = send_scout(p, cl, device, NULL, err);
        found = fresh ? await(p, here, fresh) : NULL;
    }
    if (found)
        return tp_ref_hold(found->life);
    say_stuck(p, cl, device, err);
    return NULL;
}

/* The device has a new life in the place of the one in which it hangs. Called with p->lock held. */
static void replace_life(tp_cl_pool *p, unsigned device, tp_life *fresh)
{
    tp_life *old = p->lives[device];
    leave(p, device, old, true);
    p->lives[device] = fresh;
    if (!old) /* it was not open before */
        return;
    if (tp_life_is_over(old)) {
        tp_cl_pool_bury(p, old);
        return;
    }
    tp_life_abandon(old);
    tp_copies_wake(&p->copies);
    old->next = p->abandoned;
    p->abandoned = old;
}

static bool is_stuck_now(tp_cl_pool *p, unsigned device)
{
    uv_mutex_lock(tp_engine_lock(p->engine));
    bool is = is_stuck(p, device, false);
    uv_mutex_unlock(tp_engine_lock(p->engine));
    return is;
}

/* Called with p->lock held, which it releases meanwhile. */
static int free_up(tp_cl_pool *p, const tp_cl *cl, unsigned device, tp_error *err)
{
    tp_life *life = NULL;
    for (bool is_settled = false; !is_settled;) {
        if (!is_stuck_now(p, device))
            return 0;
        tp_life *before = p->lives[device] ? tp_ref_hold(p->lives[device]) : NULL;
        *err = (tp_error){ 0 };
        life = find_life(p, cl, device, before, err);
        is_settled = p->lives[device] == before; /* else another thread was faster */
        tp_ref_drop(before);
        if (!is_settled)
            tp_ref_drop(life);
    }
    if (!life)
        return -1;
    if (life == p->lives[device]) {
        tp_ref_drop(life);
        leave(p, device, life, false);
    } else {
        replace_life(p, device, life);
    }
    tp_open_device open = { cl, &cl->devices[device], device, life->context, life };
    return tp_cl_pool_start_workers(p, &open, err);
}

bool tp_opencl_keeps(tp_executor *ex, unsigned device, uint64_t patience_ns)
{
    tp_cl_pool *p = (tp_cl_pool *)ex;
    tp_error ignored = { 0 };
    if (!tp_opencl_is_stuck(ex, device, patience_ns))
        return false;
    uv_mutex_lock(tp_engine_lock(p->engine));
    bool may_try = !p->idle.is_stopping && !(p->hung >> device & 1) &&
                   !hangs_itself(p, device, false);
    uv_mutex_unlock(tp_engine_lock(p->engine));
    return !may_try || tp_opencl_free_up(ex, device, &ignored) != 0;
}

int tp_opencl_free_up(tp_executor *ex, unsigned device, tp_error *err)
{
    tp_cl_pool *p = (tp_cl_pool *)ex;
    const tp_cl *cl = tp_host_opencl(ex->host, err);
    int rc;
    if (!cl)
        return -1;
    if (device >= cl->n)
        return tp_error_set(err, TP_EUSAGE, "there is no device %u", device);
    uv_mutex_lock(&p->lock);
    rc = free_up(p, cl, device, err);
    uv_mutex_lock(tp_engine_lock(p->engine));
    p->hung = (p->hung & ~((uint64_t)1 << device)) | (uint64_t)(rc != 0) << device;
    uv_mutex_unlock(tp_engine_lock(p->engine));
    uv_mutex_unlock(&p->lock);
    return rc;
}
