/* trace_test.c: the ring of events, and what a host notes in it. */
#include "harness.h"

#include "codec/glance.h"
#include "codec/message.h"
#include "runtime/runtime.h"
#include "trace/chrome.h"
#include "trace/report.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

enum { WRITERS = 4, EACH = 20000 };

static const tp_event *find(const tp_event *events, size_t n, tp_event_kind kind)
{
    for (size_t i = 0; i < n; i++)
        if (events[i].kind == kind)
            return &events[i];
    return NULL;
}

/* Of a generator of its own, so that a failure can be repeated. */
static uint64_t next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 33;
}

TEST(a_report_stays_small_however_much_runs)
{
    enum { WORKERS = 5, ITEMS = 400000 };
    uint64_t now[WORKERS + 1] = { 0 }, state = 1;
    tp_trace t = { 0 };
    tp_buf page = { 0 };
    CHECK_INT(0, tp_trace_start(&t, 4, NULL));
    for (int w = 1; w <= WORKERS; w++)
        tp_trace_add_track(&t, (uint32_t)w, "threads", w, false);
    tp_report *r = tp_report_new(&t, 0, WORKERS, false);
    tp_event open = { 1, TP_EVENT_OPEN, 0, 1, 0, tp_trace_name(&t, "f", 1) };
    CHECK_INT(0, tp_report_add(r, &open));
    for (uint64_t i = 0; i < ITEMS; i++) {
        uint32_t w = 1 + (uint32_t)(i % WORKERS);
        /* none of them short, so that the first coarse drawing joins nothing */
        uint64_t begun = now[w] + next_random(&state) % 100000;
        now[w] = begun + 1000000 + next_random(&state) % 20000000;
        tp_event begin = { begun, TP_EVENT_BEGIN, w, 1, i, 1 };
        tp_event end = { now[w], TP_EVENT_END, w, 1, i, 1 };
        tp_event input = { now[w], TP_EVENT_INPUT, w, 0x4141414141414141,
                           0x4242424242424242, 0x43 };
        CHECK(tp_report_add(r, &begin) == 0 && tp_report_add(r, &end) == 0 &&
              tp_report_add(r, &input) == 0);
    }
    tp_event close = { now[1], TP_EVENT_CLOSE, 0, 1, 0, 0 };
    CHECK_INT(0, tp_report_add(r, &close));
    CHECK_INT(0, tp_report_end(r, now[1], &page));
    CHECK(page.len < 2000000);
    CHECK_INT(0, tp_buf_add(&page, "", 1));
    CHECK(strstr((const char *)page.data, "\"items\":400000"));
    CHECK(strstr((const char *)page.data, "\"input\":\"AAAAAAAABBBBBBBBC\""));
    tp_buf_free(&page);
    tp_report_free(r);
    tp_trace_close(&t);
}

static unsigned count_of(const tp_buf *b, const char *text)
{
    unsigned n = 0;
    for (const char *at = (const char *)b->data; (at = strstr(at, text)); at++)
        n++;
    return n;
}

/* Items whose maps have no end, since the events of that were too many, or have none of their own:
 * what they are in ends them. */
TEST(what_has_no_end_is_over_with_what_it_is_in)
{
    enum { TIMES = 1500, STEP_NS = 10 * 1000 * 1000 };
    tp_trace t = { 0 };
    tp_buf page = { 0 }, lines = { 0 };
    CHECK_INT(0, tp_trace_start(&t, 4, NULL));
    tp_trace_add_track(&t, 1, "cluster far", 1, false);
    const uint32_t outer = tp_trace_name(&t, "outer", 5), inner = tp_trace_name(&t, "inner", 5);
    tp_report *r = tp_report_new(&t, 0, 1, false);
    tp_chrome *c = tp_chrome_new(&t, 0);
    tp_event open = { 1, TP_EVENT_OPEN, 0, 1, 0, outer };
    CHECK(tp_report_add(r, &open) == 0 && tp_chrome_add(c, &open, &lines) == 0);
    for (uint64_t i = 0, now = STEP_NS; i < TIMES; i++, now += STEP_NS) {
        const uint64_t half = now + STEP_NS / 2, end = now + STEP_NS - 1000,
                       job = (uint64_t)77 << 32 | (i + 1);
        const tp_event events[] = { { now, TP_EVENT_BEGIN, 1, 1, i, 1 },
                                    { half, TP_EVENT_OPEN, 1, job, 1, inner },
                                    { half, TP_EVENT_BEGIN, 1, job, 0, 1 },
                                    { half, TP_EVENT_END, 1, job + 1, 0, 1 }, /* of nobody */
                                    { half, TP_EVENT_OMIT, 1, 0, 0, 2 },
                                    { end, TP_EVENT_END, 1, 1, i, 1 } };
        for (size_t k = 0; k < sizeof events / sizeof *events; k++)
            CHECK(tp_report_add(r, &events[k]) == 0 && tp_chrome_add(c, &events[k], &lines) == 0);
    }
    CHECK_INT(0, tp_buf_add(&lines, "", 1));
    CHECK_INT(TIMES, count_of(&lines, "\"cat\":\"items\",\"name\":\"outer #"));
    CHECK_INT(TIMES, count_of(&lines, "\"cat\":\"items\",\"name\":\"inner #"));
    CHECK_INT(TIMES, count_of(&lines, "\"ph\":\"b\",\"cat\":\"map\""));
    CHECK_INT(TIMES, count_of(&lines, "\"ph\":\"e\",\"cat\":\"map\""));
    CHECK_INT(0, tp_report_end(r, (TIMES + 1) * (uint64_t)STEP_NS, &page));
    CHECK_INT(0, tp_buf_add(&page, "", 1));
    /* of 10 ms without 1 us each, and of the half of that */
    CHECK_INT(1, count_of(&page,
                          "\"items\":1500,\"failures\":0,\"retries\":0,\"seconds\":14.9985,"));
    CHECK_INT(1, count_of(&page, "\"items\":1500,\"failures\":0,\"retries\":0,\"seconds\":7.4985,"
                                 "\"self\":7.4985,\"longest\":0.004999,\"active\":7.4985,"));
    tp_buf_free(&page);
    tp_buf_free(&lines);
    tp_report_free(r);
    tp_chrome_free(c);
    tp_trace_close(&t);
}

