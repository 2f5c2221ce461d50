/* wire_test.c: what a worker process says is checked: records that are right are read, and all
 * others are none. */
#include "codec/message.h"
#include "harness.h"
#include "wire/ask.h"
#include "wire/events.h"
#include "wire/frame.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <uv.h>

enum { ITEMS = 100, ROOM = 1 << 14 };

/* A request of ITEMS items, the memory that a worker wrote its records to, and what the sink was
 * given. */
typedef struct bench {
    tp_work work; /* first member */
    tp_terms terms;
    tp_worker worker;
    tp_block inputs;
    tp_wire_given given;
    tp_wire_reader reader;
    _Alignas(8) char out[ROOM];
    uint64_t until; /* records end here */
    tp_block *results, **results_end;
} bench;

static void append(tp_work *w, tp_block *b)
{
    bench *of = (bench *)w;
    *of->results_end = b;
    of->results_end = &b->next;
}

static const tp_sink sink = { .append = append };

static void open_bench(bench *b)
{
    memset(b, 0, sizeof *b);
    b->terms.name = "f";
    b->inputs = (tp_block){ .n = ITEMS, .first = 1000 };
    b->results_end = &b->results;
    tp_work_open(&b->work, &b->worker, &sink, &b->terms, &b->inputs, 0, ITEMS, 1);
    b->reader =
        (tp_wire_reader){ .base = b->out, .size = ROOM, .count = ITEMS, .given = &b->given };
}

static void close_bench(bench *b)
{
    tp_work_close(&b->work);
    tp_block_free_list(b->results);
}

static tp_wire_record *add_message(bench *b, uint32_t kind, uint32_t at, const char *bytes)
{
    tp_wire_record *r = (tp_wire_record *)(void *)(b->out + b->until);
    *r = (tp_wire_record){ .kind = kind,
                           .at = at,
                           .n = 1,
                           .bytes = strlen(bytes),
                           .size = sizeof *r + ((strlen(bytes) + 7) & ~(size_t)7) };
    memcpy(r + 1, bytes, strlen(bytes));
    b->until += r->size;
    return r;
}

static tp_wire_record *add_columns(bench *b, uint32_t at, uint32_t n, uint8_t type, uint32_t text)
{
    tp_wire_record *r = (tp_wire_record *)(void *)(b->out + b->until);
    *r = (tp_wire_record){
        .kind = TP_BLOCK_COLUMNS, .at = at, .n = n, .capacity = n, .columns = 1, .type = { type }
    };
    r->text = (tp_text){ NULL, text, text };
    r->size = tp_wire_columns_size(n, 1, r->type, text);
    b->until += r->size;
    return r;
}

static void *column_of(tp_wire_record *r)
{
    return (char *)r + tp_wire_column_at(r, 0);
}

static bool read_all(bench *b)
{
    tp_error err = { 0 };
    bool is_right = tp_wire_read(&b->reader, &b->work, 0, b->until, &err);
    CHECK(is_right || err.code != TP_OK);
    return is_right;
}

/* Has each item up to work.at one result, in order, and no other any? */
static void check_results(bench *b)
{
    uint64_t next = b->inputs.first;
    for (tp_block *r = b->results; r; r = r->next) {
        CHECK(r->first == next && r->n > 0);
        next += r->n;
    }
    CHECK(next == b->inputs.first + b->work.at && b->work.at <= ITEMS);
}

TEST(records_that_are_right_become_results_in_order)
{
    static bench b;
    open_bench(&b);
    add_message(&b, TP_BLOCK_VALUES, 0, "one");
    add_message(&b, TP_BLOCK_VALUES, 1, "three");
    add_message(&b, TP_BLOCK_FAILURE, 2, "why")->may_retry = 1;
    double *x = column_of(add_columns(&b, 3, 5, TP_DOUBLE, 0));
    for (int i = 0; i < 5; i++)
        x[i] = i;
    CHECK(read_all(&b));
    CHECK_INT(8, b.work.at);
    check_results(&b);
    CHECK(b.results->n == 2 && b.results->is_foreign && b.results->bytes.len == 8);
    tp_block *failure = b.results->next;
    CHECK(failure->kind == TP_BLOCK_FAILURE && failure->may_retry && failure->is_foreign);
    CHECK(((double *)failure->next->column[0])[4] == 4);
    close_bench(&b);
}

