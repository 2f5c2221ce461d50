/* packing.c: what a chunk becomes as a message, and what lies at the server for it. */
#include "cluster/coordinator/packing.h"

#include "base/blake2b.h"
#include "cluster/coordinator/coordinator.h"
#include "cluster/coordinator/signs.h"
#include "cluster/happened.h"
#include "wire/events.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    READ_MAX = 256,
    IMAGES = 64
};

void tp_packing_drop_read(cluster *c, uint64_t now)
{
    while (c->packing.n_read > 0 && (now >= c->packing.read[c->packing.first_read].due_ns ||
                                     c->packing.n_read == READ_MAX)) {
        tp_blob_drop(&c->server.nats, &c->packing.read[c->packing.first_read].blob);
        c->packing.first_read = (c->packing.first_read + 1) % READ_MAX;
        c->packing.n_read--;
    }
}

void tp_packing_remove_all(cluster *c)
{
    char filter[TP_SUBJECT_MAX];
    tp_packing_drop_read(c, UINT64_MAX);
    for (int i = 0; i < IMAGES; i++) {
        tp_blob_drop(&c->server.nats, &c->packing.images[i].blob);
        c->packing.images[i].is_stored = false;
    }
    tp_blob_drop(&c->server.nats, &c->packing.modules);
    c->packing.modules_size = 0;
    snprintf(filter, sizeof filter, TP_SUBJECT_R "%s.>", c->server.session_hex);
    tp_nats_purge(&c->server.nats, TP_STREAM_R, filter);
    snprintf(filter, sizeof filter, TP_SUBJECT_B "%s.>", c->server.session_hex);
    tp_nats_purge(&c->server.nats, TP_STREAM_B, filter);
}

void tp_packing_leave_blob(cluster *c, const flight *l, tp_blob *b)
{
    if (!tp_job_recorder(l->slice->job)) {
        tp_blob_drop(&c->server.nats, b);
        return;
    }
    unsigned at = (c->packing.first_read + c->packing.n_read++) % READ_MAX;
    c->packing.read[at].blob = *b;
    c->packing.read[at].due_ns = uv_hrtime() + KEEP_NS;
    *b = (tp_blob){ 0 };
    tp_packing_drop_read(c, uv_hrtime());
}

/* Stores the payload of a message that is too large for one. On failure c->packing.trouble says
 * why. */
static int store(cluster *c, tp_blob *b, const void *bytes, tp_error *err)
{
    c->packing.trouble = tp_blob_put(&c->server.nats, c->server.session_hex, b, bytes,
                                     &(tp_between){ tp_signs_hear, c }, err);
    c->packing.silent = c->packing.trouble == TP_NATS_SILENT ? c->packing.silent + 1 : 0;
    if (c->packing.trouble == TP_NATS_STORED)
        return 0;
    tp_blob_drop(&c->server.nats, b); /* the pieces that were stored take room that others need */
    tp_packing_drop_read(c, UINT64_MAX);
    return -1;
}

uint32_t tp_packing_least_count(const tp_work *w)
{
    return w->terms->batch ? w->terms->batch : 1;
}

static void free_image(image *i)
{
    tp_ref_drop(i->of);
    tp_buf_free(&i->bytes);
    tp_blob_free(&i->blob);
    tp_parcel_refs_free(&i->refs);
    *i = (image){ 0 };
}

/* The image as bytes, stored at the server when it is large. */
static image *find_image(cluster *c, tp_image *of_function, tp_error *err)
{
    image *i = NULL, *oldest = NULL;
    for (int k = 0; k < IMAGES && !i; k++) {
        image *one = &c->packing.images[k];
        if (one->of == of_function)
            i = one;
        else if (one->users == 0 && (!oldest || one->used < oldest->used))
            oldest = one;
    }
    if (!i && !oldest) {
        tp_error_set(err, TP_ELIMIT, "too many functions at once on the cluster");
        return NULL;
    }
    if (i && (i->bytes.len > 0 || i->is_stored)) {
        i->used = ++c->packing.used;
        return i;
    }
    if (!i) {
        i = oldest;
        free_image(i);
    }
    tp_parcel_refs_free(&i->refs);
    if (tp_parcel_put_image(of_function, &i->bytes, &i->refs, &c->packing.n_funcs, err)) {
        free_image(i);
        return NULL;
    }
    i->of = i->of ? i->of : tp_ref_hold(of_function);
    i->size = i->bytes.len;
    i->used = ++c->packing.used;
    tp_blake2b_hash(i->digest, sizeof i->digest, i->bytes.data, i->bytes.len);
    if (i->size <= TP_IMAGE_INLINE)
        return i;
    tp_blob_free(&i->blob);
    i->blob = tp_blob_of(i->digest, i->size);
    int rc = store(c, &i->blob, i->bytes.data, err);
    tp_buf_free(&i->bytes);
    i->is_stored = rc == 0;
    return rc ? NULL : i;
}