TEST(values_are_shown_in_short_and_whatever_the_bytes_are)
{
    static const uint8_t values[] = {
        6, 7, T_INT8, 0xff, T_TRUE, T_SHORT + 3, 'a', '"', '\n', T_TABLE, 2, 0, 0, 0, 1, 0, 0, 0,
        1, 2, T_SHORT + 1, 'k', T_NIL, T_FUNC
    };
    char text[32];
    tp_glance_message(values, sizeof values, text, sizeof text);
    CHECK_STR("7, -1, true, \"a\\\"\\n\", {1, 2,...", text);
    tp_glance_message((const uint8_t *)"\1\5", 2, text, sizeof text);
    CHECK_STR("5", text);
    for (size_t len = 0; len < sizeof values; len++) /* cut off anywhere */
        tp_glance_message(values, len, text, sizeof text);
    uint64_t state = 1;
    for (int i = 0; i < 200000; i++) {
        uint8_t bytes[40];
        size_t len = next_random(&state) % sizeof bytes;
        for (size_t k = 0; k < len; k++)
            bytes[k] = (uint8_t)(next_random(&state) % (k % 3 ? 256 : 3));
        tp_glance_message(bytes, len, text, 8 + next_random(&state) % 24);
        CHECK(strlen(text) < sizeof text);
    }
}

TEST(nothing_is_written_while_nobody_listens)
{
    tp_trace t = { 0 };
    tp_event events[4];
    tp_trace_note(&t, TP_EVENT_PUSH, 1, 2, 3, 4);
    CHECK_INT(0, tp_trace_read(&t, events, 4));
    CHECK_INT(0, tp_trace_start(&t, 4, NULL));
    CHECK_INT(0, tp_trace_read(&t, events, 4));
    tp_trace_stop(&t);
    tp_trace_note(&t, TP_EVENT_PUSH, 1, 2, 3, 4);
    CHECK_INT(0, tp_trace_read(&t, events, 4));
    tp_trace_close(&t);
}

TEST(events_come_as_they_were_noted)
{
    tp_trace t = { 0 };
    tp_event events[4];
    uint64_t before = uv_hrtime();
    CHECK_INT(0, tp_trace_start(&t, 4, NULL));
    tp_trace_note(&t, TP_EVENT_TAKE, 7, 1, (uint64_t)1 << 40, 16);
    tp_trace_note(&t, TP_EVENT_FINISH, UINT32_MAX, 2, 5, UINT64_MAX);
    tp_trace_stop(&t);
    CHECK_INT(2, tp_trace_read(&t, events, 4));
    CHECK(events[0].kind == TP_EVENT_TAKE && events[0].worker == 7 && events[0].job == 1);
    CHECK(events[0].first == (uint64_t)1 << 40 && events[0].count == 16);
    CHECK(events[1].kind == TP_EVENT_FINISH && events[1].worker == UINT32_MAX &&
          events[1].count == UINT64_MAX);
    CHECK(before <= events[0].time_ns && events[0].time_ns <= events[1].time_ns &&
          events[1].time_ns <= uv_hrtime());
    CHECK_INT(0, t.lost);
    tp_trace_close(&t);
}

