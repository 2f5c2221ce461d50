/* chunks.c: work at a cluster's worker, from the queue to its results. */
#include "program/cluster/chunks.h"

#include "cluster/exec_cluster.h"
#include "host.h"
#include "opencl/exec_opencl.h"
#include "program/cluster/code.h"
#include "program/cluster/replies.h"
#include "program/cluster/sessions.h"
#include "program/cluster/telling.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    PULL_BEATS = 2,
    WAIT_MS = 100 /* a chunk that finds no free slot for so long goes to another worker */
};

/* Makes the chunk's job run on devices, with the kernel of its image. */
static int use_kernel(node *n, chunk *k, tp_job_config *config, tp_error *err)
{
    image *i = k->image;
    if (!n->devices)
        return tp_error_set(err, TP_EUSAGE, "this worker drives no devices");
    if (i->kernel && tp_kernel_is_over(i->kernel)) {
        tp_ref_drop(i->kernel);
        i->kernel = NULL;
    }
    if (!i->kernel) {
        n->compiles = k;
        n->held_ms = 0; /* that is said at once, and so is the end of it */
        i->kernel = tp_own_devices_make(n->devices, k->session->host, i->of,
                                        &(tp_between){ tp_node_hear, n }, err);
        n->compiles = NULL;
        n->held_ms = 0;
    }
    if (!i->kernel)
        return -1;
    config->executor_data = (tp_ref *)tp_kernels_new(k->session->host, config->func, i->kernel,
                                                     tp_opencl_keeps);
    if (!config->executor_data)
        return tp_error_oom(err, "work");
    config->executor = tp_host_executor_that(k->session->host, TP_RUNS_KERNELS);
    config->sites = i->kernel->devices;
    config->image = NULL;
    return 0;
}

static int start_job(node *n, chunk *k, const tp_task *task, tp_block *items, tp_error *err)
{
    session *s = k->session;
    tp_job_config config = {
        .func = (tp_func *)(void *)k->refs.refs[task->func],
        .image = k->image->of,
        .executor = tp_host_executor_that(s->host, TP_RUNS_LUA | TP_ISOLATED),
        .waiter = &s->waiter,
        .ordered = true,
        .keep_going = true,
        .discard = task->discards,
        .total = task->count,
        .timeout_ns = task->timeout_ns,
        .recycle = task->recycle,
        .memory = task->memory,
        .batch = task->batch,
        .splits = task->splits,
        .streams = task->streams != 0,
        .is_metered = task->streams != 0,
        .returns = { .columns = task->returns },
        .draws = task->draws,
        .base = task->base,
        .part = { k->number, k->sending },
        .executor_name = tp_exec_cluster.name,
        .attempt = task->attempt,
    };
    memcpy(config.returns.type, task->returned, sizeof task->returned);
    int rc = task->is_kernel ? use_kernel(n, k, &config, err)
             : n->devices    ? tp_error_set(err, TP_EUSAGE, "this worker runs kernels only")
                             : 0;
    rc = rc ? rc : tp_job_open(&k->job, s->host->engine, &config, err);
    tp_ref_drop(config.executor_data);
    if (rc) {
        tp_block_free(items);
        return -1;
    }
    k->count = task->count;
    tp_groups_open(&k->groups, (tp_reduction)task->reduction, task->base, task->count);
    k->streams = task->streams != 0;
    k->may_give_back = !k->streams && !task->batch && !task->is_kernel;
    k->allowed = task->allowed;
    if (k->streams)
        tp_job_allow(k->job, k->allowed);
    if (tp_job_push(k->job, items))
        return tp_error_oom(err, "work");
    tp_job_end(k->job);
    return 0;
}

static tp_sealed head_of(const chunk *k)
{
    tp_sealed head;
    memcpy(&head, k->message.data, sizeof head);
    return head;
}

/* Where the chunk's payload is; it is `head_of(k).size` long. */
static const uint8_t *payload_of(const chunk *k)
{
    return head_of(k).is_blob ? k->payload.data : k->message.data + sizeof(tp_sealed);
}

/* Nothing runs here now, for want of descriptors or processes, say: the chunk goes to another
 * worker, and so does what comes next, for a while. */