TEST(bits_of_numbers_are_made_those_of_a_number)
{
    static bench b;
    const uint64_t bits = 0xfffb000012345678; /* to LuaJIT, a value of another type */
    open_bench(&b);
    memcpy(column_of(add_columns(&b, 0, 1, TP_DOUBLE, 0)), &bits, sizeof bits);
    tp_scalar *x = column_of(add_columns(&b, 1, 1, TP_MIXED, 0));
    x->kind = TP_SCALAR_NUMBER;
    memcpy(&x->as.number, &bits, sizeof bits);
    CHECK(read_all(&b));
    const double canonical = (double)NAN;
    CHECK(memcmp(b.results->column[0], &canonical, sizeof canonical) == 0);
    CHECK(memcmp(b.results->next->column[0], &canonical, sizeof canonical) == 0);
    close_bench(&b);
}

TEST(what_is_wrong_in_a_record_costs_it_and_all_after_it)
{
    enum { CASES = 14 };
    for (int i = 0; i < CASES; i++) {
        static bench b;
        open_bench(&b);
        add_message(&b, TP_BLOCK_VALUES, 0, "fine");
        tp_wire_record *m = add_message(&b, TP_BLOCK_VALUES, 1, "message");
        if (i == 0) m->size = 0;
        if (i == 1) m->size = UINT64_MAX - 7;
        if (i == 2) m->at = 0;
        if (i == 3) m->n = ITEMS;
        if (i == 4) m->kind = 77;
        if (i == 5) m->bytes = 1 << 20;
        if (i == 6) m->bytes = UINT64_MAX;
        if (i == 7) m->nrefs = 1; /* of nothing that was given */
        if (i == 8) m->kind = TP_BLOCK_DONE; /* results are wanted */
        if (i == 9) m->kind = TP_BLOCK_PARTIALS;
        if (i >= 10) {
            b.until -= m->size;
            m = add_columns(&b, 1, 2, TP_MIXED, 8);
            tp_scalar *x = column_of(m);
            x[0] = x[1] = (tp_scalar){ .kind = TP_SCALAR_STRING, .as.string = { 4, 4 } };
            if (i == 10) x[1].as.string.length = 5;
            if (i == 11) x[1].as.string.at = UINT32_MAX;
            if (i == 12) x[1].kind = TP_SCALAR_PINNED; /* a pointer */
            if (i == 13) m->capacity = m->n = ITEMS - 1; /* more than there is memory for */
        }
        CHECK(!read_all(&b));
        CHECK_INT(1, b.work.at);
        check_results(&b);
        close_bench(&b);
    }
}

TEST(columns_that_were_not_promised_are_no_results)
{
    static bench b;
    open_bench(&b);
    b.terms.returns = (tp_returns){ .columns = 1, .type = { TP_INT32 } };
    add_columns(&b, 0, 3, TP_DOUBLE, 0);
    CHECK(!read_all(&b));
    CHECK_INT(0, b.work.at);
    close_bench(&b);
}

TEST(results_are_in_their_place_only_where_that_was_asked_for)
{
    static bench b;
    static const volatile char is_no_fork = 1;
    tp_error err = { 0 };
    tp_array_pool *pool;
    CHECK(tp_array_pool_open(&pool, &is_no_fork, NULL, NULL, &err) == 0);
    tp_array *a = tp_array_new(pool, 2000 * sizeof(double), true);
    CHECK(a);
    for (int asked = 0; asked < 2; asked++) {
        open_bench(&b);
        b.terms.returns = (tp_returns){ .columns = 1, .type = { TP_DOUBLE }, .array = { a } };
        b.reader.in_place = asked;
        uint64_t nan_bits = 0xffffffffffffffffu;
        memcpy((double *)a->data + 1001, &nan_bits, sizeof nan_bits);
        tp_wire_record *r = add_columns(&b, 0, 3, TP_DOUBLE, 0);
        r->in_place = 1;
        r->size = b.until = sizeof *r;
        CHECK(read_all(&b) == asked);
        CHECK_INT(asked ? 3 : 0, b.work.at);
        check_results(&b);
        memcpy(&nan_bits, (double *)a->data + 1001, sizeof nan_bits);
        CHECK(!asked || (b.results->column[0] == (double *)a->data + 1000 &&
                         nan_bits != 0xffffffffffffffffu));
        close_bench(&b);
    }
    tp_ref_drop(a);
    tp_array_pool_close(pool);
}

