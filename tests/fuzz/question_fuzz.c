/* question_fuzz.c: what hostile machines of a cluster may ask of Dicts, Queues and permits, what
 * they may answer, and what may come as work (libFuzzer).
 *
 * The first byte says what the rest is: a question, the answer to one (whose verb is the next
 * byte), a permit's, a task, or an image. What is right is carried out. `make fuzz` builds and runs
 * it. */
#include "cluster/parcel.h"
#include "cluster/question.h"
#include "engine/store.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);

/* A Dict and a Queue; both are called 1 .. 255 by their kind. */
typedef struct stores {
    tp_ref *dict, *queue;
} stores;

static uint64_t id_of(void *user, tp_ref *r)
{
    const stores *s = user;
    return r == s->dict ? 1 : r == s->queue ? 2 : 0;
}

static tp_ref *store_of(void *user, uint64_t id, bool is_queue)
{
    const stores *s = user;
    if (id == 0 || id > 255)
        return NULL;
    return tp_ref_hold(is_queue ? s->queue : s->dict);
}

static tp_ref *make_store(tp_store_verb verb)
{
    tp_store_op op = { .verb = verb };
    if (tp_store_perform(NULL, NULL, &op, NULL))
        abort();
    return (tp_ref *)(void *)op.made;
}

/* What was put in may be the store itself, which would never be freed. */
static void empty(const stores *s)
{
    tp_store_op list = { .verb = TP_STORE_LIST };
    if (tp_store_perform((tp_store *)(void *)s->dict, NULL, &list, NULL))
        abort();
    for (size_t i = 0; i < list.n; i++) {
        tp_store_op pop = { .verb = TP_STORE_POP,
                            .key = list.entries[i].key,
                            .len = list.entries[i].len,
                            .version = TP_VERSION_ANY };
        if (tp_store_perform((tp_store *)(void *)s->dict, NULL, &pop, NULL) == 0)
            tp_store_op_clear(&pop);
    }
    tp_store_op_clear(&list);
    for (bool is_taken = true; is_taken;) {
        tp_store_op take = { .verb = TP_STORE_TAKE };
        is_taken = tp_store_perform((tp_store *)(void *)s->queue, NULL, &take, NULL) == 0 &&
                   take.moved == TP_MOVED;
        tp_store_op_clear(&take);
    }
}

static void ask(const uint8_t *bytes, size_t len, const tp_store_names *names)
{
    tp_store_op op;
    tp_ref *store;
    char *key;
    tp_buf answer = { 0 };
    tp_error err = { 0 }, why = { 0 };
    if (tp_question_get(bytes, len, &op, &store, &key, names, &err) == 0) {
        tp_store_perform((tp_store *)(void *)store, NULL, &op, &why);
        tp_answer_put(&answer, &op, &why, names, &err);
    }
    tp_buf_free(&answer);
    tp_store_op_clear(&op);
    tp_ref_drop(store);
    free(key);
}

static void answer(const uint8_t *bytes, size_t len, const tp_store_names *names)
{
    tp_store_op op = { .verb = len ? (tp_store_verb)(*bytes % TP_STORE_VERBS) : TP_STORE_GET };
    tp_error err = { 0 };
    tp_answer_get(bytes + (len > 0), len - (len > 0), &op, names, &err);
    for (size_t i = 0; i < op.n; i++)
        if (!tp_store_is_key(op.entries[i].key, op.entries[i].len))
            abort();
    tp_store_op_clear(&op);
}

static void permit(const uint8_t *bytes, size_t len)
{
    tp_permit_op op;
    if (tp_permit_get(bytes, len, &op) && op.verb != TP_PERMIT_TAKE &&
        op.verb != TP_PERMIT_RELEASE)
        abort();
    tp_permit_answer_get(bytes, len);
}

static void work(bool is_task, const uint8_t *bytes, size_t len, const tp_store_names *names)
{
    tp_known known = { .stores = names };
    tp_parcel_refs refs = { 0 };
    tp_buf ticket = { 0 };
    tp_error err = { 0 };
    tp_task task;
    const char *name;
    const uint8_t *image;
    tp_block *items = NULL;
    tp_image *made = NULL;
    if (!is_task) {
        if (tp_parcel_get_image(&made, &refs, &known, bytes, len, &err) == 0)
            tp_ref_drop(made);
    } else if (tp_parcel_get_task(&task, &name, &items, &image, &ticket, &refs, &known, bytes, len,
                                  &err) == 0) {
        if (items->n != task.count || strlen(name) >= len)
            abort();
        for (uint32_t i = 0; items->ends && i < items->n; i++) {
            size_t size;
            const uint8_t *message = tp_block_message(items, i, &size);
            if (size > items->bytes.len ||
                (size_t)(message - items->bytes.data) > items->bytes.len - size)
                abort();
        }
    }
    tp_block_free(items);
    tp_buf_free(&ticket);
    tp_parcel_refs_free(&refs);
    tp_known_free(&known);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    stores s = { make_store(TP_STORE_NEW_DICT), make_store(TP_STORE_NEW_QUEUE) };
    const tp_store_names names = { .id_of = id_of, .store_of = store_of, .user = &s };
    const size_t n = len > 0 ? len - 1 : 0;
    char *copy = malloc(n + 1); /* of its exact size, but for an empty one */
    if (!copy)
        abort();
    char *exact = realloc(copy, n ? n : 1);
    copy = exact ? exact : copy;
    memcpy(copy, bytes + (len > 0), n);
    switch (len > 0 ? bytes[0] % 5 : 0) {
    case 0: ask((uint8_t *)copy, n, &names); break;
    case 1: answer((uint8_t *)copy, n, &names); break;
    case 2: permit((uint8_t *)copy, n); break;
    default: work(bytes[0] % 5 == 3, (uint8_t *)copy, n, &names); break;
    }
    free(copy);
    empty(&s);
    tp_ref_drop(s.dict);
    tp_ref_drop(s.queue);
    return 0;
}