static void give_back_unable(node *n, chunk *k, const char *why)
{
    char text[600];
    const uint64_t now = tp_node_now_ms();
    if (now >= n->unable_ms)
        tp_node_say("cannot run its work, which it gives back: %s", why);
    n->unable_ms = now + UNABLE_MS;
    tp_chunks_reset_pulls(n, n->unable_ms);
    snprintf(text, sizeof text, "%s: %s", n->host_name, why);
    tp_reply_give(n, k, TP_ANSWER_BACK, text, strlen(text));
}

void tp_chunk_enqueue(node *n, chunk *k)
{
    tp_sealed head = head_of(k);
    tp_error err = { 0 };
    tp_task task;
    tp_blob b = tp_blob_of(head.digest, head.size);
    k->state = QUEUED;
    k->queued_ms = tp_node_now_ms();
    int rc = head.is_blob ? tp_blob_get(&n->nats, k->session->hex, &b, &k->payload,
                                        &(tp_between){ tp_node_stay, n }, &err)
                          : 0;
    tp_blob_free(&b);
    if (rc) {
        tp_reply_give_back(n, k); /* the coordinator will store the payload again */
    } else if (head.size >= sizeof task) {
        memcpy(&task, payload_of(k), sizeof task);
        k->is_alone = task.is_alone != 0;
    }
}

void tp_chunk_send_values(node *n, chunk *k)
{
    char subject[TP_SUBJECT_MAX], reply[TP_SUBJECT_MAX];
    tp_part head = { .chunk = k->number,
                     .sending = k->sending,
                     .from = k->first_value,
                     .count = k->n_values,
                     .size = k->values.len,
                     .is_full = tp_job_is_full(k->job),
                     .run = k->run };
    tp_buf message = { 0 };
    k->is_on_way = k->n_values > 0;
    k->told_ms = tp_node_now_ms();
    memcpy(head.worker, n->id_bytes, sizeof head.worker);
    if (k->values.len > TP_INLINE_BYTES &&
        !tp_reply_send_large(n, k, &k->values, head.digest, &head.where))
        return; /* tried again later */
    snprintf(subject, sizeof subject, TP_SUBJECT_R "%s.part", k->session->hex);
    snprintf(reply, sizeof reply, "%s.v.%s.%llu.%u", n->inbox, k->session->hex,
             (unsigned long long)k->number, k->sending);
    if (tp_buf_add(&message, &head, sizeof head) == 0 &&
        (head.where != TP_ANSWER_HERE || k->values.len == 0 ||
         tp_buf_add(&message, k->values.data, k->values.len) == 0)) {
        tp_nats_publish(&n->nats, subject, reply, message.data, message.len);
        k->has_told_full = head.is_full != 0;
    }
    tp_buf_free(&message);
}

/* Begins a queued chunk. */
static void begin(node *n, chunk *k)
{
    session *s = k->session;
    tp_task task;
    tp_error err = { 0 };
    tp_block *items = NULL;
    const char *name;
    const uint8_t *image_bytes = NULL;
    bool is_unable = false;
    k->state = RUNNING;
    k->begun_ns = uv_hrtime();
    s->busy_ms = tp_node_now_ms();
    /* before it begins, since its items may kill this process */
    if (!k->is_named) {
        tp_buf text = { 0 };
        tp_node_add_name(n, k, &text);
        tp_node_send_names(n, s, &text);
    }
    if (!k->is_direct)
        tp_nats_push(&n->nats);
    int rc = tp_parcel_get_task(&task, &name, &items, &image_bytes, &k->ticket, &k->refs,
                                &s->known, payload_of(k), head_of(k).size, &err);
    s->is_kept |= k->ticket.len > 0;
    if (rc == 0 && !s->host) {
        rc = tp_session_open_host(n, s, task.tags_lines != 0, &err);
        is_unable = rc != 0;
    }
    rc = rc ? rc : tp_code_take_modules(n, s, &task, &err);
    bool is_gone = rc && err.code == TP_ESYS; /* a blob that the task needs is gone */
    if (rc == 0) {
        k->image = tp_code_find_image(n, s, &task, image_bytes, &err);
        rc = k->image ? 0 : -1;
    }
    if (k->image)
        k->image->users++;
    k->told = rc ? TP_TELLS_NOTHING : task.told;
    k->told_bytes = rc ? 0 : task.told_bytes;
    tp_telling_follow(n, s);
    if (rc)
        tp_block_free(items);
    else
        rc = start_job(n, k, &task, items, &err);
    tp_telling_sort(n, s, k);
    if (n->devices)
        k->begun_ns = uv_hrtime(); /* without what compiling took */
    tp_buf_free(&k->payload);
    if (rc == 0 && k->streams) /* so that it is this worker's */
        tp_chunk_send_values(n, k);
    if (is_unable) {
        give_back_unable(n, k, err.message);
    } else if (is_gone || (rc && err.code == TP_ESYS && !image_bytes && !k->image)) {
        tp_reply_give_back(n, k);
    } else if (rc) {
        char why[600];
        snprintf(why, sizeof why, "%s: %s", n->host_name, err.message);
        tp_reply_give(n, k, TP_ANSWER_REFUSED, why, strlen(why));
    }
}