TEST(only_arrays_and_stores_can_be_returned)
{
    static const volatile char is_no_fork = 1;
    static tp_wire_out out;
    tp_error err = { 0 };
    tp_array_pool *pool;
    CHECK(tp_array_pool_open(&pool, &is_no_fork, NULL, NULL, &err) == 0);
    tp_func *f = tp_func_new("f", 0);
    tp_array *a = tp_array_new(pool, 100, true);
    CHECK(f && a);
    tp_ref *refs[] = { &f->ref, &a->ref, NULL };
    tp_wire_given given = { .refs = refs, .n = 3, .room = 3, .least_free = 3 };
    for (int i = 0; i < TP_WIRE_REFS_MAX / 64; i++)
        atomic_store(&out.returned[i], UINT64_MAX);
    tp_wire_take_returned(&given, out.returned);
    CHECK(refs[0] == &f->ref && !refs[1] && !refs[2] && given.least_free == 1);
    CHECK(atomic_load(&out.returned[0]) == 0 && tp_array_pool_live(pool) == 0);
    tp_ref_drop(f);
    tp_array_pool_close(pool);
}

TEST(a_record_that_was_being_filled_in_counts_up_to_the_item_that_ran)
{
    static bench b;
    tp_error err = { 0 };
    open_bench(&b);
    double *x = column_of(add_columns(&b, 0, ITEMS, TP_DOUBLE, 0));
    x[0] = 1, x[1] = 2, x[2] = 3;
    CHECK(tp_wire_read_open(&b.reader, &b.work, 0, 3, &err));
    CHECK_INT(3, b.work.at);
    check_results(&b);
    CHECK(!tp_wire_read_open(&b.reader, &b.work, 0, ITEMS + 1, &err));
    CHECK(!tp_wire_read_open(&b.reader, &b.work, ROOM - 8, 4, &err));
    CHECK(!tp_wire_read_open(&b.reader, &b.work, UINT64_MAX - 7, 4, &err));
    close_bench(&b);
}

/* A record with a string of `len` 'x', whose message says that it has `said`. */
static void add_string(bench *b, uint32_t at, uint8_t count, uint8_t tag, uint32_t len,
                       uint32_t said)
{
    uint32_t bytes = 6 + len;
    tp_wire_record *r = (tp_wire_record *)(void *)(b->out + b->until);
    *r = (tp_wire_record){ .kind = TP_BLOCK_VALUES, .at = at, .n = 1, .bytes = bytes,
                           .size = sizeof *r + tp_wire_rounded(bytes) };
    char *to = (char *)(r + 1);
    to[0] = (char)count;
    to[1] = (char)tag;
    memcpy(to + 2, &said, sizeof said);
    memset(to + 6, 'x', len);
    b->until += r->size;
}

/* Puts the records into memory that can be held, and reads them there. */
static bool read_held(bench *b, tp_region *region, tp_wire_held *held)
{
    tp_error err = { 0 };
    CHECK(tp_region_open(region, ROOM, &err) == 0);
    memcpy(region->data, b->out, b->until);
    *held = (tp_wire_held){ .fd = region->fd, .least = 100 };
    b->reader.base = region->data;
    b->reader.size = region->size;
    b->reader.held = held;
    return read_all(b);
}

/* Bytes of memory behind the file of a region. */
static long long backed(const tp_region *region)
{
    struct stat s;
    CHECK(fstat(region->fd, &s) == 0);
    return (long long)s.st_blocks * 512;
}

TEST(a_region_that_was_trimmed_and_grows_again_has_memory)
{
    tp_region region;
    tp_error err = { 0 };
    CHECK(tp_region_open(&region, 1 << 20, &err) == 0);
    memset(region.data, 1, 1 << 20);
    tp_region_trim(&region, 1 << 16);
    CHECK_INT(1 << 16, (long long)region.size);
    CHECK_INT(1 << 16, backed(&region));
    CHECK(tp_region_grow(&region, 1 << 19, &err) == 0);
    CHECK(backed(&region) >= 1 << 19);
    CHECK(region.data[(1 << 16) - 1] == 1 && region.data[1 << 16] == 0);
    tp_region_close(&region);
}

