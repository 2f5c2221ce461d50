/* beside_test.c: who takes what of jobs that workers run, and devices beside them on the same
 * processors: what is known of both is given, or measured by hand, and the engine is asked. */
#include "harness.h"
#include "engine/exec.h"

enum { ITEMS = 100000, CLASS = 16 /* of runs of so many */, US = 1000, MS = 1000 * 1000 };

static void start(tp_executor *ex, unsigned n)
{
    (void)ex, (void)n;
}

static const tp_executor_type by_hand = { .name = "by hand", .start = start };
static tp_executor executor = { .type = &by_hand }, devices = { .type = &by_hand };
static tp_engine *engine;
static tp_func *func;
static tp_agent agent, device;

static void wake(tp_waiter *w)
{
    (void)w;
}

static tp_waiter waiter = { .wake = wake };

/* An item takes a worker 10 ns, and the device 5. */
static void setup(void)
{
    tp_error err = { 0 };
    CHECK_INT(0, tp_engine_open(&engine, &err));
    CHECK_INT(0, tp_agent_open(&agent, engine, 1, &executor, &err));
    CHECK_INT(0, tp_agent_open(&device, engine, 2, &devices, &err));
    device.site = 1;
    func = tp_func_new("f", 0);
    CHECK(func);
    func->item_ns = func->worker_ns = 10;
    func->site_ns[0] = 5;
}

static void tear_down(void)
{
    tp_ref_drop(func);
    tp_agent_close(&agent);
    tp_agent_close(&device);
    tp_engine_close(engine);
}

/* A job of n items in one block, which one worker and the device may run; `promised`: the device
 * has to make something first, which takes 500 ms. */
static tp_job *open_job(uint32_t n, bool promised)
{
    tp_error err = { 0 };
    tp_job *job;
    tp_job_config config = { .func = func,
                             .executor = &executor,
                             .waiter = &waiter,
                             .ordered = true,
                             .is_cheap = true,
                             .total = n,
                             .sites = 1,
                             .beside = { .executor = &devices,
                                         .workers = 1,
                                         .is_exclusive = true,
                                         .promised = promised,
                                         .make_ns = 500 * MS } };
    CHECK_INT(0, tp_job_open(&job, engine, &config, &err));
    tp_block *b = tp_block_new_columns(n, 1, NULL, 0);
    CHECK(b);
    b->n = n;
    CHECK_INT(0, tp_job_push(job, b));
    tp_job_end(job);
    return job;
}

static tp_slice *take(bool there)
{
    uv_mutex_lock(tp_engine_lock(engine));
    tp_slice *s = there ? tp_job_take_locked(engine, &devices, &device)
                        : tp_job_take_locked(engine, &executor, &agent);
    uv_mutex_unlock(tp_engine_lock(engine));
    return s;
}

/* The slice's items have results. */
static void finish(tp_slice *s)
{
    tp_block *b = tp_block_new_columns(s->work.count, 1, NULL, 0);
    CHECK(b);
    b->n = s->work.count;
    tp_work_append(&s->work, b, s->work.at);
    s->work.at += b->n;
    tp_job_finish(s);
}

/* Runs the job to its end. Gives "device", "workers", or "both": who has run some of it. */
static const char *run(tp_job *job)
{
    static const char *const names[] = { "nobody", "workers", "device", "both" };
    unsigned who = 0;
    for (bool is_over = false; !is_over;) {
        is_over = true;
        for (int there = 0; there < 2; there++) {
            tp_slice *s = take(there);
            if (!s)
                continue;
            who |= 1u << there;
            finish(s);
            is_over = false;
        }
    }
    tp_job_close(job);
    return names[who];
}

static const char *run_one(void)
{
    return run(open_job(ITEMS, false));
}

/* The last runs of a class took so many us each; there: on the device. */
static void give_runs(bool there, unsigned n, const float *us)
{
    tp_runs *r = &func->classes[CLASS].runs[there];
    r->n = (uint8_t)n;
    r->last = (uint8_t)(n - 1);
    for (unsigned i = 0; i < n; i++)
        r->item_ns[i] = us[i] * US / ITEMS;
}

static tp_job *take_promise(void)
{
    uv_mutex_lock(tp_engine_lock(engine));
    tp_job *job = tp_job_take_promise_locked(engine, &devices, 1);
    uv_mutex_unlock(tp_engine_lock(engine));
    return job;
}

