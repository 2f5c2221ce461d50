/* job_test.c: jobs without workers: the test takes slices and finishes them itself, so that each
 * step has its time. */
#include "harness.h"
#include "engine/exec.h"
#include "engine/inside.h"

enum { MANY = 20, AWAY_US = TP_PAUSE_NS / 1000 + 20000 };

static tp_engine *engine;
static tp_func *func;
static tp_agent agent;
static unsigned offered; /* to how many takers work was offered */

static void start(tp_executor *ex, unsigned n)
{
    (void)ex;
    offered += n;
}

static const tp_executor_type by_hand = { .name = "by hand", .start = start };
static tp_executor executor = { .type = &by_hand };

static unsigned wakes;

static void wake(tp_waiter *w)
{
    (void)w;
    wakes++;
}

static tp_waiter waiter = { .wake = wake };

static void setup(void)
{
    tp_error err = { 0 };
    CHECK_INT(0, tp_engine_open(&engine, &err));
    CHECK_INT(0, tp_agent_open(&agent, engine, 1, &executor, &err));
    func = tp_func_new("f", 0);
    CHECK(func);
}

static void tear_down(void)
{
    tp_ref_drop(func);
    tp_agent_close(&agent);
    tp_engine_close(engine);
}

/* Opens the job and gives it n inputs, each in a block of its own. */
static tp_job *open_with(const tp_job_config *config, unsigned n)
{
    tp_error err = { 0 };
    tp_job *job;
    CHECK_INT(0, tp_job_open(&job, engine, config, &err));
    for (unsigned i = 0; i < n; i++) {
        tp_block *b = tp_block_new_columns(1, 1, NULL, 0);
        CHECK(b);
        b->n = 1;
        CHECK_INT(0, tp_job_push(job, b));
    }
    tp_job_end(job);
    return job;
}

/* A job of n inputs, each in a block of its own. */
static tp_job *open_job(unsigned n, tp_retries retries)
{
    tp_job_config config = { .func = func,
                             .executor = &executor,
                             .waiter = &waiter,
                             .ordered = true,
                             .keep_going = true,
                             .is_cheap = true,
                             .total = n,
                             .retries = retries };
    return open_with(&config, n);
}

static tp_slice *take(void)
{
    uv_mutex_lock(tp_engine_lock(engine));
    tp_slice *s = tp_job_take_locked(engine, &executor, &agent);
    uv_mutex_unlock(tp_engine_lock(engine));
    return s;
}

/* The slice's item has a result of so many doubles. */
static void finish(tp_slice *s, uint32_t size)
{
    tp_block *b = tp_block_new_columns(size, 1, NULL, 0);
    CHECK(b);
    b->n = 1;
    tp_work_append(&s->work, b, s->work.at);
    s->work.at++;
    tp_job_finish(s);
}

static void fail(tp_slice *s)
{
    tp_block *b = tp_block_new_values(TP_BLOCK_FAILURE);
    CHECK(b);
    b->n = 1;
    b->may_retry = true;
    tp_work_append(&s->work, b, s->work.at);
    s->work.at++;
    tp_job_finish(s);
}

/* The index of the next input to be taken, which is run; -1: none may be. */
static int run(uint32_t size)
{
    tp_slice *s = take();
    if (!s)
        return -1;
    CHECK_INT(1, s->work.count);
    int index = (int)s->work.block->first;
    finish(s, size);
    return index;
}

/* The index of the next result, which the owner takes; -1: there is none. */
static int next(tp_job *job)
{
    tp_block *b = tp_job_next(job);
    int index = b ? (int)b->first : -1;
    tp_block_free(b);
    return index;
}

/* ---- waiting ---- */

/* The owner is told of a result, takes it before it looks who was told, and asks for the next one:
 * that it looks then takes nothing of this back. (A program that polls a host hung so.) */
TEST(asked_again_before_it_is_collected)
{
    setup();
    tp_job *job = open_job(3, (tp_retries){ 0 });
    CHECK(tp_job_await(job, tp_job_eventcount(job)));
    wakes = 0;
    for (int i = 0; i < 3; i++) {
        CHECK_INT(i, run(1));
        CHECK_INT(i + 1, (int)wakes);
        uint32_t seen = tp_job_eventcount(job);
        CHECK_INT(i, next(job));
        CHECK(tp_job_await(job, seen));
        CHECK(tp_job_collect(engine, &waiter) == job);
        CHECK(tp_job_collect(engine, &waiter) == NULL);
    }
    tp_job_close(job);
    tear_down();
}