/* The rest of its items fail, with this text. */
static void fail_rest(chunk *k, tp_failure_kind kind, const char *text)
{
    for (; k->at < k->count; k->at++) {
        tp_block *b = tp_block_new_failure(kind, text, 1, 1);
        if (!b ||
            tp_parcel_put_result(&k->records, b, 0, 1, k->at, &k->refs, &k->image->refs, NULL)) {
            tp_block_free(b);
            return;
        }
        tp_block_free(b);
    }
}

/* Writes the records of results that the job has given. `is_over`: it gives no more. */
static void put_results(chunk *k, bool is_over)
{
    const tp_block *b;
    uint32_t from, n;
    while (tp_groups_next(&k->groups, is_over, &b, &from, &n)) {
        tp_error err = { 0 };
        if (k->at != k->groups.at - n)
            continue; /* there was no memory for what comes before: it fails, with all of these */
        if (tp_parcel_put_result(&k->records, b, from, n, k->at, &k->refs, &k->image->refs,
                                 &err) == 0) {
            k->at += n;
        } else {
            uint32_t count = k->count;
            k->count = k->at + n;
            fail_rest(k, tp_failure_kind_of(err.code, TP_KIND_CODEC), err.message);
            k->count = count;
        }
    }
}

/* A block that the chunk's job has given: values, or the item's result. */
static void take_block(chunk *k, tp_block *b)
{
    tp_error err = { 0 };
    if (k->at == k->count) { /* it has failed, see below */
        tp_block_free(b);
        return;
    }
    if (b->kind != TP_BLOCK_PART) {
        tp_groups_add(&k->groups, b);
        put_results(k, false);
        return;
    }
    if (tp_parcel_put_result(&k->values, b, 0, b->n, 0, &k->refs, &k->image->refs, &err) == 0) {
        k->n_values += b->n;
    } else { /* it ends before these */
        fail_rest(k, tp_failure_kind_of(err.code, TP_KIND_CODEC), err.message);
        tp_job_cancel(k->job);
    }
    tp_block_free(b);
}

/* Has the chunk's job more to give now? What its item has given is sent in one message at a time,
 * and its result only after that. */
static bool gives(const chunk *k)
{
    return !k->is_on_way && k->values.len < TP_INLINE_BYTES;
}