TEST(workers_run_a_job_until_the_device_has_made_what_it_needs)
{
    setup();
    tp_job *job = open_job(ITEMS, true);
    CHECK(!take(true));
    CHECK(!take_promise()); /* workers have run nothing yet, and little is left */
    func->durations.total_ns = 499.0 * MS;
    tp_job *made = take_promise(); /* with what is left it is 500 */
    CHECK(made == job && !take_promise());
    CHECK(!take(true));
    tp_job_end_promise(made, 1, true);
    tp_ref_drop(made);
    CHECK(!take_promise());
    tp_slice *s = take(true);
    CHECK(s);
    finish(s);
    tp_job_close(job);
    job = open_job(ITEMS, true); /* in the meantime workers run all of it */
    CHECK(strcmp(run(job), "workers") == 0);
    tear_down();
}

TEST(workers_run_all_where_the_device_could_not_make_it)
{
    setup();
    tp_job *job = open_job(ITEMS, true);
    func->durations.total_ns = 500.0 * MS;
    tp_job *made = take_promise();
    CHECK(made == job);
    tp_job_end_promise(made, 1, false);
    tp_ref_drop(made);
    CHECK(!take_promise());
    CHECK(strcmp(run(job), "workers") == 0);
    tear_down();
}

TEST(what_is_left_of_a_long_job_is_worth_making_it_for)
{
    setup();
    func->item_ns = func->worker_ns = 6000; /* 600 ms */
    tp_job *job = open_job(ITEMS, true);
    CHECK(!take_promise()); /* first items may take any time */
    func->durations.total_ns = 50.0 * MS;
    tp_job *made = take_promise();
    CHECK(made == job);
    tp_job_end_promise(made, 1, true);
    tp_ref_drop(made);
    tp_job_close(job);
    tear_down();
}

TEST(who_has_been_faster_runs_small_jobs)
{
    setup();
    give_runs(false, 3, (float[]){ 1000, 1000, 1000 });
    give_runs(true, 3, (float[]){ 500, 500, 500 });
    CHECK(strcmp(run_one(), "device") == 0);
    give_runs(false, 3, (float[]){ 1000, 1000, 1000 });
    give_runs(true, 3, (float[]){ 2000, 2000, 2000 });
    CHECK(strcmp(run_one(), "workers") == 0);
    tear_down();
}

TEST(one_run_that_was_kept_waiting_does_not_say_that_the_device_is_slow)
{
    setup();
    give_runs(false, 5, (float[]){ 1000, 1000, 1000, 1000, 1000 });
    give_runs(true, 1, (float[]){ 8341 });
    CHECK(strcmp(run_one(), "device") == 0);
    give_runs(true, 5, (float[]){ 500, 8000, 500, 9000, 500 });
    CHECK(strcmp(run_one(), "device") == 0);
    give_runs(true, 5, (float[]){ 8000, 500, 500, 500, 9000 });
    CHECK(strcmp(run_one(), "device") == 0);
    tear_down();
}

TEST(the_slower_one_is_tried_when_others_have_paid_for_it)
{
    setup();
    tp_class *c = &func->classes[CLASS];
    give_runs(false, 5, (float[]){ 1000, 1000, 1000, 1000, 1000 });
    give_runs(true, 5, (float[]){ 3000, 3000, 3000, 3000, 3000 });
    c->credit_ns = 1999 * US;
    CHECK(strcmp(run_one(), "workers") == 0);
    give_runs(false, 5, (float[]){ 1000, 1000, 1000, 1000, 1000 });
    c->credit_ns = 2001 * US;
    CHECK(strcmp(run_one(), "device") == 0);
    CHECK(c->credit_ns <= 0); /* that is spent */
    give_runs(true, 5, (float[]){ 3000, 3000, 3000, 3000, 3000 });
    CHECK(strcmp(run_one(), "workers") == 0);
    CHECK(c->credit_ns > -1e9f && c->runs[0].n == TP_RUNS_KEPT);
    tear_down();
}

TEST(a_slice_that_was_kept_waiting_is_outweighed_by_one_that_was_not)
{
    setup();
    func->site_ns[0] = 2000; /* by one slice of 8 ms */
    func->site_seen_ns[0] = 8 * MS;
    func->until_trial_ns = -1;
    func->trial_ns = 1 * MS;
    func->trial_every = 1;
    tp_job *job = open_job(10 * ITEMS * 10, false); /* 100 ms of workers */
    tp_slice *s = take(true);
    CHECK(s && s->is_trial);
    uint32_t n = s->work.count;
    uint64_t began_ns = s->started_ns;
    finish(s);
    double own_ns = (double)(uv_hrtime() - began_ns);
    CHECK((double)func->site_ns[0] <= 2 * own_ns / n);
    tp_job_close(job);
    tear_down();
}
