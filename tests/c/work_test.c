/* work_test.c: work without a job: what a sink of one's own is given of it, and that a worker's Lua
 * state runs it. */
#include "harness.h"
#include "base/heap.h"
#include "engine/work.h"
#include "tidepool.h"
#include "workers/state.h"
#include "workers/vm.h"
#include "workers/workers.h"

#include <lauxlib.h>
#include <lua.h>

enum { ITEMS = 4 };

/* Work, and what its sink was told. */
typedef struct bench {
    tp_work work; /* first member */
    tp_terms terms;
    tp_worker worker;
    tp_block *results, **results_end;
    unsigned starved, released;
    bool is_cancelled;
} bench;

static void append(tp_work *w, tp_block *b)
{
    bench *bench_of = (bench *)w;
    *bench_of->results_end = b;
    bench_of->results_end = &b->next;
}

static void starve(tp_work *w)
{
    ((bench *)w)->starved++;
}

static bool is_cancelled(const tp_work *w)
{
    return ((const bench *)w)->is_cancelled;
}

static void release_permit(tp_work *w)
{
    ((bench *)w)->released++;
}

static void take_permit(tp_work *w)
{
    (void)w;
}

static const tp_sink by_hand = { .append = append,
                                 .starve = starve,
                                 .is_cancelled = is_cancelled,
                                 .release_permit = release_permit,
                                 .take_permit = take_permit };

static tp_block *new_inputs(void)
{
    tp_block *b = tp_block_new_columns(ITEMS, 1, NULL, 0);
    CHECK(b);
    b->first = 100;
    b->n = ITEMS;
    for (int i = 0; i < ITEMS; i++)
        ((double *)b->column[0])[i] = i + 1;
    return b;
}

static void open_bench(bench *b, tp_worker *worker)
{
    *b = (bench){ .terms.name = "f" };
    b->results_end = &b->results;
    tp_work_open(&b->work, worker ? worker : &b->worker, &by_hand, &b->terms, new_inputs(), 0,
                 ITEMS, 1);
}

static void close_bench(bench *b)
{
    tp_block_free_list(b->results);
    tp_block_free(b->work.block);
}

/* An encoder adds so many bytes to the work's values, and perhaps ends an item with them. */
static void add(tp_work *w, size_t len, bool is_whole)
{
    if (!w->values)
        tp_work_open_values(w, tp_block_new_values(TP_BLOCK_VALUES));
    CHECK_INT(0, tp_block_reserve(w->values));
    CHECK(tp_buf_reserve(&w->values->bytes, len));
    w->values->bytes.len += len;
    if (is_whole) {
        tp_block_add(w->values);
        w->at++;
    }
}

TEST(results_reach_the_sink_in_the_order_of_the_items)
{
    bench b;
    open_bench(&b, NULL);
    CHECK(b.worker.current == &b.work);
    add(&b.work, 8, true);
    CHECK(!b.results);
    add(&b.work, 5, false); /* interrupted */
    tp_work_fail(&b.work, tp_block_new_failure(TP_KIND_ERROR, "no", 1, 0));
    add(&b.work, 8, true);
    tp_work_close(&b.work);
    CHECK(!b.worker.current);
    tp_block *first = b.results, *second = first->next, *third = second->next;
    CHECK(first->kind == TP_BLOCK_VALUES && first->first == 100 && first->n == 1);
    CHECK_INT(8, first->bytes.len);
    CHECK(second->kind == TP_BLOCK_FAILURE && second->first == 101);
    CHECK(third->kind == TP_BLOCK_VALUES && third->first == 102 && !third->next);
    CHECK_INT(3, b.work.at);
    close_bench(&b);
}

TEST(what_had_no_item_yet_does_not_reach_the_sink)
{
    bench b;
    open_bench(&b, NULL);
    add(&b.work, 5, false);
    tp_work_close(&b.work);
    CHECK(!b.results);
    CHECK_INT(0, b.work.at);
    close_bench(&b);
}

TEST(a_failure_for_which_there_is_no_memory_starves_and_leaves_the_item)
{
    bench b;
    open_bench(&b, NULL);
    tp_work_fail(&b.work, NULL);
    CHECK_INT(1, b.starved);
    CHECK_INT(0, b.work.at);
    tp_work_close(&b.work);
    close_bench(&b);
}

TEST(what_a_dead_worker_had_results_for_keeps_them)
{
    bench b;
    open_bench(&b, NULL);
    add(&b.work, 8, true);
    tp_work_flush(&b.work);
    b.work.numbers = tp_block_new_columns(ITEMS - 1, 1, NULL, 0);
    b.work.numbers_at = 1;
    b.work.at = 3;
    tp_work_begin_item(&b.work);
    b.work.at = 1; /* a driver tells only ctl how far it is */
    CHECK(tp_work_recover(&b.work));
    CHECK_INT(3, b.work.at);
    CHECK(b.results->next && b.results->next->n == 2 && b.results->next->first == 101);
    tp_work_close(&b.work);
    close_bench(&b);

    open_bench(&b, NULL);
    for (int i = 0; i < ITEMS; i++)
        add(&b.work, 8, true);
    CHECK(!tp_work_recover(&b.work)); /* it died after its last item */
    CHECK_INT(ITEMS, b.results->n);
    tp_work_close(&b.work);
    close_bench(&b);
}

enum { TEXT = 64, CHANGES = 60000000 };

/* The item that runs ends again and again, as it were. */
static void add_text(void *arg)
{
    tp_text *text = arg;
    for (int i = 0; i <= CHANGES; i++)
        __atomic_store_n(&text->used, i == CHANGES ? TEXT + 1 : i % 2 ? TEXT : 0, __ATOMIC_RELAXED);
}