TEST(the_oldest_are_lost_where_there_is_no_room)
{
    tp_trace t = { 0 };
    tp_event events[16];
    CHECK_INT(0, tp_trace_start(&t, 5, NULL)); /* eight */
    for (uint64_t i = 0; i < 20; i++)
        tp_trace_note(&t, TP_EVENT_PUSH, 0, 0, i, 1);
    CHECK_INT(8, tp_trace_read(&t, events, 16));
    CHECK_INT(12, t.lost);
    for (int i = 0; i < 8; i++)
        CHECK_INT(12 + i, events[i].first);
    CHECK_INT(0, tp_trace_start(&t, 5, NULL)); /* again: from here on */
    tp_trace_note(&t, TP_EVENT_PUSH, 0, 0, 99, 1);
    CHECK_INT(1, tp_trace_read(&t, events, 16));
    CHECK_INT(99, events[0].first);
    CHECK_INT(0, t.lost);
    tp_trace_close(&t);
}

static void *write_many(void *arg)
{
    tp_trace *t = arg;
    uint32_t worker = (uint32_t)(uintptr_t)pthread_self();
    for (uint64_t i = 0; i < EACH; i++)
        tp_trace_note(t, TP_EVENT_PUSH, worker, i, i + 1, i + 2);
    return NULL;
}

/* Writers that lap the reader, and each other: what is read is whole, and all is accounted for. */
TEST(many_threads_write_while_one_reads)
{
    tp_trace t = { 0 };
    pthread_t threads[WRITERS];
    CHECK_INT(0, tp_trace_start(&t, 64, NULL));
    for (int i = 0; i < WRITERS; i++)
        CHECK_INT(0, pthread_create(&threads[i], NULL, write_many, &t));
    size_t n = 0;
    tp_event events[50];
    bool is_over = false;
    for (int ended = 0; !is_over;) {
        if (n + t.lost > EACH)
            for (; ended < WRITERS; ended++)
                pthread_join(threads[ended], NULL);
        if (ended == WRITERS)
            tp_trace_stop(&t);
        size_t got = tp_trace_read(&t, events, 50);
        for (size_t i = 0; i < got; i++)
            CHECK(events[i].first == events[i].job + 1 && events[i].count == events[i].job + 2);
        n += got;
        is_over = ended == WRITERS && got == 0;
    }
    CHECK_INT((uint64_t)WRITERS * EACH, n + t.lost);
    CHECK(n > 0);
    tp_trace_close(&t);
}

TEST(a_reader_that_keeps_up_loses_nothing)
{
    tp_trace t = { 0 };
    tp_event events[64];
    pthread_t threads[WRITERS];
    uint64_t read = 0;
    CHECK_INT(0, tp_trace_start(&t, WRITERS * EACH, NULL)); /* it never goes round */
    for (int i = 0; i < WRITERS; i++)
        CHECK_INT(0, pthread_create(&threads[i], NULL, write_many, &t));
    while (read + t.lost < WRITERS * EACH) /* also what is just being written */
        read += tp_trace_read(&t, events, 64);
    for (int i = 0; i < WRITERS; i++)
        pthread_join(threads[i], NULL);
    CHECK_INT(0, t.lost);
    CHECK_INT(WRITERS * EACH, read);
    tp_trace_close(&t);
}

/* ---- what a host notes ---- */

enum { ITEMS = 300, EVENTS = 4096 };

static const char boom_at_7[] =
    "return function(x) if x == 7 then error 'seven' end return x * x end";

static tp_value option(const char *name, tp_value value, tp_pair *pair)
{
    *pair = (tp_pair){ tp_string(name), value };
    return tp_table(pair, 1);
}