TEST(a_long_string_stays_where_it_is_until_its_block_is_freed)
{
    static bench b;
    tp_region region;
    tp_wire_held held;
    open_bench(&b);
    add_string(&b, 0, 1, T_STRING, 99, 99);
    uint64_t from = b.until;
    add_string(&b, 1, 1, T_STRING, 1000, 1000);
    uint64_t second = b.until;
    add_string(&b, 2, 1, T_STRING, 2000, 2000);
    CHECK(read_held(&b, &region, &held));
    CHECK_INT(3, b.work.at);
    check_results(&b);
    tp_block *last = b.results->next->next;
    const tp_scalar *x = last->column[0];
    CHECK(b.results->kind == TP_BLOCK_VALUES && last->kind == TP_BLOCK_COLUMNS && !last->next);
    CHECK(x->kind == TP_SCALAR_SHARED && x->pinned_length == 2000 &&
          tp_block_size(last) > 2000);
    region.data[second + sizeof(tp_wire_record) + 6] = 'y';
    CHECK(x->as.pinned[0] == 'y' && x->as.pinned[1999] == 'x'); /* it was not copied */
    tp_wire_room room = tp_wire_find_room(&held, 64, false);
    CHECK(room.from == b.until && room.until == 0 && room.held == b.until);
    /* the process is gone */
    tp_wire_held_close(&held);
    tp_region_close(&region);
    CHECK(x->as.pinned[0] == 'y' && x->as.pinned[1999] == 'x');
    CHECK(from < second);
    close_bench(&b);
}

TEST(long_pieces_lie_behind_each_other)
{
    enum { KIB = 1024, BEGIN = 640 };
    CHECK(tp_wire_next(BEGIN, 0, 0) == BEGIN);
    CHECK(tp_wire_next(BEGIN, BEGIN, BEGIN + 1000) == BEGIN); /* a short one */
    CHECK(tp_wire_next(BEGIN, BEGIN + 128 * KIB, BEGIN + 129 * KIB) == BEGIN + 128 * KIB);
    uint64_t from = BEGIN, n = 0;
    do { /* until there is no room for one more */
        uint64_t until = from + 80 * KIB - 8, next = tp_wire_next(BEGIN, from, until);
        CHECK(until <= BEGIN + TP_WIRE_LAP);
        CHECK(next == BEGIN || (next >= until && next < until + 64 && next % 64 == 0));
        from = next;
        n++;
    } while (from > BEGIN && n < 100);
    CHECK(n == TP_WIRE_LAP / (80 * KIB));
    /* what a process says of itself may be anything */
    uint64_t odd[] = { 0, 1, BEGIN, BEGIN + 20 * KIB, TP_WIRE_LAP, TP_WIRE_LAP + BEGIN,
                       UINT64_MAX / 2, UINT64_MAX - 1, UINT64_MAX };
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
        uint64_t next = tp_wire_next(BEGIN, BEGIN + 100 * KIB, odd[i]);
        CHECK(next >= BEGIN && next <= BEGIN + TP_WIRE_LAP && next % 8 == 0);
    }
}

TEST(columns_without_strings_are_not_read_to_find_how_many_fit)
{
    static bench b;
    tp_array pinned = { .ref.type = &tp_array_type };
    tp_ref *refs[] = { &pinned.ref };
    open_bench(&b);
    b.inputs.kind = TP_BLOCK_COLUMNS;
    b.inputs.columns = 1;
    b.inputs.type[0] = TP_DOUBLE;
    b.inputs.bytes.refs = refs;
    b.inputs.bytes.nrefs = 1;
    CHECK(tp_wire_fitting(&b.work, ITEMS, 100) == ITEMS); /* there is nothing to read */
    tp_scalar strings[ITEMS];
    for (int i = 0; i < ITEMS; i++)
        strings[i] = (tp_scalar){ .kind = TP_SCALAR_PINNED, .pinned_length = 30 };
    b.inputs.type[0] = TP_MIXED;
    b.inputs.column[0] = strings;
    CHECK(tp_wire_fitting(&b.work, ITEMS, 100) == 3);
    b.inputs = (tp_block){ .n = ITEMS };
    close_bench(&b);
}