/* Holds the function or store while the session lasts. */
static int keep_ref(cluster *c, tp_ref *r, tp_error *err)
{
    for (uint32_t i = c->packing.asked.n; i > 0; i--)
        if (c->packing.asked.refs[i - 1] == r)
            return 0;
    return tp_parcel_refs_add(&c->packing.asked, r, err);
}

/* Holds those that workers may ask for. */
static int keep_asked(cluster *c, const tp_parcel_refs *refs, tp_error *err)
{
    for (uint32_t i = 0; i < refs->n; i++) {
        tp_ref *r = refs->refs[i];
        const bool is_limited = r->type == &tp_func_type && ((tp_func *)(void *)r)->limit > 0;
        if ((is_limited || tp_store_is(r)) && keep_ref(c, r, err))
            return -1;
    }
    return 0;
}

/* see tp_store_names */
static uint64_t id_of(void *user, tp_ref *r)
{
    return tp_store_is(r) && keep_ref(user, r, NULL) == 0 ? (uint64_t)(uintptr_t)r : 0;
}

/* Nothing is believed of the id. */
static tp_ref *store_of(void *user, uint64_t id, bool is_queue)
{
    cluster *c = user;
    for (uint32_t i = 0; i < c->packing.asked.n; i++) {
        tp_ref *r = c->packing.asked.refs[i];
        if ((uint64_t)(uintptr_t)r == id && tp_store_is(r) &&
            is_queue == (r->type == &tp_store_queue_type))
            return tp_ref_hold(r);
    }
    return NULL;
}

tp_func *tp_packing_func_of(const cluster *c, uint64_t id)
{
    for (uint32_t i = 0; i < c->packing.asked.n; i++) {
        tp_ref *r = c->packing.asked.refs[i];
        if (r->type == &tp_func_type && ((tp_func *)(void *)r)->afar == id)
            return (tp_func *)(void *)r;
    }
    return NULL;
}

/* Stores the script's modules when there are more than were stored. */
static int store_modules(cluster *c, tp_error *err)
{
    tp_buf bytes = { 0 };
    int rc = tp_bundle_copy(&c->base.host->bundle, c->packing.modules_size, &bytes);
    if (rc > 0) {
        tp_blake2b_hash(c->packing.modules_digest, sizeof c->packing.modules_digest, bytes.data,
                        bytes.len);
        c->packing.modules_size = bytes.len;
        tp_blob_free(&c->packing.modules);
        c->packing.modules = tp_blob_of(c->packing.modules_digest, bytes.len);
        rc = store(c, &c->packing.modules, bytes.data, err);
        if (rc)
            c->packing.modules_size = 0;
    } else if (rc) {
        tp_error_oom(err, "modules");
    }
    tp_buf_free(&bytes);
    return rc;
}

/* What each worker may tell of what happens (tp_task.told_bytes). */
static uint32_t told_bytes(const cluster *c)
{
    const uint32_t each = TP_HAPPENED_ALL / (c->crew.alive ? c->crew.alive : 1);
    return each < TP_HAPPENED_LEAST  ? TP_HAPPENED_LEAST
           : each > TP_HAPPENED_MOST ? TP_HAPPENED_MOST
                                     : each;
}