/* ---- the pause ---- */

/* A job of which the owner, reading in a loop, has taken the first result, and others are there. */
static tp_job *open_read(void)
{
    tp_job *job = open_job(MANY, (tp_retries){ 0 });
    tp_job_set_reading(job, true);
    for (int i = 0; i <= TP_READY_MIN; i++)
        CHECK_INT(i, run(1));
    CHECK_INT(0, next(job));
    return job;
}

TEST(a_job_whose_owner_is_away_with_results_pauses)
{
    setup();
    tp_job *job = open_read();
    usleep(AWAY_US);
    CHECK_INT(-1, run(1));
    tp_job_close(job);
    tear_down();
}

TEST(a_job_whose_owner_waits_for_an_item_does_not_pause)
{
    setup();
    tp_job *job = open_job(MANY, (tp_retries){ 0 });
    tp_job_set_reading(job, true);
    tp_slice *slow = take();
    CHECK_INT(-1, next(job));
    for (int i = 1; i < MANY; i++) {
        if (i == MANY / 2)
            usleep(AWAY_US);
        /* The agent may have only one slice at a time. */
        agent.worker.current = NULL;
        CHECK_INT(i, run(1));
    }
    agent.worker.current = &slow->work;
    finish(slow, 1);
    tp_job_close(job);
    tear_down();
}

TEST(a_job_whose_owner_waits_for_a_retry_does_not_pause)
{
    setup();
    tp_job *job = open_job(MANY, (tp_retries){ .max = 1,
                                               .initial_delay_s = 2e-9 * TP_PAUSE_NS,
                                               .backoff = 1,
                                               .max_delay_s = 10 });
    tp_job_set_reading(job, true);
    CHECK_INT(0, run(1));
    CHECK_INT(0, next(job));
    fail(take());
    for (int i = 2; i <= 1 + TP_READY_MIN; i++)
        CHECK_INT(i, run(1));
    CHECK_INT(-1, next(job)); /* it waits from here on */
    usleep(2 * TP_PAUSE_NS / 1000 + 20000);
    CHECK_INT(1, run(1));
    CHECK_INT(1, next(job));
    tp_job_close(job);
    tear_down();
}

TEST(a_job_whose_owner_has_given_up_waiting_may_pause)
{
    setup();
    tp_job *job = open_job(MANY, (tp_retries){ 0 });
    tp_job_set_reading(job, true);
    CHECK_INT(-1, next(job));
    tp_job_leave(job);
    for (int i = 0; i < TP_READY_MIN; i++)
        CHECK_INT(i, run(1));
    usleep(AWAY_US);
    CHECK_INT(-1, run(1));
    tp_job_close(job);
    tear_down();
}

static void come_by_next(tp_job *job)
{
    next(job);
}

static void come_by_room(tp_job *job)
{
    tp_job_room(job);
}

static void come_to_list(tp_job *job)
{
    tp_job_set_reading(job, false);
}

static void come_to_look(tp_job *job)
{
    tp_job_counts counts;
    tp_job_get_counts(job, &counts);
}

TEST(a_paused_job_goes_on_whatever_its_owner_comes_back_for)
{
    static void (*const ways[])(tp_job *) = { come_by_next, come_by_room, come_to_list,
                                              come_to_look };
    setup();
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        tp_job *job = open_read();
        usleep(AWAY_US);
        CHECK_INT(-1, run(1));
        offered = 0;
        ways[i](job);
        CHECK(offered > 0);
        int index = run(1);
        for (int again = 0; index < 0 && again < 100;
             again++) { /* on a busy machine we may have been away for that long */
            ways[i](job);
            index = run(1);
        }
        CHECK_INT(TP_READY_MIN + 1, index);
        tp_job_close(job);
    }
    tear_down();
}