TEST(records_go_where_nothing_is_held)
{
    enum { MIB = 1 << 20 };
    tp_region region;
    tp_error err = { 0 };
    CHECK(tp_region_open(&region, 64, &err) == 0);
    tp_wire_held held = { .fd = region.fd, .least = 100 };
    tp_wire_room room = tp_wire_find_room(&held, 64, false);
    CHECK(room.from == 64 && room.until == 0 && room.held == 0);
    tp_block *first = tp_wire_hold(&held, 64, 2 * MIB, 100, 1000);
    tp_block *second = tp_wire_hold(&held, 2 * MIB, 3 * MIB, 2 * MIB, 1000);
    CHECK(first && second && first->held == 2 * MIB - 64);
    room = tp_wire_find_room(&held, 64, false);
    CHECK(room.from == 3 * MIB && room.until == 0 && room.held == 3 * MIB);
    tp_block_free(first);
    room = tp_wire_find_room(&held, 64, false);
    CHECK(room.from == 64 && room.until == 2 * MIB && room.held == 3 * MIB);
    room = tp_wire_find_room(&held, 64, true);
    CHECK(room.from == 3 * MIB && room.until == 0 && room.held == 3 * MIB);
    tp_block_free(second);
    room = tp_wire_find_room(&held, 64, true);
    CHECK(room.from == 64 && room.until == 0 && room.held == 0);
    CHECK(!tp_wire_hold(&held, UINT64_MAX - MIB, UINT64_MAX, UINT64_MAX - MIB, 1000));
    tp_block *many[TP_WIRE_HELD_MAX];
    for (uint64_t i = 0; i < TP_WIRE_HELD_MAX; i++)
        CHECK(many[i] = tp_wire_hold(&held, 64 * (i + 1), 64 * (i + 2), 64 * (i + 1), 8));
    CHECK(!tp_wire_hold(&held, MIB, 2 * MIB, MIB, 8));
    for (uint64_t i = 0; i < TP_WIRE_HELD_MAX; i++)
        tp_block_free(many[i]);
    many[0] = tp_wire_hold(&held, MIB, 2 * MIB, MIB, 8);
    CHECK(many[0] && held.n == 1);
    tp_block_free(many[0]);
    tp_wire_held_close(&held);
    tp_region_close(&region);
}

TEST(what_is_not_just_a_long_string_is_copied)
{
    for (int i = 0; i < 5; i++) {
        static bench b;
        tp_region region;
        tp_wire_held held;
        open_bench(&b);
        add_string(&b, 0, i == 0 ? 2 : 1, i == 1 ? T_STRING | SHARED : i == 2 ? T_TABLE : T_STRING,
                   1000, i == 3 ? 1001 : i == 4 ? 999 : 1000);
        CHECK(read_held(&b, &region, &held));
        CHECK(b.results->kind == TP_BLOCK_VALUES && b.results->is_foreign && held.n == 0);
        tp_wire_held_close(&held);
        tp_region_close(&region);
        close_bench(&b);
    }
}

TEST(no_byte_that_is_changed_does_harm)
{
    uint64_t random = 88172645463325252u;
    for (int round = 0; round < 20000; round++) {
        static bench b;
        open_bench(&b);
        add_message(&b, TP_BLOCK_VALUES, 0, "one");
        add_columns(&b, 1, 6, TP_DOUBLE, 0);
        tp_scalar *x = column_of(add_columns(&b, 7, 3, TP_MIXED, 16));
        for (int i = 0; i < 3; i++)
            x[i] = (tp_scalar){ .kind = TP_SCALAR_STRING, .as.string = { 2, 4 } };
        add_message(&b, TP_BLOCK_FAILURE, 10, "why");
        for (int i = 0; i < 1 + round % 3; i++) {
            random ^= random << 13, random ^= random >> 7, random ^= random << 17;
            b.out[random % b.until] = (char)(random >> 32);
        }
        read_all(&b);
        check_results(&b);
        close_bench(&b);
    }
}

/* ---- questions about stores ---- */

/* What a host has given a worker: a dictionary, a queue and a function. The worker knows them by
 * the same ids. */
typedef struct asks {
    tp_region region;
    tp_wire_given given;
    tp_ref *refs[16];
    tp_wire_ids returned;
} asks;

static tp_store *make_store(tp_store_verb verb)
{
    tp_store_op op = { .verb = verb };
    tp_error err = { 0 };
    CHECK(tp_store_perform(NULL, NULL, &op, &err) == 0 && op.made);
    return op.made;
}

static void open_asks(asks *a)
{
    tp_error err = { 0 };
    memset(a, 0, sizeof *a);
    CHECK(tp_region_open(&a->region, TP_WIRE_ASK_SIZE, &err) == 0);
    a->refs[0] = (tp_ref *)(void *)make_store(TP_STORE_NEW_DICT);
    a->refs[1] = (tp_ref *)(void *)make_store(TP_STORE_NEW_QUEUE);
    a->refs[2] = &tp_func_new("f", 0)->ref;
    a->given = (tp_wire_given){ .refs = a->refs, .n = 3, .room = 16, .least_free = 3 };
}

static void close_asks(asks *a)
{
    for (uint32_t i = 0; i < a->given.n; i++)
        tp_ref_drop(a->refs[i]);
    tp_region_close(&a->region);
}