int tp_packing_seal(cluster *c, flight *l, tp_error *err)
{
    tp_work *w = &l->slice->work;
    tp_buf payload = { 0 };
    tp_sealed head = { .magic = TP_SEALED_MAGIC };
    uint32_t count = tp_work_end(w) - w->at;
    /* one item: a permit is for one, and a worker runs the items of a chunk at once. On devices it
     * is for a slice */
    const bool is_kernel = l->agent.site != 0;
    if ((w->terms->is_limited && !is_kernel) || l->is_narrow)
        count = count < tp_packing_least_count(w) ? count : tp_packing_least_count(w);
    c->packing.trouble = TP_NATS_STORED;
    image *i = find_image(c, w->terms->image, err);
    if (!i || (!is_kernel && store_modules(c, err)))
        return -1;
    tp_task task = { .count = count,
                     .image_size = i->size,
                     .modules_size = is_kernel ? 0 : c->packing.modules_size,
                     .reduction = is_kernel ? TP_REDUCES_NOTHING
                                            : tp_job_reduction(l->slice->job),
                     .is_kernel = is_kernel,
                     .is_alone = l->deaths >= DEATHS_ALONE,
                     .told = tp_wire_told(w, tp_engine_trace(c->engine)),
                     .told_bytes = told_bytes(c) };
    l->may_reduce = task.reduction != TP_REDUCES_NOTHING;
    if (w->terms->streams)
        tp_slice_allow(l->slice, &task.allowed);
    l->allowed = task.allowed;
    memcpy(task.image, i->digest, sizeof task.image);
    memcpy(task.modules, c->packing.modules_digest, sizeof task.modules);
    int rc = tp_parcel_put_task(&task, w, tp_job_func(l->slice->job),
                                tp_job_recorder(l->slice->job), i->bytes.len ? &i->bytes : NULL,
                                &payload, &l->refs, &c->packing.n_funcs, err);
    if (rc == 0 && payload.len > TP_PAYLOAD_MAX)
        rc = tp_error_set(err, TP_ELIMIT, "an input of more than 1 GiB");
    rc = rc ? rc : keep_asked(c, &l->refs, err);
    rc = rc ? rc : keep_asked(c, &i->refs, err);
    if (rc == 0) {
        memcpy(head.key, c->server.signer.public_key, sizeof head.key);
        memcpy(head.build, c->server.build.id, sizeof head.build);
        memcpy(head.session, c->server.session, sizeof head.session);
        head.chunk = l->chunk;
        head.sending = l->sending;
        head.size = payload.len;
        head.is_blob = payload.len > (is_kernel ? TP_KERNEL_INLINE : TP_INLINE_BYTES);
        tp_blake2b_hash(head.digest, sizeof head.digest, payload.data, payload.len);
        tp_blob_drop(&c->server.nats, &l->blob);
        if (head.is_blob) {
            l->blob = tp_blob_of(head.digest, payload.len);
            rc = store(c, &l->blob, payload.data, err);
        }
    }
    uint8_t signature[TP_SIGNATURE_BYTES];
    tp_buf_clear(&l->message);
    if (rc == 0) {
        tp_signer_sign(&c->server.signer, signature, &head, sizeof head);
        if (tp_buf_add(&l->message, signature, sizeof signature) ||
            tp_buf_add(&l->message, &head, sizeof head) ||
            (!head.is_blob && tp_buf_add(&l->message, payload.data, payload.len)))
            rc = tp_error_oom(err, "work");
    }
    tp_buf_free(&payload);
    if (rc) {
        tp_blob_drop(&c->server.nats, &l->blob);
        tp_parcel_refs_free(&l->refs);
        return -1;
    }
    l->first = w->at;
    l->count = task.count;
    l->has_early = false;
    l->early = l->happened = 0;
    l->image = i;
    i->users++;
    return 0;
}

void tp_packing_drop(cluster *c, flight *l)
{
    tp_blob_drop(&c->server.nats, &l->blob);
    l->count = 0;
    if (l->image)
        l->image->users--;
    l->image = NULL;
    tp_buf_clear(&l->message);
    tp_parcel_refs_free(&l->refs);
}

void tp_packing_store_again(cluster *c, flight *l)
{
    if (l->image)
        l->image->is_stored = false;
    c->packing.modules_size = 0;
}

void tp_packing_reset(cluster *c)
{
    c->packing.silent = 0;
}

bool tp_packing_open(cluster *c)
{
    struct packing *p = &c->packing;
    p->stores = (tp_store_names){ id_of, store_of, NULL, c };
    p->images = p->images ? p->images : calloc(IMAGES, sizeof *p->images);
    p->read = p->read ? p->read : calloc(READ_MAX, sizeof *p->read);
    return p->images && p->read;
}

void tp_packing_close(cluster *c)
{
    struct packing *p = &c->packing;
    for (int i = 0; p->images && i < IMAGES; i++)
        free_image(&p->images[i]);
    for (int i = 0; p->read && i < READ_MAX; i++)
        tp_blob_free(&p->read[i].blob);
    tp_blob_free(&p->modules);
    tp_parcel_refs_free(&p->asked);
    free(p->images);
    free(p->read);
}