void tp_chunk_collect(node *n, chunk *k)
{
    bool has_more;
    do {
        tp_job_unawait(k->job);
        uint32_t seen = tp_job_eventcount(k->job);
        for (tp_block *b; gives(k) && (b = tp_job_next(k->job));)
            take_block(k, b);
        bool is_full = k->streams && tp_job_is_full(k->job);
        k->has_told_full &= is_full;
        if (!k->is_on_way && (k->n_values > 0 || (is_full && !k->has_told_full)))
            tp_chunk_send_values(n, k);
        /* nobody but its executor cancels it: when that has no workers left, or no memory */
        const bool is_cancelled = tp_job_is_cancelled(k->job);
        if (!k->is_on_way && (is_cancelled || tp_job_is_over(k->job) || k->at == k->count)) {
            const tp_error *why = tp_job_lost(k->job);
            put_results(k, true);
            if (k->at < k->count && why) {
                give_back_unable(n, k, why->message);
                return;
            }
            if (k->at < k->count)
                fail_rest(k, TP_KIND_RESOURCE, "not enough memory on a worker of the cluster");
            double took = (double)(uv_hrtime() - k->begun_ns);
            if (!k->streams) /* its reader may be slow */
                n->chunk_ns = n->chunk_ns > 0 ? 0.8 * n->chunk_ns + 0.2 * took : took;
            tp_reply_give(n, k, TP_ANSWER_DONE, k->records.data, k->records.len);
            return;
        }
        has_more = !tp_job_await(k->job, seen) && gives(k);
    } while (has_more);
}

/* The chunk has only so many items from here on, its ticket too. */
static void keep_first(chunk *k, uint32_t count)
{
    tp_ticket t;
    k->count = k->groups.count = count;
    if (k->ticket.len < sizeof t + (size_t)count * TP_IDENTITY_BYTES)
        return; /* it has none */
    memcpy(&t, k->ticket.data, sizeof t);
    t.count = count;
    memcpy(k->ticket.data, &t, sizeof t);
    k->ticket.len = sizeof t + (size_t)count * TP_IDENTITY_BYTES;
}

void tp_chunk_send_early(node *n, chunk *k)
{
    char subject[TP_SUBJECT_MAX];
    tp_early head = {
        .chunk = k->number, .from = k->early, .sending = k->sending, .run = k->run
    };
    tp_job_state now;
    tp_buf message = { 0 };
    const uint64_t before_ns = uv_hrtime() - EARLY_MS * 1000000ull;
    if (k->streams || n->devices || k->count < 2 || k->begun_ns > before_ns)
        return;
    tp_job_get_state(k->job, &now);
    if (!now.since_ns || now.since_ns > before_ns)
        return;
    uint32_t end = k->may_give_back ? (uint32_t)tp_job_withdraw(k->job) : k->count;
    end = end < k->count ? end : k->count;
    size_t len = k->records.len - k->early;
    len = len <= TP_INLINE_BYTES ? len : 0; /* then they come with the answer */
    if (len == 0 && end == k->count)
        return;
    keep_first(k, end);
    head.end = end;
    memcpy(head.worker, n->id_bytes, sizeof head.worker);
    snprintf(subject, sizeof subject, TP_SUBJECT_R "%s.early", k->session->hex);
    if (tp_buf_add(&message, &head, sizeof head) == 0 &&
        (len == 0 || tp_buf_add(&message, k->records.data + k->early, len) == 0)) {
        tp_nats_publish(&n->nats, subject, NULL, message.data, message.len);
        k->early += len;
    }
    tp_buf_free(&message);
}

void tp_chunk_take_allowance(node *n, chunk *k, const char *text)
{
    unsigned long long taken, allowed;
    if (strcmp(text, "over") == 0) {
        tp_node_acknowledge(n, k, "+TERM");
        tp_node_forget(n, k);
        return;
    }
    if (sscanf(text, "%llu %llu", &taken, &allowed) != 2)
        return;
    if (k->is_on_way && taken == k->first_value + k->n_values) {
        k->first_value = taken;
        k->n_values = 0;
        k->is_on_way = false;
        tp_buf_clear(&k->values);
    }
    if (allowed > k->allowed) {
        k->allowed = allowed;
        k->has_told_full = false;
        tp_job_allow(k->job, allowed);
    }
    tp_chunk_collect(n, k);
}

/* How many running items wait for others (for Queues and permits): as many more chunks may run. */
static unsigned count_blocked(const node *n)
{
    unsigned blocked = 0;
    for (const session *s = n->sessions; s; s = s->next) {
        if (!s->host)
            continue;
        uv_mutex_lock(tp_engine_lock(s->host->engine));
        blocked += tp_host_executor_that(s->host, TP_RUNS_LUA | TP_ISOLATED)->blocked;
        uv_mutex_unlock(tp_engine_lock(s->host->engine));
    }
    return blocked;
}