/* As a supervisor does. False when the question is wrong. */
static bool serve(asks *a, tp_error *why)
{
    tp_store_op op;
    tp_store *store;
    char *key;
    tp_error err = { 0 };
    bool is_right = tp_wire_get_ask(&a->region, &a->given, &op, &store, &key, why);
    CHECK(is_right || why->code != TP_OK);
    if (is_right) {
        tp_store_perform(store, NULL, &op, why);
        CHECK(tp_wire_put_answer(&a->region, &a->given, a->returned, &op, why, &err) == 0);
    }
    tp_store_op_clear(&op);
    free(key);
    return is_right;
}

static tp_stored value_of(const char *bytes, tp_ref *r)
{
    tp_buf message = { 0 };
    CHECK(tp_buf_add(&message, bytes, strlen(bytes)) == 0);
    CHECK(!r || tp_buf_hold_ref(&message, r) == 0);
    return (tp_stored){ .packed = tp_image_new(&message) };
}

static void ask(asks *a, uint32_t store, tp_store_op *op)
{
    tp_error err = { 0 };
    CHECK(tp_wire_put_ask(&a->region, store, op, a->refs, a->given.n, &err) == 0);
    CHECK(serve(a, &err));
    CHECK(tp_wire_see_answer(&a->region));
    tp_stored own = op->value;
    CHECK(tp_wire_get_answer(&a->region, a->refs, op, &err) == 0);
    if (own.packed)
        tp_ref_drop(own.packed);
}

TEST(a_question_about_a_store_and_its_answer_come_as_they_are)
{
    asks a;
    open_asks(&a);
    tp_store_op op = { .verb = TP_STORE_PUT,
                       .key = "skey",
                       .len = 4,
                       .version = TP_VERSION_ANY,
                       .value = value_of("message", a.refs[1]) };
    ask(&a, 0, &op);
    CHECK(op.is_done);
    op = (tp_store_op){ .verb = TP_STORE_LIST };
    ask(&a, 0, &op);
    CHECK(op.n == 1 && op.entries[0].len == 4 && memcmp(op.entries[0].key, "skey", 4) == 0);
    const tp_buf *m = &op.entries[0].value.packed->message;
    CHECK(op.entries[0].value.is_foreign && m->len == 7);
    CHECK(m->nrefs == 1 && m->refs[0] == a.refs[1]);
    tp_store_op_clear(&op);
    op = (tp_store_op){ .verb = TP_STORE_PUSH, .value = { .number = 5 } };
    ask(&a, 1, &op);
    op = (tp_store_op){ .verb = TP_STORE_COUNT };
    ask(&a, 1, &op);
    CHECK(op.number == 1);
    op = (tp_store_op){ .verb = TP_STORE_TAKE };
    ask(&a, 1, &op);
    CHECK(op.moved == TP_MOVED && op.value.number == 5);
    close_asks(&a);
}

TEST(what_is_wrong_in_a_question_is_seen)
{
    enum { CASES = 16 };
    const uint64_t bits = 0xfffb000012345678; /* to LuaJIT, a value of another type */
    for (int i = 0; i < CASES; i++) {
        asks a;
        open_asks(&a);
        tp_error err = { 0 };
        tp_store_op op = { .verb = TP_STORE_PUT,
                           .key = "n12345678",
                           .len = 9,
                           .version = TP_VERSION_ANY,
                           .value = value_of("message", a.refs[1]) };
        CHECK(tp_wire_put_ask(&a.region, 0, &op, a.refs, 3, &err) == 0);
        tp_wire_ask *q = (tp_wire_ask *)(void *)a.region.data;
        char *key = a.region.data + q->key_at;
        if (i == 1) q->size = 8;
        if (i == 2) q->size = UINT64_MAX;
        if (i == 3) q->verb = TP_STORE_VERBS;
        if (i == 4) q->store = 1; /* a queue */
        if (i == 5) q->store = 2; /* a function */
        if (i == 6) q->store = 3; /* nothing */
        if (i == 7) q->store = UINT32_MAX;
        if (i == 8) q->len = UINT64_MAX - 8;
        if (i == 9) q->key_at = UINT64_MAX - 7;
        if (i == 10) *key = 'x';
        if (i == 11) memcpy(key + 1, &bits, 8);
        if (i == 12) q->value.bytes = q->size;
        if (i == 13) q->value.nrefs = UINT64_MAX / 4 + 2;
        if (i == 14) a.region.data[q->value.refs_at] = 3;
        if (i == 15) q->value.bytes_at = 4;
        CHECK(serve(&a, &err) == (i == 0));
        tp_store_op_clear(&op);
        close_asks(&a);
    }
}