TEST(any_number_of_paused_jobs_do_not_hide_another)
{
    enum { JOBS = 100 };
    tp_job *jobs[JOBS];
    setup();
    for (int i = 0; i < JOBS; i++) {
        jobs[i] = open_job(MANY, (tp_retries){ 0 });
        tp_job_set_reading(jobs[i], true);
    }
    for (int i = 0; i < JOBS * (TP_READY_MIN + 1); i++) /* in turns */
        CHECK_INT(i / JOBS, run(1));
    for (int i = 0; i < JOBS; i++)
        CHECK_INT(0, next(jobs[i]));
    usleep(AWAY_US);
    CHECK_INT(-1, run(1));
    tp_job *job = open_job(3, (tp_retries){ 0 });
    CHECK_INT(0, run(1));
    CHECK_INT(1, run(1));
    CHECK_INT(2, run(1));
    CHECK_INT(-1, run(1));
    tp_job_close(job);
    for (int i = 0; i < JOBS; i++)
        tp_job_close(jobs[i]);
    tear_down();
}

/* ---- memory ---- */

enum {
    LARGE = TP_BYTES_MAX / sizeof(double) + 1
}; /* doubles of which one result is all that a job may hold */

TEST(a_job_with_large_results_goes_on_when_its_owner_takes_one)
{
    setup();
    tp_job *job = open_job(3, (tp_retries){ 0 });
    CHECK_INT(0, run(LARGE));
    CHECK_INT(-1, run(LARGE));
    offered = 0;
    CHECK_INT(0, next(job));
    CHECK(offered > 0);
    CHECK_INT(1, run(LARGE));
    CHECK_INT(-1, run(LARGE));
    CHECK_INT(1, next(job));
    CHECK_INT(2, run(LARGE));
    CHECK_INT(2, next(job));
    tp_job_close(job);
    tear_down();
}

TEST(a_job_with_large_results_runs_what_its_owner_waits_for)
{
    setup();
    /* longer than what is done before they are due takes, also where a machine stands still */
    tp_job *job = open_job(
        8, (tp_retries){ .max = 1, .initial_delay_s = 2, .backoff = 1, .max_delay_s = 2 });
    for (int i = 0; i < 5; i++)
        fail(take());
    CHECK_INT(5, run(LARGE));
    CHECK_INT(-1, next(job));
    usleep(2100000); /* all five are due, and the first one is wanted first */
    for (int i = 0; i < 5; i++) {
        CHECK_INT(i, run(1));
        CHECK_INT(i, next(job));
    }
    CHECK_INT(-1, run(1));
    CHECK_INT(5, next(job));
    CHECK_INT(6, run(1));
    tp_job_close(job);
    tear_down();
}

/* ---- sites that do not come back ---- */

static tp_executor devices = { .type = &by_hand };
static tp_agent device;

static tp_slice *take_there(void)
{
    uv_mutex_lock(tp_engine_lock(engine));
    tp_slice *s = tp_job_take_locked(engine, &devices, &device);
    uv_mutex_unlock(tp_engine_lock(engine));
    return s;
}

static uint64_t idle_until(void)
{
    uv_mutex_lock(tp_engine_lock(engine));
    uint64_t until = tp_job_idle_until(engine, &executor);
    uv_mutex_unlock(tp_engine_lock(engine));
    return until;
}

static bool is_unwanted(tp_slice *s)
{
    uv_mutex_lock(tp_engine_lock(engine));
    bool is = tp_slice_is_cancelled_locked(s);
    uv_mutex_unlock(tp_engine_lock(engine));
    return is;
}

/* A job of n inputs that the device runs fast, and may take a millisecond for each. Exclusive: on
 * the processors of the workers. */
static tp_job *open_beside(unsigned n, tp_array *array, bool is_exclusive)
{
    func->worker_ns = 1e6;
    func->site_ns[0] = 1000;
    tp_job_config config = { .func = func,
                             .executor = &executor,
                             .waiter = &waiter,
                             .ordered = true,
                             .total = n,
                             .sites = 1,
                             .returns = { .columns = array != NULL,
                                          .type = { TP_DOUBLE },
                                          .array = { array } },
                             .beside = { .executor = &devices,
                                         .workers = 1,
                                         .is_exclusive = is_exclusive,
                                         .late_ns = 1000000 } };
    return open_with(&config, n);
}