TEST(a_map_leaves_what_happens_to_its_items)
{
    tp_host *host;
    tp_error err = { 0 };
    tp_config config = { .size = sizeof config, .workers = 2 };
    CHECK_INT(0, tp_host_open(&host, &config, &err));
    tp_trace *trace = tp_engine_trace(host->engine);
    CHECK_INT(0, tp_trace_start(trace, EVENTS, &err));
    tp_function *f;
    tp_map *map;
    tp_pair pair;
    tp_value options = option("retries", tp_number(1), &pair);
    CHECK_INT(0, tp_function_from_lua(&f, host, "f", boom_at_7, &options, &err));
    double x[ITEMS];
    for (int i = 0; i < ITEMS; i++)
        x[i] = i;
    tp_pair going_on;
    tp_value call = option("return_exceptions", tp_boolean(true), &going_on);
    CHECK_INT(0, tp_map_doubles(&map, f, (const double *[]){ x }, 1, ITEMS, &call, &err));
    tp_result result;
    int n = 0;
    while (tp_map_next(map, &result, &err) == 1)
        n++;
    CHECK_INT(ITEMS, n);
    tp_trace_stop(trace);
    static tp_event events[EVENTS];
    size_t got = tp_trace_read(trace, events, EVENTS);
    CHECK_INT(0, trace->lost);
    uint64_t pushed = 0, taken = 0, finished = 0, run = 0, begun = 0;
    for (size_t i = 0; i < got; i++) {
        const tp_event *e = &events[i];
        /* from INPUT on `job` is something else */
        CHECK(e->kind == TP_EVENT_WAIT || e->kind == TP_EVENT_WAKE || e->kind >= TP_EVENT_INPUT ||
              e->job == 1);
        CHECK(e->worker <= 2);
        if (e->kind == TP_EVENT_PUSH) {
            CHECK(e->worker == 0 && e->first == pushed);
            pushed += e->count;
        }
        if (e->kind == TP_EVENT_TAKE)
            taken += e->count;
        if (e->kind == TP_EVENT_FINISH)
            finished += e->count;
        if (e->kind == TP_EVENT_BEGIN)
            begun++;
        if (e->kind == TP_EVENT_END) {
            begun--;
            run += e->count;
        }
    }
    CHECK_INT(ITEMS, pushed);
    CHECK_INT(ITEMS + 1, finished); /* one was tried twice */
    CHECK_INT(ITEMS + 1, run);
    CHECK(taken >= finished); /* some may have gone back */
    CHECK_INT(0, begun);
    const tp_event *retry = find(events, got, TP_EVENT_RETRY);
    CHECK(retry && retry->first == 7 && retry->worker > 0);
    tp_host_close(host);
}

TEST(workers_of_all_executors_have_ids_of_their_own)
{
    tp_host *host;
    tp_error err = { 0 };
    tp_agent agents[3];
    tp_config config = { .size = sizeof config, .workers = 1 };
    CHECK_INT(0, tp_host_open(&host, &config, &err));
    for (int i = 0; i < 3; i++) {
        const char *name = i == 0 ? "inline" : i == 1 ? "threads" : "opencl";
        CHECK_INT(0,
                  tp_agent_open(&agents[i], host->engine, 1, tp_host_executor(host, name), &err));
        CHECK(agents[i].worker.id > 0);
        for (int k = 0; k < i; k++)
            CHECK(agents[i].worker.id != agents[k].worker.id);
    }
    for (int i = 0; i < 3; i++)
        tp_agent_close(&agents[i]);
    tp_host_close(host);
}

TEST(texts_have_numbers)
{
    tp_trace t = { 0 };
    char text[300];
    CHECK_INT(0, tp_trace_name(&t, "early", 5)); /* nobody has ever listened */
    CHECK_STR("?", tp_trace_text(&t, 1));
    CHECK_INT(0, tp_trace_start(&t, 4, NULL));
    uint32_t one = tp_trace_name(&t, "one", 3), two = tp_trace_name(&t, "twofold", 3);
    CHECK(one > 0 && two > 0 && one != two);
    CHECK_INT(one, tp_trace_name(&t, "one", 3));
    CHECK_STR("two", tp_trace_text(&t, two));
    CHECK_STR("?", tp_trace_text(&t, 0));
    CHECK_STR("?", tp_trace_text(&t, UINT64_MAX));
    memset(text, 'x', sizeof text); /* longer ones are cut */
    uint32_t cut = tp_trace_name(&t, text, sizeof text);
    CHECK_INT(TP_NAME_MAX, strlen(tp_trace_text(&t, cut)));
    uint32_t last = 1;
    for (int i = 0; i < 40000; i++) { /* there is a most */
        int len = snprintf(text, sizeof text, "name %d", i);
        uint32_t name = tp_trace_name(&t, text, (size_t)len);
        CHECK(name == 0 || strcmp(text, tp_trace_text(&t, name)) == 0);
        last = name;
    }
    CHECK_INT(0, last);
    CHECK_INT(one, tp_trace_name(&t, "one", 3));
    tp_trace_close(&t);
}

TEST(workers_are_called_what_they_were_called_last)
{
    tp_trace t = { 0 };
    CHECK(!tp_trace_track(&t, 1));
    tp_trace_add_track(&t, 1, "threads", 3, false);
    tp_trace_add_track(&t, 2, "device", 0, true);
    CHECK_STR("threads 3", tp_trace_track(&t, 1));
    tp_trace_add_track(&t, 1, "other", 3, false);
    CHECK_STR("other 3", tp_trace_track(&t, 1));
    CHECK_STR("device", tp_trace_track(&t, 2));
    CHECK(tp_trace_is_owner(&t, 2) && !tp_trace_is_owner(&t, 1) && !tp_trace_is_owner(&t, 3));
    tp_trace_close(&t);
}