TEST(no_byte_of_a_question_that_is_changed_does_harm)
{
    uint64_t random = 88172645463325252u;
    for (int round = 0; round < 20000; round++) {
        asks a;
        open_asks(&a);
        tp_error err = { 0 };
        tp_store_op op = { .verb = (tp_store_verb)(round % TP_STORE_VERBS),
                           .key = "skey",
                           .len = 4,
                           .value = value_of("message", NULL) };
        CHECK(tp_wire_put_ask(&a.region, round % 2, &op, a.refs, 3, &err) == 0);
        for (int i = 0; i < 1 + round % 3; i++) {
            random ^= random << 13, random ^= random >> 7, random ^= random << 17;
            a.region.data[random % (sizeof(tp_wire_ask) + 24)] = (char)(random >> 32);
        }
        serve(&a, &err);
        tp_store_op_clear(&op);
        close_asks(&a);
    }
}

/* ---- events ---- */

enum { EVENTS = 256 };

/* What a process would send of two marks, and a map on a device. */
static void fill_events(tp_buf *bytes)
{
    tp_trace child = { 0 };
    CHECK_INT(0, tp_trace_start(&child, EVENTS, NULL));
    tp_trace_note(&child, TP_EVENT_BEGIN, 1, 0, 0, 1); /* the request's: its host knows */
    tp_trace_note(&child, TP_EVENT_OPEN, 1, 7, 0, tp_trace_name(&child, "inner", 5));
    tp_trace_note(&child, TP_EVENT_BEGIN, 1, 7, 0, 1);
    tp_trace_note(&child, TP_EVENT_MARK_TEXT, 1, 0, tp_trace_name(&child, "text", 4),
                  tp_trace_name(&child, "mark", 4));
    const uint64_t now = uv_hrtime();
    const uint32_t device = tp_trace_name(&child, "a card", 6);
    tp_event e = { .time_ns = now - 1000,
                   .kind = TP_EVENT_BUILD,
                   .worker = 1,
                   .job = tp_trace_build(TP_BUILD_READ, 3, device),
                   .first = 900,
                   .count = tp_trace_name(&child, "polish", 6) };
    tp_trace_write(&child, &e);
    e = (tp_event){ .time_ns = now - 500, .kind = TP_EVENT_KERNEL, .worker = 1, .job = 7,
                    .first = 400, .count = 64 };
    tp_trace_write(&child, &e);
    tp_trace_note(&child, TP_EVENT_END, 1, 7, 0, 1);
    CHECK_INT(0, tp_wire_put_events(&child, TP_TELLS_ALL, bytes));
    tp_trace_close(&child);
}

TEST(events_of_a_process_become_those_of_its_worker)
{
    tp_trace host = { 0 };
    tp_buf bytes = { 0 };
    tp_event got[EVENTS];
    CHECK_INT(0, tp_trace_start(&host, EVENTS, NULL));
    fill_events(&bytes);
    tp_wire_events of = { .to = &host, .worker = 5, .pid = 1234 };
    tp_wire_take_events(&of, (char *)bytes.data, bytes.len);
    CHECK_INT(6, tp_trace_read(&host, got, EVENTS));
    CHECK(got[0].kind == TP_EVENT_OPEN && got[0].worker == 5);
    CHECK_INT((uint64_t)1234 << 32 | 7, got[0].job);
    CHECK_STR("inner", tp_trace_text(&host, got[0].count));
    CHECK(got[2].kind == TP_EVENT_MARK_TEXT && got[2].job == 0);
    CHECK_STR("mark", tp_trace_text(&host, got[2].count));
    CHECK_STR("text", tp_trace_text(&host, got[2].first));
    CHECK(got[3].kind == TP_EVENT_BUILD && got[3].worker == 5 && got[3].first == 900);
    CHECK_STR("polish", tp_trace_text(&host, got[3].count));
    CHECK_INT(TP_BUILD_READ, tp_trace_build_how(got[3].job));
    CHECK_INT(3, tp_trace_build_number(got[3].job));
    CHECK_STR("a card", tp_trace_text(&host, tp_trace_build_device(got[3].job)));
    CHECK(got[4].kind == TP_EVENT_KERNEL && got[4].first == 400 && got[4].count == 64);
    CHECK_INT((uint64_t)1234 << 32 | 7, got[4].job);
    CHECK(got[3].time_ns < got[4].time_ns && got[2].time_ns <= got[5].time_ns);
    /* nobody listens any more */
    tp_trace_stop(&host);
    tp_wire_take_events(&of, (char *)bytes.data, bytes.len);
    CHECK_INT(0, tp_trace_read(&host, got, EVENTS));
    tp_buf_free(&bytes);
    tp_trace_close(&host);
}