/* How many chunks run and are none of those that wait for others (count_blocked). */
static unsigned count_active(const node *n, unsigned blocked)
{
    unsigned running = 0;
    for (const chunk *k = n->chunks; k; k = k->next)
        running += k->state == RUNNING;
    return running > blocked ? running - blocked : 0;
}

void tp_chunks_begin(node *n, uint64_t now)
{
    unsigned running = 0, blocked = count_blocked(n), active = count_active(n, blocked);
    const unsigned slots = n->slots + blocked;
    bool has_alone = false;
    for (const chunk *k = n->chunks; k; k = k->next) {
        running += k->state == RUNNING;
        /* if it waits, too, it may be for what has yet to begin */
        has_alone |= k->state == RUNNING && k->is_alone && active > 0;
    }
    for (chunk *k = n->chunks; k; k = k->next) {
        if (k->state != QUEUED)
            continue;
        if (running < slots && !has_alone && !(k->is_alone && active > 0)) {
            begin(n, k);
            if (k->state == RUNNING)
                tp_chunk_collect(n, k); /* also asks to be woken at its next news */
            running += k->state == RUNNING;
            active += k->state == RUNNING;
            has_alone = k->is_alone;
        } else if (k->is_alone) {
            has_alone = true; /* it begins when all that runs is over */
        } else if (now >= k->queued_ms + WAIT_MS && !n->devices) {
            n->chunk_ns = 2 * SHORT_NS; /* chunks take longer than was thought: fetch none ahead */
            tp_reply_give_back(n, k);
        }
    }
}

bool tp_chunks_pull(node *n, uint64_t now, const char *ack)
{
    char subject[TP_SUBJECT_MAX], reply[TP_SUBJECT_MAX], body[80];
    unsigned has = 0;
    int free_one = -1;
    if (n->is_leaving || n->is_lost || n->devices || now < n->pull_ms)
        return false;
    const unsigned blocked = count_blocked(n), most = tp_reply_most_chunks(n) + blocked;
    const bool is_active = count_active(n, blocked) > 0;
    for (const chunk *k = n->chunks; k; k = k->next) {
        const bool takes_all = k->is_alone && (is_active || k->state != RUNNING);
        if (k->state < ANSWERED)
            has += takes_all ? most : 1;
    }
    for (int i = 0; i < PULLS; i++) {
        if (n->pulls[i].left && now >= n->pulls[i].until_ms)
            n->pulls[i].left = 0;
        has += n->pulls[i].left;
        if (!n->pulls[i].left)
            free_one = i;
    }
    if (has >= most || free_one < 0)
        return false;
    const uint64_t pull_ms = PULL_BEATS * n->beat_ms;
    n->pulls[free_one] = (pull){ most - has, now + pull_ms + LOOK_MS };
    snprintf(subject, sizeof subject, "$JS.API.CONSUMER.MSG.NEXT." TP_STREAM_W ".P_%s",
             n->build.hex);
    snprintf(reply, sizeof reply, "%s.p.%d", n->inbox, free_one);
    snprintf(body, sizeof body, "%s{\"batch\":%u,\"expires\":%llu000000}", ack ? "+NXT " : "",
             most - has, (unsigned long long)pull_ms);
    tp_nats_publish(&n->nats, ack ? ack : subject, reply, body, strlen(body));
    return true;
}

void tp_chunks_note_pulled(node *n)
{
    pull *oldest = NULL;
    for (int i = 0; i < PULLS; i++)
        if (n->pulls[i].left && (!oldest || n->pulls[i].until_ms < oldest->until_ms))
            oldest = &n->pulls[i];
    if (oldest)
        oldest->left--;
}

void tp_chunks_end_pull(node *n, int i)
{
    if (i >= 0 && i < PULLS)
        n->pulls[i].left = 0;
}

void tp_chunks_reset_pulls(node *n, uint64_t at_ms)
{
    n->pull_ms = at_ms;
    for (int i = 0; i < PULLS; i++)
        n->pulls[i].left = 0;
}