/* The copy must be made by one look at how many bytes there are. */
TEST(results_are_collected_while_the_item_that_runs_adds_its_strings)
{
    bench b;
    uv_thread_t thread;
    const uint8_t mixed[] = { TP_MIXED };
    open_bench(&b, NULL);
    tp_block *numbers = tp_block_new_columns(ITEMS, 1, mixed, TEXT + 1);
    CHECK(numbers);
    memset(numbers->column[0], 0, ITEMS * sizeof(tp_scalar));
    memset(numbers->text.bytes, 0, TEXT + 1);
    b.work.numbers = numbers;
    CHECK_INT(0, uv_thread_create(&thread, add_text, &numbers->text));
    while (__atomic_load_n(&numbers->text.used, __ATOMIC_RELAXED) <= TEXT) {
        b.work.numbers_at = b.work.numbers_given = 0;
        tp_work_collect(&b.work, 1);
        CHECK(b.results && b.results->n == 1 && b.results->text.used <= b.results->text.capacity);
        tp_block_free(b.results);
        b.results = NULL;
        b.results_end = &b.results;
    }
    uv_thread_join(&thread);
    b.work.numbers = NULL;
    tp_block_free(numbers);
    tp_work_close(&b.work);
    close_bench(&b);
}

/* The image of the function that a chunk gives. */
static tp_image *load(const char *chunk)
{
    tp_buf message = { 0 };
    tp_error err = { 0 };
    lua_State *L = tp_state_new();
    CHECK(L);
    tp_state_open_libraries(L);
    tp_codec_open(L);
    CHECK_INT(0, luaL_dostring(L, chunk));
    lua_pushliteral(L, "");
    lua_pushliteral(L, "");
    lua_newtable(L);
    lua_pushnil(L);
    CHECK(tp_image_encode(L, 1, "f", 5, 0, &message, &err) >= 0);
    tp_image *image = tp_image_new(&message);
    CHECK(image);
    tp_state_close(L);
    return image;
}

/* The work of a function, run by a worker of a host. */
static void run(bench *b, const char *chunk, tp_terms terms)
{
    tp_error err = { 0 };
    tp_host *host;
    tp_agent agent;
    CHECK_INT(0, tp_host_open(&host, NULL, &err));
    CHECK_INT(0, tp_agent_open(&agent, host->engine, 7, tp_host_executor(host, "inline"), &err));
    CHECK_INT(0, tp_agent_open_vm(&agent, &err));
    open_bench(b, &agent.worker);
    b->terms = terms;
    b->terms.image = load(chunk);
    tp_vm_run(agent.worker.vm, &b->work);
    tp_work_close(&b->work);
    tp_vm_close(agent.worker.vm);
    tp_agent_close(&agent);
    tp_ref_drop(b->terms.image);
    tp_host_close(host);
}

TEST(a_workers_state_runs_work_that_no_job_has)
{
    bench b;
    run(&b, "return function(x) if x == 3 then error 'three' end return 2 * x end",
        (tp_terms){ .name = "double" });
    CHECK_INT(ITEMS, b.work.at);
    tp_block *first = b.results, *second = first->next, *third = second->next;
    CHECK(first->kind == TP_BLOCK_COLUMNS && first->n == 2 && first->first == 100);
    CHECK(((double *)first->column[0])[1] == 4);
    CHECK(second->kind == TP_BLOCK_FAILURE && second->first == 102 && second->may_retry);
    CHECK(third->n == 1 && ((double *)third->column[0])[0] == 8);
    close_bench(&b);
}

TEST(a_map_inside_of_such_work_is_run_and_lends_its_permit)
{
    bench b;
    run(&b,
        "return function(x)\n"
        "  local tidepool = require 'tidepool'\n"
        "  local add = tidepool.App 'inner':func { executor = 'inline' } (function(y) return y + 1 "
        "end)\n"
        "  local sums = add:map({ x, x }):list()\n"
        "  return sums[1] + sums[2] + 100 * tidepool.current().worker\n"
        "end",
        (tp_terms){ .name = "outer" });
    CHECK_INT(ITEMS, b.work.at);
    for (tp_block *r = b.results; r; r = r->next)
        CHECK(r->kind != TP_BLOCK_FAILURE);
    CHECK(((double *)b.results->column[0])[0] == 704);
    CHECK(b.released >= ITEMS);
    close_bench(&b);
}

static bool is_far;

bool __real_tp_heap_is_in_reach(void);
bool __wrap_tp_heap_is_in_reach(void);

/* In the place of host/base/heap.c's, see the Makefile. */
bool __wrap_tp_heap_is_in_reach(void)
{
    return !is_far && __real_tp_heap_is_in_reach();
}

TEST(where_luajit_does_not_reach_all_memory_states_have_its_own_allocator)
{
    void *block = malloc(1);
    CHECK(((uintptr_t)block >> 47 == 0) >= __real_tp_heap_is_in_reach());
    free(block);
    is_far = true;
    bench b;
    run(&b, "return function(x) return #('x'):rep(x * 1000000) end", (tp_terms){ .name = "far" });
    CHECK_INT(ITEMS, b.work.at);
    CHECK(((double *)b.results->column[0])[3] == 4e6);
    close_bench(&b);
    lua_State *L = tp_state_new();
    void *user;
    CHECK(L && lua_getallocf(L, &user) != tp_heap_allocate);
    tp_state_close(L);
}