TEST(what_kept_earlier_runs_waiting_is_forgotten_when_one_is_fast)
{
    setup();
    tp_error err = { 0 };
    CHECK_INT(0, tp_agent_open(&device, engine, 1, &devices, &err));
    device.site = 1;
    tp_runs *runs = &func->classes[0].runs[1]; /* of one item on the device: each waited for 1 s */
    runs->n = TP_RUNS_KEPT;
    for (int i = 0; i < TP_RUNS_KEPT; i++)
        runs->item_ns[i] = 1e9;
    tp_job *job = open_beside(1, NULL, true);
    tp_slice *s = take_there();
    CHECK(s);
    finish(s, 1);
    CHECK(runs->item_ns[runs->last] > 0 && runs->item_ns[runs->last] < 5e8f);
    tp_job_close(job);
    tp_agent_close(&device);
    tear_down();
}

TEST(workers_are_woken_for_each_slice_that_is_late)
{
    setup();
    tp_error err = { 0 };
    tp_agent other;
    CHECK_INT(0, tp_agent_open(&other, engine, 1, &devices, &err));
    CHECK_INT(0, tp_agent_open(&device, engine, 2, &devices, &err));
    device.site = other.site = 1;
    tp_job *job = open_beside(2, NULL, false);
    tp_slice *first = take_there();
    uv_mutex_lock(tp_engine_lock(engine));
    tp_slice *second = tp_job_take_locked(engine, &devices, &other);
    uv_mutex_unlock(tp_engine_lock(engine));
    CHECK(first && second);
    usleep(2000);
    offered = 0;
    tp_engine_share(engine);
    CHECK(offered >= 2);
    CHECK(is_unwanted(first) && is_unwanted(second));
    tp_job_finish(first);
    CHECK_INT(1, (int)devices.lost_sites);
    tp_job_finish(second);
    CHECK_INT(0, (int)devices.lost_sites);
    for (int i = 0; i < 2; i++)
        CHECK_INT(i, run(1));
    tp_job_close(job);
    tp_agent_close(&other);
    tp_agent_close(&device);
    tear_down();
}

TEST(workers_run_what_a_site_does_not_come_back_from)
{
    setup();
    tp_error err = { 0 };
    CHECK_INT(0, tp_agent_open(&device, engine, 1, &devices, &err));
    device.site = 1;
    tp_job *job = open_beside(3, NULL, false);
    CHECK(idle_until() > 0); /* who sleeps is not told that a site begins something */
    tp_slice *there = take_there();
    CHECK(there);
    CHECK_INT(0, (int)there->work.block->first);
    CHECK(tp_engine_share(engine) > 0); /* when it is to be looked again */
    CHECK(idle_until() > 0);
    CHECK(!is_unwanted(there));
    usleep(2000);
    offered = 0;
    tp_engine_share(engine);
    CHECK(is_unwanted(there));
    CHECK(tp_work_is_asked_to_stop(&there->work));
    CHECK(offered > 0);
    int site = -1;
    CHECK_INT(1, (int)tp_job_lost_items(job, &site));
    CHECK_INT(0, site);
    CHECK(!take_there());
    for (int i = 0; i < 3; i++)
        CHECK_INT(i, run(1));
    for (int i = 0; i < 3; i++)
        CHECK_INT(i, next(job));
    CHECK(tp_job_is_over(job));
    tp_job_close(job);

    /* a later job goes to no device that has not come back */
    job = open_beside(1, NULL, false);
    CHECK(!take_there());
    CHECK_INT(0, run(1));
    CHECK_INT(0, next(job));
    tp_job_close(job);

    finish(there, 1); /* which nobody gets */
    job = open_beside(1, NULL, false);
    there = take_there();
    CHECK(there);
    finish(there, 1);
    usleep(2000);
    tp_engine_share(engine); /* one that is over is not late */
    CHECK_INT(0, next(job));
    CHECK_INT(-1, next(job));
    tp_job_close(job);
    tp_agent_close(&device);
    tear_down();
}

static unsigned freed;

static void count_free(tp_ref *r)
{
    (void)r;
    freed++;
}

static const tp_ref_type counted = { "counted", count_free };

