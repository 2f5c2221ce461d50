/* ask_fuzz.c: what a hostile worker process may ask of the stores of its host (libFuzzer).
 *
 * The bytes are the memory in which it asks. What is right is carried out, and answered there.
 * `make fuzz` builds and runs it. */
#include "wire/ask.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);

static tp_ref *make_store(tp_store_verb verb)
{
    tp_store_op op = { .verb = verb };
    if (tp_store_perform(NULL, NULL, &op, NULL))
        abort();
    return (tp_ref *)(void *)op.made;
}

/* What was put in may be the store itself, which would never be freed. */
static void take_out(tp_store *s, tp_store_op op)
{
    if (tp_store_perform(s, NULL, &op, NULL) == 0)
        tp_store_op_clear(&op);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    tp_region region;
    tp_ref *refs[8] = { make_store(TP_STORE_NEW_DICT), make_store(TP_STORE_NEW_QUEUE) };
    tp_wire_given given = { .refs = refs, .n = 2, .room = 8, .least_free = 2 };
    tp_wire_ids returned = { 0 };
    tp_error err = { 0 }, why = { 0 };
    tp_store_op op;
    tp_store *store;
    char *key;
    if (tp_region_open(&region, TP_WIRE_ASK_SIZE, &err))
        abort();
    memcpy(region.data, bytes, len < region.size ? len : region.size);
    if (tp_wire_get_ask(&region, &given, &op, &store, &key, &err)) {
        tp_store_perform(store, NULL, &op, &why);
        if (tp_wire_put_answer(&region, &given, returned, &op, &why, &err))
            abort();
    }
    tp_store_op_clear(&op);
    take_out((tp_store *)(void *)refs[1], (tp_store_op){ .verb = TP_STORE_TAKE });
    if (key)
        take_out((tp_store *)(void *)refs[0], (tp_store_op){ .verb = TP_STORE_POP,
                                                             .key = key,
                                                             .len = op.len,
                                                             .version = TP_VERSION_ANY });
    free(key);
    for (uint32_t i = 0; i < given.n; i++)
        tp_ref_drop(refs[i]);
    tp_region_close(&region);
    return 0;
}