static void count_build(void *user, const tp_job_build *b)
{
    unsigned *n = user;
    CHECK(b->ns <= 900 && b->how == TP_BUILD_READ && b->site == 3);
    CHECK_STR("a card", b->name);
    ++*n;
}

TEST(processes_tell_no_more_than_is_wanted)
{
    tp_trace t = { 0 };
    tp_terms terms = { 0 };
    const tp_work work = { .terms = &terms };
    CHECK_INT(TP_TELLS_NOTHING, tp_wire_told(&work, &t));
    terms.is_timed = true;
    CHECK_INT(TP_TELLS_BUILDS, tp_wire_told(&work, &t));
    CHECK_INT(0, tp_trace_start(&t, 4, NULL));
    CHECK_INT(TP_TELLS_ALL, tp_wire_told(&work, &t));
    tp_trace_set_brief(&t, true); /* as a worker of a cluster whose coordinator wants times */
    CHECK_INT(TP_TELLS_BUILDS, tp_wire_told(&work, &t));
    terms.is_timed = false;
    CHECK_INT(TP_TELLS_BUILDS, tp_wire_told(&work, &t));
    tp_trace_stop(&t);
    CHECK_INT(TP_TELLS_NOTHING, tp_wire_told(&work, &t));
    tp_trace_close(&t);
}

TEST(events_of_another_machine_are_of_its_tracks_by_our_clock)
{
    tp_trace host = { 0 };
    tp_buf bytes = { 0 };
    tp_event got[EVENTS];
    unsigned builds = 0;
    const uint64_t begun = uv_hrtime(), hour = 3600ull * 1000000000;
    CHECK_INT(0, tp_trace_start(&host, EVENTS, NULL));
    fill_events(&bytes);
    /* a clock that is an hour slow: nothing has happened later than now, or before it began */
    tp_wire_events of = { .to = &host, .worker = 5, .pid = 1234, .job = 9, .since_ns = begun,
                          .ahead_ns = (int64_t)hour, .built = count_build, .user = &builds };
    tp_wire_take_events(&of, (char *)bytes.data, bytes.len);
    CHECK_INT(6, tp_trace_read(&host, got, EVENTS));
    for (int i = 0; i < 6; i++)
        CHECK(got[i].time_ns >= begun && got[i].time_ns <= uv_hrtime());
    CHECK_INT(1, builds);
    /* nobody listens, but who wants times is told, and of nothing else */
    tp_trace_stop(&host);
    tp_wire_events timed = { .to = &host, .worker = 5, .built = count_build, .user = &builds };
    tp_wire_take_events(&timed, (char *)bytes.data, bytes.len);
    CHECK_INT(2, builds);
    CHECK_INT(0, tp_trace_read(&host, got, EVENTS));
    tp_buf_free(&bytes);
    tp_trace_close(&host);
}

TEST(no_bytes_in_the_place_of_events_do_harm)
{
    tp_trace host = { 0 };
    tp_buf bytes = { 0 };
    tp_event got[EVENTS];
    CHECK_INT(0, tp_trace_start(&host, EVENTS, NULL));
    fill_events(&bytes);
    tp_wire_events of = { .to = &host, .worker = 5, .pid = 1234 };
    for (size_t i = 0; i < bytes.len; i++)
        for (int change = 1; change < 256; change += 37) {
            char *copy = malloc(bytes.len); /* of its exact size, for AddressSanitizer */
            memcpy(copy, bytes.data, bytes.len);
            copy[i] = (char)(copy[i] + change);
            tp_wire_take_events(&of, copy, bytes.len);
            free(copy);
            size_t n = tp_trace_read(&host, got, EVENTS);
            for (size_t k = 0; k < n; k++)
                CHECK(got[k].worker == 5 && got[k].kind < TP_EVENTS &&
                      got[k].time_ns <= uv_hrtime() &&
                      (got[k].kind != TP_EVENT_BUILD ||
                       got[k].first <= uv_hrtime() - got[k].time_ns));
        }
    for (size_t len = 0; len < bytes.len; len++) {
        char *copy = malloc(len + 1);
        memcpy(copy, bytes.data, len);
        tp_wire_take_events(&of, copy, len);
        free(copy);
    }
    tp_buf_free(&bytes);
    tp_trace_close(&host);
}