TEST(a_site_that_comes_back_writes_to_no_array_that_others_write_to)
{
    setup();
    tp_error err = { 0 };
    CHECK_INT(0, tp_agent_open(&device, engine, 1, &devices, &err));
    device.site = 1;
    tp_array array = { 0 };
    tp_ref_init(&array.ref, &counted);
    tp_job *job = open_beside(2, &array, false);
    tp_ref_drop(&array.ref);
    tp_slice *there = take_there();
    CHECK(there && there->work.terms->returns.array[0] == &array);
    usleep(2000);
    tp_engine_share(engine);
    tp_slice *s = take();
    CHECK_INT(0, (int)s->work.block->first);
    CHECK(s->work.terms->returns.columns == 1 && !s->work.terms->returns.array[0]);
    finish(s, 1);
    tp_job_cancel(job);
    tp_job_close(job);
    CHECK_INT(0, (int)freed); /* the site may still write there */
    tp_job_finish(there);
    CHECK_INT(1, (int)freed);
    tp_agent_close(&device);
    tear_down();
}

/* ---- what is shown of maps inside of items ---- */

/* The worker and its process are slow here: results are handed over when the item behind them has
 * long opened its map. */
TEST(maps_inside_of_an_item_are_shown_when_the_items_before_it_have_been_handed_over)
{
    setup();
    tp_inside inside = { 0 };
    tp_afar afar = { 0 };
    func->item_ns = 1;
    tp_job *job;
    tp_job_config config = { .func = func,
                             .executor = &executor,
                             .waiter = &waiter,
                             .ordered = true,
                             .is_cheap = true,
                             .total = 64 };
    tp_error err = { 0 };
    CHECK_INT(0, tp_job_open(&job, engine, &config, &err));
    tp_block *b = tp_block_new_columns(64, 1, NULL, 0);
    CHECK(b);
    b->n = 64;
    CHECK_INT(0, tp_job_push(job, b));
    tp_job_end(job);
    tp_slice *s = take();
    CHECK(s && s->work.count >= 2);

    tp_inside_map *m = &inside.maps[0];
    atomic_store(&m->opened_ns, uv_hrtime());
    atomic_store(&m->number, 7);
    tp_agent_show_inside(&agent, &inside, 1234);
    tp_afar said = { .taken_ns = s->taken_ns, .host = "elsewhere", .maps = 1 };
    tp_agent_tell_afar(&agent, &afar, &said);
    tp_job_view views[4];
    uint64_t others;
    CHECK_INT(3, (int)tp_engine_list_jobs(engine, views, 4, &others));
    usleep(2000);
    tp_block *result = tp_block_new_columns(1, 1, NULL, 0);
    CHECK(result);
    result->n = 1;
    tp_work_append(&s->work, result, s->work.at);
    s->work.at++;
    tp_slice_hand_over(s, uv_hrtime());
    CHECK_INT(0, next(job));
    CHECK_INT(3, (int)tp_engine_list_jobs(engine, views, 4, &others));

    tp_job_finish(s);
    CHECK_INT(1, (int)tp_engine_list_jobs(engine, views, 4, &others));
    tp_job_cancel(job);
    tp_job_close(job);
    tear_down();
}

/* Results that come in any order: slices are nested, so that they can be finished behind each
 * other. */
TEST(results_are_given_out_in_order_in_whatever_order_they_come)
{
    enum { N = 500, DEPTH = 40 };
    setup();
    tp_job *job = open_job(N, (tp_retries){ 0 });
    tp_slice *taken[DEPTH];
    bool is_finished[N + 1] = { false };
    unsigned n_taken = 0, random = 1;
    int given = 0, finished = 0;
    while (given < N) {
        random = random * 1103515245u + 12345u;
        tp_slice *s = n_taken < DEPTH && (n_taken == 0 || random >> 16 & 1) ? take() : NULL;
        if (s) {
            taken[n_taken++] = s;
        } else if (n_taken > 0) {
            s = taken[--n_taken];
            is_finished[s->work.block->first] = true;
            finish(s, 1);
            finished++;
        }
        if (random % 5 == 0 || finished == N)
            for (int i; (i = next(job)) >= 0;) {
                CHECK(is_finished[given]);
                CHECK_INT(given, i);
                given++;
            }
        CHECK(given == N || finished < N);
    }
    tp_job_close(job);
    tear_down();
}

TEST(results_that_wait_for_their_turn_are_freed_with_the_job)
{
    setup();
    tp_job *job = open_job(MANY, (tp_retries){ 0 });
    tp_slice *first = take();
    for (int i = 1; i < MANY; i++)
        CHECK_INT(i, run(1));
    CHECK_INT(-1, next(job));
    finish(first, 1);
    CHECK_INT(0, next(job));
    tp_job_close(job);
    tear_down();
}
