/* invariant_test.c: what the engine's jobs promise each other is checked in builds for tests, and
 * costs nothing in the one that users run. */
#include "harness.h"
#include "engine/exec.h"

#include <signal.h>

#ifdef TP_ASSERTS
enum { HAS_ASSERTS = 1 };
#else
enum { HAS_ASSERTS = 0 };
#endif

enum { ITEMS = 4 };

/* A job of some items that no worker runs: the test is its agent. */
typedef struct bench {
    tp_engine *engine;
    tp_executor executor;
    tp_agent agent;
    tp_waiter waiter;
    tp_func *func;
    tp_job *job;
} bench;

static void do_nothing(tp_waiter *waiter)
{
    (void)waiter;
}

static void start_nobody(tp_executor *executor, unsigned n)
{
    (void)executor, (void)n;
}

static const tp_executor_type by_hand = { .name = "by hand", .start = start_nobody };

static void open_bench(bench *b)
{
    tp_error err = { 0 };
    *b = (bench){ .executor.type = &by_hand, .waiter.wake = do_nothing };
    CHECK_INT(0, tp_engine_open(&b->engine, &err));
    CHECK_INT(0, tp_agent_open(&b->agent, b->engine, 0, &b->executor, &err));
    b->func = tp_func_new("f", 0);
    CHECK(b->func);
    tp_job_config config = { .func = b->func,
                             .executor = &b->executor,
                             .waiter = &b->waiter,
                             .ordered = true,
                             .discard = true,
                             .total = ITEMS };
    CHECK_INT(0, tp_job_open(&b->job, b->engine, &config, &err));
    CHECK_INT(0, tp_job_push(b->job, tp_block_new_empty(TP_BLOCK_DONE, 0, ITEMS)));
    tp_job_end(b->job);
}

static void close_bench(bench *b)
{
    tp_job_close(b->job);
    tp_ref_drop(b->func);
    tp_agent_close(&b->agent);
    tp_engine_close(b->engine);
}

static tp_slice *take(bench *b)
{
    uv_mutex_lock(tp_engine_lock(b->engine));
    tp_slice *s = tp_job_take_locked(b->engine, &b->executor, &b->agent);
    uv_mutex_unlock(tp_engine_lock(b->engine));
    CHECK(s);
    return s;
}

/* n results from item s->work.at on. */
static void give(tp_slice *s, uint32_t n)
{
    tp_work_append(&s->work, tp_block_new_empty(TP_BLOCK_DONE, 0, n), s->work.at);
    s->work.at += n;
}

/* Does that end a process? Asked only where there are assertions: elsewhere it would corrupt
 * memory. */
static bool is_refused(void (*wrong)(bench *b))
{
    int status = 0;
    pid_t child = fork();
    if (child == 0) {
        bench b;
        if (!freopen("/dev/null", "w", stderr))
            _exit(1);
        open_bench(&b);
        wrong(&b);
        _exit(0);
    }
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}

TEST(a_condition_is_evaluated_only_in_builds_for_tests)
{
    int n = 0;
    TP_ASSERT(++n == 1);
    CHECK_INT(HAS_ASSERTS, n);
}

TEST(items_that_are_taken_and_finished_in_parts_hold_to_all)
{
    bench b;
    tp_job_counts counts;
    open_bench(&b);
    for (uint64_t done = 0; done < ITEMS; done = counts.finished) {
        tp_slice *s = take(&b);
        give(s, 1); /* the rest goes back */
        tp_job_finish(s);
        tp_job_get_counts(b.job, &counts);
        CHECK_INT(done + 1, counts.finished);
    }
    CHECK_INT(ITEMS, counts.pushed);
    close_bench(&b);
}

static void finish_past_the_end(bench *b)
{
    tp_slice *s = take(b);
    give(s, s->work.count);
    give(s, 1);
}

static void finish_twice(bench *b)
{
    tp_slice *s = take(b);
    give(s, s->work.count);
    tp_job_finish(s);
    tp_job_finish(s);
}

static void finish_without_results(bench *b)
{
    tp_slice *s = take(b);
    s->work.at++;
    tp_job_finish(s);
}

static void finish_one_item_twice(bench *b)
{
    tp_slice *s = take(b);
    give(s, 1);
    s->work.at--;
    give(s, 1);
    tp_job_finish(s);
}

static void take_without_the_lock(bench *b)
{
    tp_job_take_locked(b->engine, &b->executor, &b->agent);
}

TEST(what_a_slice_may_not_do_ends_the_process)
{
    if (!HAS_ASSERTS)
        return;
    CHECK(is_refused(finish_past_the_end));
    CHECK(is_refused(finish_twice));
    CHECK(is_refused(finish_without_results));
    CHECK(is_refused(finish_one_item_twice));
    CHECK(is_refused(take_without_the_lock));
}
