/* api_test.c: the C API does what tidepool.h says. */
#include "api_support.h"

#include <errno.h>
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <math.h>
#include <uv.h>

/* ---- hosts ---- */

TEST(an_interrupt_ends_what_waits_and_may_be_forgotten)
{
    static const char code[] =
        "require('tidepool').App 'a':func(function(x) return x end):map({ 1, 2 }):list()";
    /* Results that are there need no wait, so that these must not be. */
    static const char slow[] =
        "require('tidepool').App 'a':func(function()"
        "  local ffi = require 'ffi' ffi.cdef 'int usleep(unsigned)' ffi.C.usleep(500000)"
        "end):map({ 1 }):list()";
    tp_host *host = open_host();
    tp_error err = { 0 };
    tp_host_interrupt(host);
    CHECK_INT(-1, tp_host_run_string(host, slow, strlen(slow), NULL, &err));
    CHECK(strstr(err.message, "interrupted") != NULL);
    OK(tp_host_run_string(host, code, strlen(code), NULL, e)); /* once */
    tp_host_interrupt(host);
    tp_host_resume(host);
    OK(tp_host_run_string(host, code, strlen(code), NULL, e));
    tp_host_close(host);
}

static void *interrupt_soon(void *host)
{
    usleep(20000); /* may come before the wait: then that does not begin */
    tp_host_interrupt(host);
    return NULL;
}

TEST(an_interrupt_ends_the_map_that_is_waited_for)
{
    tp_host *host = open_host();
    tp_map *map;
    tp_result r;
    tp_progress p;
    double x[] = { 1, 2, 3, 4, 5, 6, 7, 8 };
    for (int reads = 0; reads < 2; reads++) {
        tp_error err = { 0 };
        pthread_t thread;
        OK(tp_map_doubles(
            &map, from_lua(host, "return function(x) require('tidepool').sleep(60) return x end"),
            (const double *[]){ x }, 1, 8, NULL, e));
        CHECK_INT(0, pthread_create(&thread, NULL, interrupt_soon, host));
        CHECK_INT(-1, reads ? tp_map_read_doubles(map, x, 8, &err) : tp_map_next(map, &r, &err));
        pthread_join(thread, NULL);
        CHECK_STR("interrupted", err.message);
        CHECK_INT(TP_ELUA, err.code);
        CHECK_STR("cancelled", tp_map_failure(map)->kind);
        OK(tp_map_progress(map, &p, e));
        CHECK(p.done < 8);
        tp_map_close(map);
    }
    tp_host_close(host);
}

TEST(a_closed_host_is_null_is_fine)
{
    tp_host_close(NULL);
    tp_map_close(NULL);
    tp_function_close(NULL);
}

TEST(a_config_of_another_version_is_refused)
{
    tp_host *host = (tp_host *)1;
    tp_config config = { .size = sizeof config + 8 };
    tp_error err = { 0 };
    CHECK_INT(-1, tp_host_open(&host, &config, &err));
    CHECK_INT(TP_EUSAGE, err.code);
    CHECK(strstr(err.message, "tp_config.size"));
    config.size = 0;
    CHECK(tp_host_open(&host, &config, &err) != 0);
    CHECK(strstr(err.message, "tp_config.size is 0: it must be sizeof(tp_config)"));
    CHECK(!host);
}

TEST(an_older_and_shorter_config_is_taken)
{
    tp_host *host;
    tp_config config = { .size = offsetof(tp_config, write), .workers = 1 };
    OK(tp_host_open(&host, &config, e));
    tp_host_close(host);
}

TEST(a_trace_and_a_report_of_the_config_are_written_until_the_host_is_closed)
{
    char path[] = "/tmp/tidepool-api-trace-XXXXXX", text[1 << 17];
    char page[] = "/tmp/tidepool-api-report-XXXXXX";
    tp_host *host;
    tp_error err = { 0 };
    tp_config config = { .size = sizeof config, .workers = 1, .trace = "/nowhere/at/all" };
    CHECK_INT(-1, tp_host_open(&host, &config, &err));
    CHECK_STR("cannot write the trace /nowhere/at/all: No such file or directory", err.message);
    config.trace = NULL;
    config.report = "/nowhere/at/all";
    CHECK_INT(-1, tp_host_open(&host, &config, &err));
    CHECK_STR("cannot write the report /nowhere/at/all: No such file or directory", err.message);
    int fd = mkstemp(path), page_fd = mkstemp(page);
    CHECK(fd >= 0 && page_fd >= 0);
    config.trace = path;
    config.report = page;
    OK(tp_host_open(&host, &config, e));
    tp_function *f = from_lua(host, square);
    tp_map *map;
    double x[] = { 1, 2, 3 };
    OK(tp_map_doubles(&map, f, (const double *[]){ x }, 1, 3, NULL, e));
    tp_result result;
    while (tp_map_next(map, &result, &err) == 1)
        ;
    tp_host_close(host);
    ssize_t n = read(fd, text, sizeof text - 1);
    CHECK(n > 0);
    text[n] = '\0';
    close(fd);
    unlink(path);
    CHECK(strncmp(text, "[\n{", 3) == 0 && strcmp(text + n - 3, "\n]\n") == 0);
    CHECK(strstr(text, "\"name\":\"f #1"));
    n = read(page_fd, text, sizeof text - 1);
    CHECK(n > 0);
    text[n] = '\0';
    close(page_fd);
    unlink(page);
    CHECK(strncmp(text, "<!DOCTYPE html>", 15) == 0);
    CHECK(strstr(text, "\"items\":3,") && strcmp(text + n - 8, "</html>\n") == 0);
}

TEST(an_executor_of_the_config_must_be_one)
{
    tp_host *host;
    tp_error err = { 0 };
    tp_config config = { .size = sizeof config, .executor = "inline" };
    OK(tp_host_open(&host, &config, e));
    tp_host_close(host);
    config.executor = "nonesuch";
    CHECK_INT(-1, tp_host_open(&host, &config, &err));
    CHECK_INT(TP_EUSAGE, err.code);
    CHECK(strstr(err.message, "tp_config.executor is \"nonesuch\""));
    CHECK(!host);
    config.executor = "opencl"; /* it runs no Lua functions */
    err = (tp_error){ 0 };
    CHECK_INT(-1, tp_host_open(&host, &config, &err));
    CHECK(strstr(err.message, "tp_config.executor is \"opencl\""));
}

TEST(the_version_is_that_of_the_header)
{
    CHECK_STR(TP_VERSION, tp_version());
}

/* ---- maps ---- */

TEST(doubles_are_mapped_in_order)
{
    enum { N = 100000 };
    tp_host *host = open_host();
    tp_function *f = from_lua(host, "return function(x, y) return x + y end");
    static double x[N], y[N];
    for (int i = 0; i < N; i++) {
        x[i] = i;
        y[i] = 0.5;
    }
    const double *columns[] = { x, y };
    tp_map *map;
    OK(tp_map_doubles(&map, f, columns, 2, N, NULL, e));
    tp_result r;
    size_t n = 0;
    tp_error err = { 0 };
    while (tp_map_next(map, &r, &err) > 0) {
        CHECK_INT(n, r.index);
        CHECK_INT(1, r.n);
        CHECK(r.values[0].kind == TP_NUMBER && r.values[0].as.number == (double)n + 0.5);
        CHECK(!r.failure);
        n++;
    }
    CHECK_INT(TP_OK, err.code);
    CHECK_INT(N, n);
    CHECK_INT(0, tp_map_next(map, &r, &err));
    tp_progress p;
    OK(tp_map_progress(map, &p, e));
    CHECK_INT(N, p.total);
    CHECK_INT(N, p.done);
    CHECK_INT(0, p.failed);
    tp_map_close(map);
    tp_host_close(host);
}

TEST(results_are_read_into_an_array)
{
    enum { N = 50000 };
    tp_host *host = open_host();
    tp_function *f = from_lua(host, square);
    static double x[N], y[N];
    for (int i = 0; i < N; i++)
        x[i] = i;
    const double *columns[] = { x };
    tp_map *map;
    OK(tp_map_doubles(&map, f, columns, 1, N, NULL, e));
    OK(tp_map_read_doubles(map, y, N, e));
    for (int i = 0; i < N; i++)
        CHECK(y[i] == x[i] * x[i]);
    tp_map_close(map);

    tp_error err = { 0 };
    OK(tp_map_doubles(&map, f, columns, 1, 10, NULL, e));
    CHECK_INT(TP_NEXT_FAILED, tp_map_read_doubles(map, y, 9, &err));
    CHECK_STR("there is no room for the result of input 10: out has 9 elements", err.message);
    CHECK_INT(9, tp_map_failure(map)->index);
    tp_map_close(map);

    err = (tp_error){ 0 };
    OK(tp_map_doubles(&map, from_lua(host, "return function(x) return tostring(x) end"), columns, 1,
                      10, NULL, e));
    CHECK_INT(TP_NEXT_FAILED, tp_map_read_doubles(map, y, 9, &err));
    CHECK_STR("the result of input 1 is not one number but a string", err.message);
    CHECK_INT(TP_EUSAGE, err.code);
    CHECK_INT(0, tp_map_failure(map)->index);
    tp_host_close(host);
}

/* A reader that waits is not taken for one that has left the map, whose work would pause. */
TEST(the_next_result_may_need_a_retry_however_long_it_is_delayed)
{
    enum { N = 50 };
    static const double delays[] = { 0.001, 0.01, 0.09, 0.3, 1 };
    tp_host *host = open_host();
    double x[N];
    for (int i = 0; i < N; i++)
        x[i] = i;
    for (size_t d = 0; d < sizeof delays / sizeof *delays; d++) {
        tp_pair timing[] = { { tp_string("max"), tp_number(1) },
                             { tp_string("initial_delay"), tp_number(delays[d]) } };
        tp_pair pair;
        tp_value options = option("retries", tp_table(timing, 2), &pair);
        tp_function *f;
        tp_map *map;
        tp_result r;
        OK(tp_function_from_lua(
            &f, host, "flaky",
            "return function(x) if x % 7 == 0 and require('tidepool').current().attempt == 1 then "
            "error 'once' end return x end",
            &options, e));
        OK(tp_map_doubles(&map, f, (const double *[]){ x }, 1, N, NULL, e));
        for (int i = 0; i < N; i++) {
            CHECK_INT(1, tp_map_next(map, &r, NULL));
            CHECK_INT(i, r.index);
            CHECK(!r.failure && r.values[0].as.number == i);
        }
        CHECK_INT(0, tp_map_next(map, &r, NULL));
        tp_map_close(map);
    }
    tp_host_close(host);
}

/* It has been away, and comes back. */
TEST(the_next_result_is_computed_after_a_long_pause)
{
    enum { N = 200 };
    tp_host *host = open_host();
    double x[N];
    for (int i = 0; i < N; i++)
        x[i] = i;
    tp_map *map;
    tp_result r;
    OK(tp_map_doubles(
        &map, from_lua(host, "return function(x) require('tidepool').sleep(0.002) return x end"),
        (const double *[]){ x }, 1, N, NULL, e));
    for (int i = 0; i < N; i++) {
        CHECK_INT(1, tp_map_next(map, &r, NULL));
        CHECK(r.values[0].as.number == i);
        if (i % 90 == 0)
            usleep(200000);
    }
    CHECK_INT(0, tp_map_next(map, &r, NULL));
    tp_host_close(host);
}

TEST(a_nan_of_any_bits_is_a_nan)
{
    tp_host *host = open_host();
    union {
        uint64_t bits;
        double number;
    } x[] = { { 0xfffe800000000007 }, { 0x7ff8000000000001 }, { 0xffffffffffffffff } };
    double flat[3];
    memcpy(flat, x, sizeof flat);
    const double *columns[] = { flat };
    tp_map *map;
    OK(tp_map_doubles(&map, from_lua(host, "return function(x) return type(x), x ~= x end"),
                      columns, 1, 3, NULL, e));
    tp_result r;
    for (int i = 0; i < 3; i++) {
        CHECK_INT(1, tp_map_next(map, &r, NULL));
        CHECK_STR("number", r.values[0].as.bytes);
        CHECK(r.values[1].as.boolean);
    }
    tp_host_close(host);
}

TEST(byte_strings_keep_every_byte)
{
    tp_host *host = open_host();
    tp_map *map;
    const tp_span inputs[] = { { "a\0b", 3 }, { NULL, 0 }, { "\xff\n", 2 } };
    OK(tp_map_bytes(&map, from_lua(host, "return function(s) return s .. '|', #s end"), inputs, 3,
                    NULL, e));
    tp_result r;
    CHECK_INT(1, tp_map_next(map, &r, NULL));
    CHECK_INT(TP_BYTES, r.values[0].kind);
    CHECK_INT(4, r.values[0].n);
    CHECK(memcmp(r.values[0].as.bytes, "a\0b|", 5) == 0);
    CHECK(r.values[1].as.number == 3);
    CHECK_INT(1, tp_map_next(map, &r, NULL));
    CHECK_STR("|", r.values[0].as.bytes);
    CHECK_INT(1, tp_map_next(map, &r, NULL));
    CHECK_INT(0, tp_map_next(map, &r, NULL));
    tp_host_close(host);
}

TEST(values_of_all_kinds_go_there_and_back)
{
    tp_host *host = open_host();
    tp_map *map;
    tp_value items[] = { tp_number(1), tp_string("two"), tp_boolean(1) };
    tp_pair pairs[] = { { tp_string("list"), tp_list(items, 3) },
                        { tp_number(7), tp_number(-0.0) },
                        { tp_boolean(0), tp_nil() } };
    tp_value row[] = { tp_table(pairs, 3), tp_nil(), tp_list(NULL, 0), tp_boolean(0) };
    OK(tp_map_values(&map, from_lua(host, "return function(...) return select('#', ...), ... end"),
                     row, 4, 1, NULL, e));
    tp_result r;
    CHECK_INT(1, tp_map_next(map, &r, NULL));
    CHECK_INT(5, r.n);
    CHECK(r.values[0].as.number == 4);
    CHECK_INT(TP_TABLE, r.values[1].kind);
    CHECK_INT(2, r.values[1].n);
    const tp_value *list = tp_value_field(&r.values[1], "list");
    CHECK(list && list->kind == TP_LIST && list->n == 3);
    CHECK_STR("two", list->as.items[1].as.bytes);
    CHECK(list->as.items[2].as.boolean == 1);
    CHECK(!tp_value_field(&r.values[1], "lis"));
    CHECK(!tp_value_field(list, "list"));
    CHECK_INT(TP_NIL, r.values[2].kind);
    CHECK(r.values[3].kind == TP_LIST && r.values[3].n == 0);
    CHECK(r.values[4].kind == TP_BOOLEAN && !r.values[4].as.boolean);
    tp_host_close(host);
}

TEST(a_result_that_does_not_reach_c_fails_by_name)
{
    tp_host *host = open_host();
    tp_map *map;
    tp_error err = { 0 };
    tp_result r;
    tp_value row[] = { tp_nil() };
    OK(tp_map_values(&map, from_lua(host, "return function() return 1, { f = print } end"), row, 1,
                     1, NULL, e));
    CHECK_INT(TP_NEXT_FAILED, tp_map_next(map, &r, &err));
    CHECK_STR("input 1: result 2: a function does not reach C", err.message);
    CHECK_INT(TP_ELUA, err.code);
    CHECK_INT(TP_NO_INDEX, r.index);
    CHECK_INT(0, tp_map_failure(map)->index);
    CHECK_STR("codec", tp_map_failure(map)->kind);
    err = (tp_error){ 0 };
    OK(tp_map_values(&map, from_lua(host, "return function() local t = {} t[1] = t return t end"),
                     row, 1, 1, NULL, e));
    CHECK_INT(-1, tp_map_next(map, &r, &err));
    CHECK_STR("input 1: result 1: a table that is nested too deep, or in itself, does not reach C",
              err.message);

    /* where failures are results, it is one of them, and the map goes on */
    tp_pair pair;
    tp_value options = option("return_exceptions", tp_boolean(1), &pair),
             rows[] = { tp_number(1), tp_number(2), tp_number(3) };
    OK(tp_map_values(&map,
                     from_lua(host, "return function(x) return x == 2 and 5LL or x end"), rows, 1,
                     3, &options, e));
    for (int i = 0; i < 3; i++) {
        CHECK_INT(TP_NEXT_RESULT, tp_map_next(map, &r, &err));
        CHECK_INT(i, r.index);
        CHECK((r.failure != NULL) == (i == 1));
        if (r.failure) {
            CHECK_STR("result 1: a cdata, as a 64-bit integer is, does not reach C",
                      r.failure->message);
            CHECK_INT(1, r.failure->index);
        }
    }
    CHECK_INT(TP_NEXT_END, tp_map_next(map, &r, &err));
    tp_host_close(host);
}

TEST(no_inputs_give_no_results)
{
    tp_host *host = open_host();
    tp_map *map;
    tp_result r;
    OK(tp_map_doubles(&map, from_lua(host, square), (const double *[]){ NULL }, 1, 0, NULL, e));
    CHECK_INT(0, tp_map_next(map, &r, NULL));
    OK(tp_map_bytes(&map, from_lua(host, square), NULL, 0, NULL, e));
    CHECK_INT(0, tp_map_next(map, &r, NULL));
    OK(tp_map_values(&map, from_lua(host, square), NULL, 1, 0, NULL, e));
    CHECK_INT(0, tp_map_next(map, &r, NULL));
    tp_host_close(host);
}

/* ---- failures ---- */

static const char fails_at_3[] =
    "return function(x)\n  if x == 3 then error { code = 7 } end\n  return x\nend";

TEST(a_failure_ends_the_map_at_its_place)
{
    tp_host *host = open_host();
    double x[] = { 1, 2, 3, 4 };
    tp_map *map;
    tp_result r;
    tp_error err = { 0 };
    OK(tp_map_doubles(&map, from_lua(host, fails_at_3), (const double *[]){ x }, 1, 4, NULL, e));
    CHECK_INT(1, tp_map_next(map, &r, &err));
    CHECK_INT(1, tp_map_next(map, &r, &err));
    CHECK(!tp_map_failure(map));
    CHECK_INT(-1, tp_map_next(map, &r, &err));
    CHECK_INT(TP_ELUA, err.code);
    CHECK_STR("input 3: {code=7}", err.message);
    const tp_failure *f = tp_map_failure(map);
    CHECK(f);
    CHECK_STR("error", f->kind);
    CHECK_INT(2, f->index);
    CHECK_INT(1, f->attempts);
    CHECK(strstr(f->traceback, "f:2:"));
    CHECK(strstr(f->text, "in input 3 of map 'f'"));
    CHECK(tp_value_field(&f->value, "code")->as.number == 7);
    /* It stays failed. */
    err = (tp_error){ 0 };
    CHECK_INT(-1, tp_map_next(map, &r, &err));
    CHECK_STR("input 3: {code=7}", err.message);
    tp_map_close(map);
    tp_host_close(host);
}

TEST(with_return_exceptions_the_failure_is_a_result)
{
    tp_host *host = open_host();
    double x[] = { 1, 3, 4 };
    tp_map *map;
    tp_result r;
    tp_pair pair;
    tp_value options = option("return_exceptions", tp_boolean(1), &pair);
    OK(tp_map_doubles(&map, from_lua(host, fails_at_3), (const double *[]){ x }, 1, 3, &options,
                      e));
    CHECK_INT(1, tp_map_next(map, &r, NULL));
    CHECK(!r.failure);
    CHECK_INT(1, tp_map_next(map, &r, NULL));
    CHECK(r.failure && r.index == 1 && r.failure->index == 1);
    CHECK_STR("{code=7}", r.failure->message);
    CHECK_INT(1, tp_map_next(map, &r, NULL));
    CHECK(!r.failure && r.values[0].as.number == 4);
    CHECK_INT(0, tp_map_next(map, &r, NULL));
    tp_host_close(host);
}

TEST(a_message_is_cut_between_characters)
{
    tp_host *host = open_host();
    for (int i = 0; i < 4; i++) {
        char code[100];
        tp_error err = { 0 };
        int n =
            snprintf(code, sizeof code, "error(('x'):rep(%d) .. ('\xe2\x82\xac'):rep(400), 0)", i);
        CHECK_INT(-1, tp_host_run_string(host, code, (size_t)n, NULL, &err));
        size_t len = strlen(err.message);
        CHECK(len >= sizeof err.message - 4);
        CHECK_STR("\xe2\x82\xac...", err.message + len - 6);
    }
    tp_host_close(host);
}

TEST(an_error_is_that_of_the_last_call)
{
    tp_host *host = open_host();
    tp_error err = { 0 };
    tp_function *f;
    CHECK_INT(-1, tp_function_find(&f, host, "one", &err));
    CHECK_INT(-1, tp_function_find(&f, host, "two", &err));
    CHECK(strstr(err.message, "two"));
    CHECK_INT(0, tp_host_step(host, &err));
    CHECK_INT(TP_OK, err.code);
    CHECK_STR("", err.message);
    tp_host_close(host);
}

TEST(the_end_a_failure_a_misuse_and_a_timeout_are_told_apart)
{
    tp_host *host = open_host();
    double x[] = { 1, 2, 3 };
    const double *columns[] = { x };
    tp_error err;
    tp_map *map;
    tp_result r;
    OK(tp_map_doubles(
        &map, from_lua(host, "return function(x) if x == 2 then error('two', 0) end return x end"),
        columns, 1, 3, NULL, e));
    CHECK_INT(TP_NEXT_REFUSED, tp_map_next(map, NULL, &err));
    CHECK_INT(TP_NEXT_RESULT, tp_map_next(map, &r, &err));
    for (int i = 0; i < 2; i++) {
        CHECK_INT(TP_NEXT_FAILED, tp_map_next(map, &r, &err));
        CHECK_INT(TP_ELUA, err.code);
        CHECK_STR("input 2: two", err.message);
        CHECK_INT(1, tp_map_failure(map)->index);
        CHECK(strstr(tp_map_failure(map)->text, "in input 2 of"));
        CHECK_INT(TP_NEXT_FAILED, tp_map_read_doubles(map, x, 3, &err));
    }
    tp_map_close(map);
    CHECK_INT(TP_NEXT_REFUSED, tp_map_next(map, &r, &err));
    CHECK_INT(TP_EUSAGE, err.code);
    CHECK_INT(TP_NEXT_REFUSED, tp_map_read_doubles(map, x, 3, &err));
    OK(tp_map_doubles(&map, from_lua(host, square), columns, 1, 1, NULL, e));
    CHECK_INT(TP_NEXT_RESULT, tp_map_next(map, &r, &err));
    CHECK_INT(TP_NEXT_END, tp_map_next(map, &r, &err));
    CHECK_INT(TP_OK, err.code);
    CHECK_INT(TP_NEXT_END, tp_map_next_timeout(map, &r, 0, &err));
    CHECK_INT(TP_NEXT_END, tp_map_read_doubles(map, x, 3, &err));
    tp_host_close(host);
}

TEST(options_are_a_line_each)
{
    tp_host *host = open_host();
    double x[] = { 1, 2 };
    const double *columns[] = { x };
    tp_function *f;
    tp_map *map;
    tp_result r;
    tp_error err;
    tp_option_list o = tp_no_options();
    tp_option_number(&o, "concurrency_limit", 2);
    tp_option_string(&o, "executor", "inline");
    OK(tp_function_from_lua(&f, host, "f", "return function(x) error('x') end", tp_option_table(&o),
                            e));
    o = tp_no_options();
    tp_option_boolean(&o, "return_exceptions", 1);
    OK(tp_map_doubles(&map, f, columns, 1, 2, tp_option_table(&o), e));
    CHECK_INT(TP_NEXT_RESULT, tp_map_next(map, &r, NULL));
    CHECK_STR("error", r.failure->kind);
    OK(tp_map_doubles(&map, f, columns, 1, 0, tp_option_table(&(tp_option_list){ .n = 0 }), e));
    o = tp_no_options();
    tp_option_number(&o, "retris", 3);
    CHECK_INT(-1, tp_function_from_lua(&f, host, "f", square, tp_option_table(&o), &err));
    CHECK_STR("options: unknown option 'retris' (did you mean 'retries'?)", err.message);
    for (int i = 0; i < 2 * TP_OPTIONS_MAX; i++)
        tp_option_value(&o, "retries", tp_number(i));
    CHECK_INT(-1, tp_function_from_lua(&f, host, "f", square, tp_option_table(&o), &err));
    CHECK_STR("there are 65 options, and room for 32", err.message);
    tp_host_close(host);
}

/* ---- Lua code on the owner's thread ---- */

static char printed[200];

static void keep_line(void *user, int fd, const char *bytes, size_t len)
{
    (void)user, (void)fd;
    strncat(printed, bytes, len);
}

TEST(code_is_run_and_called_by_name)
{
    tp_host *host;
    tp_config config = { .size = sizeof config, .workers = 2, .write = keep_line };
    OK(tp_host_open(&host, &config, e));
    static const char code[] = "local app = require('tidepool').App 'math'\n"
                               "half = app:func(function(x) print('half', x) return x / 2 end)\n"
                               "function add(a, b) return a + b, { 'sum' } end\n"
                               "app:main { name = 'go' } (function(x) local t = half:map({ x, x "
                               "}):list() return t[1] + t[2] end)\n";
    OK(tp_host_run_string(host, code, strlen(code), NULL, e));
    tp_values out;
    tp_value args[] = { tp_number(3), tp_number(4) };
    OK(tp_host_call(&out, host, "add", args, 2, e));
    CHECK_INT(2, out.n);
    CHECK(out.items[0].as.number == 7);
    CHECK_STR("sum", out.items[1].as.items[0].as.bytes);
    OK(tp_host_call(&out, host, "go", args, 1, e));
    CHECK(out.items[0].as.number == 3);
    CHECK_STR("half\t3\nhalf\t3\n", printed);
    OK(tp_host_call(&out, host, NULL, args, 1, e));
    CHECK(out.items[0].as.number == 3);
    OK(tp_host_call(NULL, host, "half", args, 1, e));
    OK(tp_host_call(&out, host, "table.concat", (tp_value[]){ tp_list(args, 2), tp_string("-") }, 2,
                    e));
    CHECK_STR("3-4", out.items[0].as.bytes);
    tp_function *f;
    tp_map *map;
    tp_result r;
    OK(tp_function_find(&f, host, "math.half", e));
    OK(tp_map_values(&map, f, args, 1, 2, NULL, e));
    CHECK_INT(1, tp_map_next(map, &r, NULL));
    CHECK(r.values[0].as.number == 1.5);
    tp_host_close(host);
}

TEST(nothing_that_lua_code_writes_reaches_the_files_of_the_program)
{
    static const char code[] = "local function say(x) print('a') io.write('b\\n') "
                               "io.stdout:write('c\\n') io.stderr:write('d\\n') return x end\n"
                               "say() require('tidepool').App('t'):func(say):map({ 1 }):list()\n";
    char path[] = "/tmp/tidepool_api_test_XXXXXX", found[10];
    int file = mkstemp(path), kept[2] = { dup(1), dup(2) };
    unlink(path);
    dup2(file, 1);
    dup2(file, 2);
    for (int is_kept = 0; is_kept < 2; is_kept++) {
        tp_host *host;
        tp_config config = { .size = sizeof config,
                             .workers = 2,
                             .write = is_kept ? keep_line : NULL };
        OK(tp_host_open(&host, &config, e));
        OK(tp_host_run_string(host, code, strlen(code), NULL, e));
        tp_host_close(host);
    }
    fflush(stdout);
    dup2(kept[0], 1);
    dup2(kept[1], 2);
    CHECK_INT(0, pread(file, found, sizeof found, 0));
    CHECK_STR("a\nb\nc\nd\na\nb\nc\nd\n", printed);
}

TEST(what_code_raises_has_its_line_and_traceback)
{
    tp_host *host = open_host();
    tp_error err = { 0 };
    static const char code[] = "local function deep()\n  error 'no'\nend\ndeep()\nreturn 1";
    CHECK_INT(-1, tp_host_run_string(host, code, strlen(code), "=code", &err));
    CHECK_INT(TP_ELUA, err.code);
    CHECK_STR("code:2: no", err.message);
    const tp_failure *f = tp_host_failure(host);
    CHECK(f && f->index == TP_NO_INDEX);
    CHECK(strstr(f->traceback, "code:2: in function"));
    CHECK(strstr(f->traceback, "code:4: in main chunk"));
    err = (tp_error){ 0 };
    CHECK_INT(-1, tp_host_run_string(host, "os.exit(3)", 10, "=code", &err));
    CHECK_STR("code:1: os.exit(3) called in an embedded host", err.message);
    err = (tp_error){ 0 };
    CHECK_INT(-1, tp_host_run_file(host, "/nowhere.lua", &err));
    CHECK_STR("cannot open /nowhere.lua: No such file or directory", err.message);
    OK(tp_host_run_string(host, "", 0, NULL, e));
    CHECK(!tp_host_failure(host));
    tp_host_close(host);
}

TEST(names_that_are_not_there_or_not_clear_are_told)
{
    tp_host *host = open_host();
    tp_error err = { 0 };
    CHECK_INT(-1, tp_host_call(NULL, host, "nobody", NULL, 0, &err));
    CHECK_STR("there is no entry, decorated function or global function 'nobody'", err.message);
    err = (tp_error){ 0 };
    CHECK_INT(-1, tp_host_call(NULL, host, NULL, NULL, 0, &err));
    CHECK_STR("there is no entry (app:main)", err.message);
    static const char code[] =
        "for _, name in ipairs { 'a', 'b' } do\n"
        "  local app = require('tidepool').App(name)\n"
        "  app:func { name = 'f' } (function() end)\n  app:main(function() end)\nend";
    OK(tp_host_run_string(host, code, strlen(code), NULL, e));
    tp_function *f;
    err = (tp_error){ 0 };
    CHECK_INT(-1, tp_function_find(&f, host, "f", &err));
    CHECK_STR("there are several functions 'f': a.f, b.f", err.message);
    err = (tp_error){ 0 };
    CHECK_INT(-1, tp_host_call(NULL, host, NULL, NULL, 0, &err));
    CHECK_STR("there are 2 entries: name one", err.message);
    OK(tp_function_find(&f, host, "b.f", e));
    tp_host_close(host);
}

TEST(a_function_that_was_made_is_found_by_its_name)
{
    tp_host *host = open_host();
    tp_function *one = from_lua(host, square), *two, *found;
    tp_error err;
    tp_values values;
    tp_value three = tp_number(3);
    double x[] = { 3 };
    const double *columns[] = { x };
    tp_map *map;
    OK(tp_function_find(&found, host, "f", e));
    CHECK(found != one);
    OK(tp_map_doubles(&map, found, columns, 1, 1, NULL, e));
    OK(tp_map_read_doubles(map, x, 1, e));
    CHECK(x[0] == 9);
    OK(tp_host_call(&values, host, "f", &three, 1, e));
    CHECK(values.items[0].as.number == 9);
    two = from_lua(host, square);
    CHECK_INT(-1, tp_function_find(&found, host, "f", &err));
    CHECK_STR("there are several functions 'f': f, f", err.message);
    tp_function_close(one);
    OK(tp_function_find(&found, host, "f", e));
    tp_function_close(two);
    CHECK_INT(-1, tp_function_find(&found, host, "f", &err));
    tp_host_close(host);
}

TEST(code_that_is_run_again_makes_its_apps_again)
{
    tp_host *host = open_host();
    tp_function *f;
    tp_error err;
    tp_values values;
    char code[200];
    for (int i = 1; i <= 50; i++) {
        snprintf(code, sizeof code,
                 "local app = require('tidepool').App 'job'\n"
                 "app:func { name = 'f' } (function() return %d end)\napp:main { name = 'm' } "
                 "(function() end)",
                 i);
        OK(tp_host_run_string(host, code, strlen(code), "=job", e));
    }
    OK(tp_function_find(&f, host, "f", e));
    OK(tp_host_call(&values, host, "f", NULL, 0, e));
    CHECK(values.items[0].as.number == 50);
    OK(tp_host_call(NULL, host, "m", NULL, 0, e));
    /* One that fails leaves those before, and of its own nothing. */
    strcat(code, "\nerror 'no'");
    CHECK_INT(-1, tp_host_run_string(host, code, strlen(code), "=job", &err));
    OK(tp_function_find(&f, host, "f", e));
    /* Other code has Apps of its own. */
    static const char other[] =
        "require('tidepool').App 'job':func { name = 'g' } (function() return 'g' end)";
    OK(tp_host_run_string(host, other, strlen(other), NULL, e));
    OK(tp_host_run_string(host, other, strlen(other), NULL, e));
    OK(tp_function_find(&f, host, "f", e));
    OK(tp_function_find(&f, host, "g", e));
    tp_host_close(host);
}

/* ---- C functions ---- */

static int count_and_scale(void *user, tp_call *call, const tp_value *in, size_t n)
{
    atomic_fetch_add((atomic_int *)user, 1);
    if (n != 1 || in[0].kind != TP_NUMBER)
        return tp_call_fail(call, "one number expected");
    if (in[0].as.number < 0)
        return 5;
    tp_value items[] = { tp_number(in[0].as.number * 10), tp_string("x") };
    tp_pair pair = { tp_string("key"), tp_list(items, 2) };
    tp_value results[] = { items[0], tp_table(&pair, 1) };
    return tp_call_return(call, results, 2);
}

TEST(a_c_function_is_mapped)
{
    enum { N = 5000 };
    tp_host *host = open_host();
    tp_function *f;
    tp_map *map;
    tp_result r;
    atomic_int calls = 0;
    static double x[N];
    for (int i = 0; i < N; i++)
        x[i] = i;
    OK(tp_function_from_c(&f, host, "scale", count_and_scale, &calls, NULL, e));
    OK(tp_map_doubles(&map, f, (const double *[]){ x }, 1, N, NULL, e));
    for (int i = 0; i < N; i++) {
        CHECK_INT(1, tp_map_next(map, &r, NULL));
        CHECK(r.values[0].as.number == i * 10);
        CHECK_STR("x", tp_value_field(&r.values[1], "key")->as.items[1].as.bytes);
    }
    CHECK_INT(0, tp_map_next(map, &r, NULL));
    CHECK_INT(N, calls);
    tp_host_close(host);
}

TEST(a_c_function_fails_with_its_message)
{
    tp_host *host = open_host();
    tp_function *f;
    tp_map *map;
    tp_result r;
    atomic_int calls = 0;
    tp_pair pair;
    tp_value options = option("return_exceptions", tp_boolean(1), &pair);
    tp_value rows[] = { tp_string("no"), tp_number(-1), tp_number(2),
                        tp_list((tp_value[]){ tp_nil() }, 0) };
    OK(tp_function_from_c(&f, host, "scale", count_and_scale, &calls, NULL, e));
    OK(tp_map_values(&map, f, rows, 1, 4, &options, e));
    CHECK_INT(1, tp_map_next(map, &r, NULL));
    CHECK_STR("one number expected", r.failure->message);
    CHECK_INT(1, tp_map_next(map, &r, NULL));
    CHECK_STR("scale failed with code 5", r.failure->message);
    CHECK_INT(1, tp_map_next(map, &r, NULL));
    CHECK(!r.failure && r.values[0].as.number == 20);
    CHECK_INT(1, tp_map_next(map, &r, NULL));
    CHECK_STR("one number expected", r.failure->message);
    tp_host_close(host);
}

static int reenter(void *user, tp_call *call, const tp_value *in, size_t n)
{
    (void)in, (void)n;
    tp_error err = { 0 };
    tp_function *f;
    if (tp_function_find(&f, user, "x", &err) == 0)
        return 0;
    tp_value code = tp_number(err.code);
    return tp_call_return(call, &code, 1);
}

TEST(a_c_function_may_not_call_the_host)
{
    tp_host *host = open_host();
    tp_function *f;
    tp_map *map;
    tp_result r;
    tp_pair pair;
    tp_value options = option("executor", tp_string("inline"), &pair), row = tp_nil();
    OK(tp_function_from_c(&f, host, "reenter", reenter, host, NULL, e));
    OK(tp_map_values(&map, f, &row, 1, 1, NULL, e));
    CHECK_INT(1, tp_map_next(map, &r, NULL));
    CHECK_INT(TP_ETHREAD, r.values[0].as.number);
    OK(tp_function_from_c(&f, host, "reenter", reenter, host, &options, e));
    OK(tp_map_values(&map, f, &row, 1, 1, NULL, e));
    CHECK_INT(1, tp_map_next(map, &r, NULL));
    CHECK_INT(TP_EBUSY, r.values[0].as.number);
    tp_host_close(host);
}

static int fail_and_say_fine(void *user, tp_call *call, const tp_value *in, size_t n)
{
    (void)user;
    tp_call_return(call, in, n);
    tp_call_fail(call, "it did not work");
    return 0;
}

TEST(a_c_function_that_has_failed_fails_whatever_it_returns)
{
    tp_host *host = open_host();
    tp_function *f;
    tp_map *map;
    tp_result r;
    tp_error err;
    tp_value row = tp_nil();
    OK(tp_function_from_c(&f, host, "fails", fail_and_say_fine, NULL, NULL, e));
    OK(tp_map_values(&map, f, &row, 1, 1, NULL, e));
    CHECK_INT(TP_NEXT_FAILED, tp_map_next(map, &r, &err));
    CHECK(strstr(err.message, "it did not work"));
    tp_host_close(host);
}

/* ---- threads ---- */

typedef struct attempt {
    tp_host *host;
    tp_function *f;
    tp_map *map;
    tp_error errors[6];
    int fd, timeout, stopped;
    tp_code closed;
    const tp_failure *failure;
} attempt;

static void *call_from_elsewhere(void *user)
{
    attempt *a = user;
    tp_map *map;
    tp_function *f;
    tp_result r;
    double x = 1;
    tp_map_doubles(&map, a->f, (const double *[]){ &x }, 1, 1, NULL, &a->errors[0]);
    tp_map_next(a->map, &r, &a->errors[1]);
    tp_function_find(&f, a->host, "f", &a->errors[2]);
    tp_host_run_string(a->host, "", 0, NULL, &a->errors[3]);
    tp_map_cancel(a->map, &a->errors[4]);
    tp_host_step(a->host, &a->errors[5]);
    tp_map_close(a->map);
    tp_function_close(a->f);
    a->fd = tp_host_fd(a->host);
    a->timeout = tp_host_timeout(a->host);
    a->stopped = tp_host_stop(a->host, 0);
    a->failure = tp_host_failure(a->host);
    a->closed = tp_host_close(a->host);
    return NULL;
}

TEST(calls_from_another_thread_are_refused)
{
    tp_host *host = open_host();
    attempt a = { .host = host, .f = from_lua(host, square) };
    double x[] = { 2, 3 };
    OK(tp_map_doubles(&a.map, a.f, (const double *[]){ x }, 1, 2, NULL, e));
    CHECK_INT(-1, tp_host_run_string(host, "error 'mine'", 12, "=code", NULL));
    CHECK_STR("code:1: mine", tp_host_failure(host)->message);
    pthread_t thread;
    CHECK_INT(0, pthread_create(&thread, NULL, call_from_elsewhere, &a));
    pthread_join(thread, NULL);
    CHECK_STR("code:1: mine", tp_host_failure(host)->message);
    for (int i = 0; i < 6; i++)
        CHECK_INT(TP_ETHREAD, a.errors[i].code);
    CHECK(a.fd == -1 && a.timeout == -1 && a.stopped == -1 && !a.failure);
    CHECK_INT(TP_ETHREAD, a.closed);
    tp_result r;
    CHECK_INT(1, tp_map_next(a.map, &r, NULL));
    CHECK_INT(1, tp_map_next(a.map, &r, NULL));
    CHECK(r.values[0].as.number == 9);
    tp_host_close(host);
}

/* A host with what it was asked for, handed on. */
static void *go_on_elsewhere(void *user)
{
    attempt *a = user;
    tp_result r;
    double x[] = { 5 };
    tp_map *map;
    CHECK_INT(TP_NEXT_REFUSED, tp_map_next(a->map, &r, &a->errors[0]));
    OK(tp_host_adopt(a->host, e));
    CHECK_INT(TP_NEXT_RESULT, tp_map_next(a->map, &r, &a->errors[1]));
    CHECK(r.values[0].as.number == 9);
    OK(tp_host_run_string(a->host, "require('tidepool').sleep(0.001)", 32, NULL, e));
    OK(tp_map_doubles(&map, a->f, (const double *[]){ x }, 1, 1, NULL, e));
    OK(tp_map_read_doubles(map, x, 1, e));
    CHECK(x[0] == 25);
    return NULL;
}

TEST(a_host_may_go_to_another_thread_and_back)
{
    tp_host *host = open_host();
    attempt a = { .host = host, .f = from_lua(host, square) };
    double x[] = { 2, 3 };
    tp_result r;
    tp_error err;
    OK(tp_map_doubles(&a.map, a.f, (const double *[]){ x }, 1, 2, NULL, e));
    CHECK_INT(TP_NEXT_RESULT, tp_map_next(a.map, &r, &err));
    pthread_t thread;
    CHECK_INT(0, pthread_create(&thread, NULL, go_on_elsewhere, &a));
    pthread_join(thread, NULL);
    CHECK_INT(TP_ETHREAD, a.errors[0].code);
    CHECK_INT(TP_NEXT_REFUSED, tp_map_next(a.map, &r, &err));
    CHECK_INT(TP_ETHREAD, tp_host_close(host));
    OK(tp_host_adopt(host, e));
    CHECK_INT(TP_NEXT_END, tp_map_next(a.map, &r, &err));
    CHECK_INT(-1, tp_host_adopt(NULL, &err));
    CHECK_INT(TP_OK, tp_host_close(host));
    CHECK_INT(TP_OK, tp_host_close(NULL));
}

/* A function that ends when it is told to. */
typedef struct gate {
    atomic_int has_begun, is_open;
} gate;

static int wait_at_gate(void *user, tp_call *call, const tp_value *in, size_t n)
{
    gate *g = user;
    atomic_fetch_add(&g->has_begun, 1);
    while (!atomic_load(&g->is_open))
        usleep(1000);
    return tp_call_return(call, in, n);
}

TEST(the_next_result_is_waited_for_as_long_as_is_said)
{
    static gate g;
    tp_host *host = open_host();
    tp_function *f;
    tp_map *map;
    tp_result r = { .n = 7 };
    tp_error err;
    tp_value rows[] = { tp_number(1), tp_number(2) };
    OK(tp_function_from_c(&f, host, "gate", wait_at_gate, &g, NULL, e));
    OK(tp_map_values(&map, f, rows, 1, 2, NULL, e));
    for (unsigned ms = 0; ms < 30; ms += 10) {
        CHECK_INT(TP_NEXT_TIMEOUT, tp_map_next_timeout(map, &r, ms, &err));
        CHECK_INT(TP_ETIMEOUT, err.code);
    }
    CHECK_STR("there was no result within 20 ms", err.message);
    CHECK(r.n == 0 && r.index == TP_NO_INDEX && !tp_map_failure(map));
    atomic_store(&g.is_open, 1);
    CHECK_INT(TP_NEXT_RESULT, tp_map_next_timeout(map, &r, 200000, &err));
    CHECK_INT(TP_OK, err.code);
    CHECK(r.values[0].as.number == 1);
    CHECK_INT(TP_NEXT_RESULT, tp_map_next(map, &r, &err));
    CHECK_INT(TP_NEXT_END, tp_map_next_timeout(map, &r, 10, &err));
    tp_option_list o = tp_no_options();
    tp_option_string(&o, "executor", "inline");
    OK(tp_function_from_lua(&f, host, "here", square, tp_option_table(&o), e));
    OK(tp_map_values(&map, f, rows, 1, 1, NULL, e));
    CHECK_INT(TP_NEXT_TIMEOUT, tp_map_next_timeout(map, &r, 0, &err));
    CHECK_INT(TP_NEXT_RESULT, tp_map_next_timeout(map, &r, 200000, &err));
    tp_host_close(host);
}

TEST(a_host_whose_worker_does_not_rest_is_left_and_may_be_closed_later)
{
    alarm(300);
    gate g = { 0 };
    tp_host *host = open_host();
    tp_function *f, *other = from_lua(host, square);
    tp_map *map, *refused;
    tp_result r;
    double x[] = { 2, 3, 4, 5, 6, 7, 8, 9 };
    OK(tp_function_from_c(&f, host, "wait", wait_at_gate, &g, NULL, e));
    OK(tp_map_doubles(&map, f, (const double *[]){ x }, 1, 8, NULL, e));
    while (!atomic_load(&g.has_begun))
        usleep(1000);
    CHECK_INT(-1, tp_host_stop(host, 20));
    CHECK_INT(-1, tp_host_stop(host, 0));
    /* Nothing of it waits for the one that goes on. */
    tp_error err = { 0 };
    CHECK_INT(-1, tp_map_next(map, &r, &err));
    CHECK(*err.message && tp_map_failure(map));
    CHECK(tp_map_doubles(&refused, other, (const double *[]){ x }, 1, 8, NULL, NULL) == -1 ||
          tp_map_next(refused, &r, NULL) == -1);
    tp_map_close(map);
    tp_function_close(other);
    CHECK(atomic_load(&g.has_begun) <= 3); /* one a worker: what had not begun is not begun */
    atomic_store(&g.is_open, 1);
    CHECK_INT(0, tp_host_stop(host, 60000));
    tp_host_close(host);
}

/* Opens the gate when it is told that closing waits. */
static void open_when_told(void *user, int fd, const char *bytes, size_t len)
{
    static const char line[] = "tidepool: closing the host waits for what still runs: threads\n";
    gate *g = user;
    if (fd == 2 && len == sizeof line - 1 && memcmp(bytes, line, len) == 0)
        atomic_store(&g->is_open, 1);
}

TEST(closing_a_host_that_has_to_wait_says_for_what)
{
    alarm(300);
    gate g = { 0 };
    tp_host *host;
    tp_config config = { .size = sizeof config, .workers = 2, .write = open_when_told, .user = &g };
    tp_function *f;
    tp_map *map;
    double x[] = { 2 };
    OK(tp_host_open(&host, &config, e));
    OK(tp_function_from_c(&f, host, "wait", wait_at_gate, &g, NULL, e));
    OK(tp_map_doubles(&map, f, (const double *[]){ x }, 1, 1, NULL, e));
    while (!atomic_load(&g.has_begun))
        usleep(1000);
    CHECK_INT(TP_OK, tp_host_close(host));
    CHECK(atomic_load(&g.is_open));
}

TEST(the_process_ends_while_a_function_never_does)
{
    const char *sanitizer = getenv("TIDEPOOL_SANITIZER");
    if (sanitizer && strcmp(sanitizer, "asan") == 0)
        return; /* the host is left open: LeakSanitizer reports it, and rightly */
    alarm(300);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        gate g = { 0 };
        tp_host *host = open_host();
        tp_function *f;
        tp_map *map;
        double x[] = { 2, 3 };
        tp_function_from_c(&f, host, "wait", wait_at_gate, &g, NULL, NULL);
        tp_map_doubles(&map, f, (const double *[]){ x }, 1, 2, NULL, NULL);
        while (!atomic_load(&g.has_begun))
            usleep(1000);
        exit(tp_host_stop(host, 20) == -1 ? 0 : 1);
    }
    int status = -1;
    CHECK_INT(child, waitpid(child, &status, 0));
    CHECK_INT(0, status);
}

TEST(a_forked_child_is_refused)
{
    tp_host *host = open_host();
    tp_function *f = from_lua(host, square);
    double x[] = { 2, 3 }, y[2];
    tp_map *map;
    OK(tp_map_doubles(&map, f, (const double *[]){ x }, 1, 2, NULL, e));
    OK(tp_map_read_doubles(map, y, 2, e));
    pid_t child = fork();
    if (child == 0) {
        tp_error err = { 0 };
        alarm(600);
        int rc = tp_map_doubles(&map, f, (const double *[]){ x }, 1, 2, NULL, &err);
        tp_host_close(host);
        _exit(rc == -1 && err.code == TP_EUSAGE && strstr(err.message, "fork") ? 0 : 1);
    }
    int status = -1;
    CHECK_INT(child, waitpid(child, &status, 0));
    CHECK_INT(0, status);
    OK(tp_map_doubles(&map, f, (const double *[]){ x }, 1, 2, NULL, e));
    OK(tp_map_read_doubles(map, y, 2, e));
    CHECK(y[1] == 9);
    tp_host_close(host);
}

static void *open_and_close(void *user)
{
    int times = *(int *)user;
    for (int i = 0; i < times; i++) {
        tp_host *host;
        tp_function *f;
        tp_map *map;
        double x[] = { 1, 2, 3 }, y[3] = { 0 };
        tp_error err = { 0 };
        tp_config config = { .size = sizeof config, .workers = 2 };
        if (tp_host_open(&host, &config, &err))
            return "open";
        if (i % 4 != 0) { /* also without workers; also closed while a map runs */
            if (tp_function_from_lua(&f, host, "f", square, NULL, &err) ||
                tp_map_doubles(&map, f, (const double *[]){ x }, 1, 3, NULL, &err))
                return "map";
            if (i % 2 == 0 && (tp_map_read_doubles(map, y, 3, &err) || y[2] != 9))
                return "read";
        }
        tp_host_close(host);
    }
    return NULL;
}

TEST(two_hosts_open_and_close_a_thousand_times)
{
    int times = 1000;
    pthread_t threads[2];
    for (int i = 0; i < 2; i++)
        CHECK_INT(0, pthread_create(&threads[i], NULL, open_and_close, &times));
    for (int i = 0; i < 2; i++) {
        void *failed;
        pthread_join(threads[i], &failed);
        CHECK_STR("", failed ? (char *)failed : "");
    }
}

TEST(two_hosts_share_nothing)
{
    tp_host *a = open_host(), *b = open_host();
    tp_values out;
    OK(tp_host_run_string(a, "x = 1", 5, NULL, e));
    OK(tp_host_run_string(b, "function get() return x end", 27, NULL, e));
    OK(tp_host_call(&out, b, "get", NULL, 0, e));
    CHECK_INT(TP_NIL, out.items[0].kind);
    tp_host_close(a);
    OK(tp_host_call(&out, b, "get", NULL, 0, e));
    tp_host_close(b);
}

/* ---- states of the program's own ---- */

/* NULL, or what went wrong. */
static void *map_in_own_state(void *user)
{
    static const char code[] = "local tidepool = require 'tidepool'\n"
                               "local f = tidepool.App('t'):func(function(x) return x end)\n"
                               "local sum = 0\n"
                               "for _, y in tidepool.App('own'):func(function(x) return 2 * x "
                               "end):map(tidepool.range(1000)) do sum = sum + y end\n"
                               "running = f:spawn_map(tidepool.range(math.huge))\n"
                               "return sum";
    tp_error err = { 0 };
    tp_config config = { .size = sizeof config, .workers = 2 };
    for (int i = 0; i < 5; i++) {
        tp_host *host;
        if (tp_host_open(&host, &config, &err))
            return "open";
        lua_State *L = luaL_newstate();
        luaL_openlibs(L);
        if (tp_host_openlibs(host, L, &err))
            return "openlibs";
        if (luaL_dostring(L, code)) {
            fprintf(stderr, "%s\n", lua_tostring(L, -1));
            return "code";
        }
        if (lua_tonumber(L, -1) != 1001000)
            return "sum";
        lua_close(L); /* with a map that runs, and would for ever */
        tp_host_close(host);
    }
    return user;
}

TEST(states_of_the_program_have_hosts_of_their_own)
{
    pthread_t threads[2];
    for (int i = 0; i < 2; i++)
        CHECK_INT(0, pthread_create(&threads[i], NULL, map_in_own_state, NULL));
    for (int i = 0; i < 2; i++) {
        void *failed;
        pthread_join(threads[i], &failed);
        CHECK_STR("", failed ? (char *)failed : "");
    }
}

TEST(a_state_may_be_closed_after_a_task_of_its_own)
{
    static const char code[] = "local tidepool = require 'tidepool'\n"
                               "tidepool.async(function() tidepool.sleep(1000) end)\n"
                               "local ok, why = pcall(tidepool.App('t'):func(function() error { "
                               "code = 7 } end).remote, 1)\n"
                               "return ok";
    tp_host *host = open_host();
    lua_State *L = luaL_newstate();
    luaL_openlibs(L);
    OK(tp_host_openlibs(host, L, e));
    CHECK_INT(0, luaL_dostring(L, code));
    lua_close(L);
    double x[] = { 1 }, y[1];
    tp_map *map;
    OK(tp_map_doubles(&map, from_lua(host, square), (const double *[]){ x }, 1, 1, NULL,
                      e)); /* the host is as it was */
    OK(tp_map_read_doubles(map, y, 1, e));
    tp_host_close(host);
}

/* ---- signals ---- */

static volatile sig_atomic_t n_children;

static void on_signal(int sig)
{
    if (sig == SIGCHLD)
        n_children++;
}

TEST(the_program_keeps_its_signal_handlers)
{
    const int signals[] = { SIGINT, SIGTERM, SIGCHLD, SIGSEGV, SIGPIPE, SIGUSR1 };
    struct sigaction mine[6], after;
    for (int i = 0; i < 6; i++) {
        mine[i] = (struct sigaction){ .sa_handler = on_signal };
        sigaction(signals[i], &mine[i], NULL);
    }
    sigset_t mask = { 0 }, mask_after = { 0 };
    static char handlers_stack[1 << 16];
    stack_t stack = { .ss_sp = handlers_stack, .ss_size = sizeof handlers_stack }, stack_after;
    CHECK_INT(0, sigaltstack(&stack, NULL));
    CHECK_INT(0, pthread_sigmask(SIG_SETMASK, NULL, &mask));
    tp_host *host = open_host();
    double x[] = { 1, 2, 3 }, y[3];
    tp_map *map;
    OK(tp_map_doubles(&map, from_lua(host, square), (const double *[]){ x }, 1, 3, NULL, e));
    OK(tp_map_read_doubles(map, y, 3, e));
    pid_t child = fork();
    if (child == 0)
        _exit(3);
    int status = 0;
    while (waitpid(child, &status, 0) < 0)
        CHECK_INT(EINTR, errno);
    CHECK_INT(3, WEXITSTATUS(status));
    CHECK_INT(1, n_children);
    tp_host_close(host);
    CHECK_INT(0, sigaltstack(NULL, &stack_after));
    CHECK(stack_after.ss_sp == stack.ss_sp && stack_after.ss_flags == 0);
    CHECK_INT(0, pthread_sigmask(SIG_SETMASK, NULL, &mask_after));
    CHECK(memcmp(&mask, &mask_after, sizeof mask) == 0);
    for (int i = 0; i < 6; i++) {
        sigaction(signals[i], NULL, &after);
        CHECK(after.sa_handler == on_signal);
    }
}

/* ---- the environment ---- */

extern char **environ;
static _Atomic bool is_watching;
static _Atomic int n_getenv;

/* In the place of the C library's, for all that this program is made of. */
char *getenv(const char *name)
{
    if (is_watching && strcmp(name, "LUA_PATH") != 0 &&
        strcmp(name, "LUA_CPATH") != 0) /* LuaJIT asks for these, and drops the answer */
        n_getenv++;
    for (char **at = environ; at && *at; at++) {
        size_t len = strlen(name);
        if (strncmp(*at, name, len) == 0 && (*at)[len] == '=')
            return *at + len + 1;
    }
    return NULL;
}

TEST(the_environment_is_not_read)
{
    setenv("LUA_PATH", "/nowhere/?.lua", 1);
    is_watching = true;
    tp_host *host = open_host();
    double x[] = { 1, 2, 3 };
    tp_map *map;
    tp_result r;
    OK(tp_map_doubles(&map, from_lua(host, "return function(x) return package.path end"),
                      (const double *[]){ x }, 1, 3, NULL, e));
    while (tp_map_next(map, &r, NULL) > 0)
        CHECK(!strstr(r.values[0].as.bytes, "/nowhere"));
    tp_host_close(host);
    is_watching = false;
    CHECK_INT(0, n_getenv);
}

/* ---- loops ---- */

typedef struct sink {
    int n, ended, failed;
    double sum;
    size_t last;
    tp_map *close; /* to be closed at the first result */
    pthread_t thread;
    char message[100];
} sink;

static void on_result(void *user, tp_map *map, tp_next status, const tp_result *r)
{
    sink *s = user;
    s->thread = pthread_self();
    if (status > 0) {
        s->n++;
        s->last = r->index;
        if (r->values)
            s->sum += r->values[0].as.number;
        if (s->close) {
            tp_map_close(map);
            s->close = NULL;
        }
    } else if (status == 0) {
        s->ended++;
    } else {
        s->failed++;
        snprintf(s->message, sizeof s->message, "%s: %s", tp_map_failure(map)->kind,
                 tp_map_failure(map)->message);
    }
}

static void wait_once(tp_host *host)
{
    wait_for_host(host, 20);
    tp_host_step(host, NULL);
}

static void wait_for(tp_host *host, const int *done)
{
    for (int i = 0; i < 2000 && !*done; i++)
        wait_once(host);
    CHECK(*done);
}

TEST(results_come_back_by_descriptor)
{
    enum { N = 20000 };
    tp_host *host = open_host();
    static double x[N];
    for (int i = 0; i < N; i++)
        x[i] = i;
    tp_map *map;
    sink s = { 0 };
    OK(tp_map_doubles(&map, from_lua(host, square), (const double *[]){ x }, 1, N, NULL, e));
    OK(tp_map_on_result(map, on_result, &s, e));
    CHECK_INT(0, s.n);
    tp_result r;
    tp_error err = { 0 };
    CHECK_INT(TP_NEXT_REFUSED, tp_map_next(map, &r, &err));
    CHECK_STR("tp_map_next: the map's results go to its callback", err.message);
    wait_for(host, &s.ended);
    CHECK_INT(N, s.n);
    CHECK_INT(N - 1, s.last);
    CHECK(pthread_equal(s.thread, pthread_self()));
    tp_host_close(host);
}

TEST(the_descriptor_is_quiet_while_nothing_happens)
{
    tp_host *host = open_host();
    OK(tp_host_run_string(host, "x = 1", 5, NULL, e));
    struct pollfd p = { .fd = tp_host_fd(host), .events = POLLIN };
    for (int i = 0; i < 3; i++)
        OK(tp_host_step(host, e));
    CHECK_INT(0, poll(&p, 1, 0));
    CHECK_INT(-1, tp_host_timeout(host));
    tp_host_close(host);
}

TEST(a_callback_gets_the_failure_and_may_close_its_map)
{
    tp_host *host = open_host();
    double x[] = { 1, 2, 3, 4 };
    tp_map *map, *other;
    sink s = { 0 }, closed = { 0 };
    OK(tp_map_doubles(&map, from_lua(host, fails_at_3), (const double *[]){ x }, 1, 4, NULL, e));
    OK(tp_map_on_result(map, on_result, &s, e));
    OK(tp_map_doubles(&other, from_lua(host, square), (const double *[]){ x }, 1, 4, NULL, e));
    closed.close = other;
    OK(tp_map_on_result(other, on_result, &closed, e));
    wait_for(host, &s.failed);
    CHECK_INT(2, s.n);
    CHECK_STR("error: {code=7}", s.message);
    wait_for(host, &closed.n);
    CHECK_INT(1, closed.n);
    CHECK_INT(0, closed.ended);
    tp_host_close(host);
}

static int step_inside(void *user, tp_call *call, const tp_value *in, size_t n)
{
    (void)in, (void)n;
    tp_error err = { 0 };
    tp_host_close(user);
    tp_host_step(user, &err);
    tp_value code = tp_number(err.code);
    return tp_call_return(call, &code, 1);
}

TEST(a_step_from_inside_a_function_leaves_maps_alone)
{
    tp_host *host = open_host();
    double x[] = { 1, 2, 3 };
    tp_map *map, *inner;
    tp_function *f;
    tp_result r;
    sink s = { 0 };
    tp_pair pair;
    tp_value options = option("executor", tp_string("inline"), &pair), row = tp_nil();
    OK(tp_map_doubles(&map, from_lua(host, square), (const double *[]){ x }, 1, 3, NULL, e));
    OK(tp_map_on_result(map, on_result, &s, e));
    OK(tp_function_from_c(&f, host, "inside", step_inside, host, &options, e));
    OK(tp_map_values(&inner, f, &row, 1, 1, NULL, e));
    CHECK_INT(1, tp_map_next(inner, &r, NULL));
    CHECK_INT(TP_EBUSY, r.values[0].as.number);
    CHECK_INT(0, s.failed);
    wait_for(host, &s.ended);
    CHECK(s.sum == 14);
    tp_host_close(host);
}

static void close_host(void *user, tp_map *map, tp_next status, const tp_result *result)
{
    (void)map, (void)status, (void)result;
    tp_host *host = ((void **)user)[0];
    CHECK_INT(TP_EBUSY, tp_host_close(host));
    ++*(int *)((void **)user)[1];
}

TEST(closing_the_host_in_a_callback_does_nothing)
{
    tp_host *host = open_host();
    double x[] = { 1 };
    int n = 0;
    void *user[] = { host, &n };
    tp_map *map;
    OK(tp_map_doubles(&map, from_lua(host, square), (const double *[]){ x }, 1, 1, NULL, e));
    OK(tp_map_on_result(map, close_host, user, e));
    wait_for(host, &n);
    OK(tp_host_run_string(host, "", 0, NULL, e));
    tp_host_close(host);
}

static int n_read;

static void read_another(void *user, tp_map *map, tp_next status, const tp_result *result)
{
    (void)map, (void)result;
    double x[] = { 5, 6 }, y[2];
    tp_map *other;
    OK(tp_map_doubles(&other, from_lua(user, square), (const double *[]){ x }, 1, 2, NULL, e));
    OK(tp_map_read_doubles(other, y, 2, e));
    CHECK(y[1] == 36);
    tp_map_close(other);
    n_read += status >= 0;
}

TEST(a_callback_may_start_and_read_another_map)
{
    tp_host *host = open_host();
    double x[] = { 1 };
    sink s = { 0 };
    tp_map *map;
    OK(tp_map_doubles(&map, from_lua(host, square), (const double *[]){ x }, 1, 1, NULL, e));
    OK(tp_map_on_result(map, read_another, host, e));
    tp_map *last;
    OK(tp_map_doubles(&last, from_lua(host, square), (const double *[]){ x }, 1, 1, NULL, e));
    OK(tp_map_on_result(last, on_result, &s, e));
    wait_for(host, &s.ended);
    for (int i = 0; i < 2000 && n_read < 2; i++) /* the maps may end in any order */
        wait_once(host);
    CHECK_INT(2, n_read);
    tp_host_close(host);
}

TEST(a_cancelled_map_tells_its_callback)
{
    tp_host *host = open_host();
    double x[] = { 1, 2 };
    tp_map *map;
    sink s = { 0 };
    tp_pair pair;
    tp_value options = option("executor", tp_string("inline"), &pair);
    tp_function *f;
    OK(tp_function_from_lua(&f, host, "f", square, &options, e));
    OK(tp_map_doubles(&map, f, (const double *[]){ x }, 1, 2, NULL, e));
    OK(tp_map_on_result(map, on_result, &s, e));
    OK(tp_map_cancel(map, e));
    wait_for(host, &s.failed);
    CHECK_STR("cancelled: the map was cancelled", s.message);
    CHECK_INT(0, s.ended);
    tp_host_close(host);
}

TEST(a_function_that_is_run_inline_runs_in_the_step)
{
    tp_host *host = open_host();
    double x[] = { 1, 2, 3 };
    tp_map *map;
    sink s = { 0 };
    tp_pair pair;
    tp_value options = option("executor", tp_string("inline"), &pair);
    tp_function *f;
    OK(tp_function_from_lua(&f, host, "f", square, &options, e));
    OK(tp_map_doubles(&map, f, (const double *[]){ x }, 1, 3, NULL, e));
    OK(tp_map_on_result(map, on_result, &s, e));
    wait_for(host, &s.ended);
    CHECK(s.sum == 14);
    tp_host_close(host);
}

TEST(a_function_of_a_host_whose_executor_is_inline_runs_in_the_step)
{
    tp_host *host;
    tp_config config = { .size = sizeof config, .executor = "inline" };
    OK(tp_host_open(&host, &config, e));
    double x[] = { 1, 2, 3 };
    tp_map *map;
    sink s = { 0 };
    OK(tp_map_doubles(&map, from_lua(host, square), (const double *[]){ x }, 1, 3, NULL, e));
    OK(tp_map_on_result(map, on_result, &s, e));
    wait_for(host, &s.ended);
    CHECK(s.sum == 14);
    tp_host_close(host);
}

TEST(a_host_may_be_closed_with_callbacks_outstanding)
{
    tp_host *host = open_host();
    double x[] = { 1, 2, 3 };
    tp_map *map;
    sink s = { 0 };
    OK(tp_map_doubles(&map, from_lua(host, square), (const double *[]){ x }, 1, 3, NULL, e));
    OK(tp_map_on_result(map, on_result, &s, e));
    tp_host_close(host);
    CHECK_INT(0, s.n + s.ended + s.failed);
}

TEST(results_come_back_in_a_libuv_loop)
{
    uv_loop_t loop;
    CHECK_INT(0, uv_loop_init(&loop));
    tp_host *host;
    tp_config config = { .size = sizeof config, .workers = 2, .loop = &loop };
    OK(tp_host_open(&host, &config, e));
    CHECK_INT(0, uv_run(&loop, UV_RUN_DEFAULT)); /* an idle host does not keep it alive */
    double x[] = { 1, 2, 3 };
    tp_map *maps[2];
    sink s[2] = { 0 };
    for (int i = 0; i < 2; i++) {
        OK(tp_map_doubles(&maps[i], from_lua(host, square), (const double *[]){ x }, 1, 3, NULL,
                          e));
        OK(tp_map_on_result(maps[i], on_result, &s[i], e));
    }
    CHECK_INT(0, uv_run(&loop, UV_RUN_DEFAULT)); /* returns when both are over */
    for (int i = 0; i < 2; i++) {
        CHECK_INT(1, s[i].ended);
        CHECK(s[i].sum == 14);
        CHECK(pthread_equal(s[i].thread, pthread_self()));
    }
    tp_host_close(host);
    CHECK_INT(0, uv_run(&loop, UV_RUN_DEFAULT));
    CHECK_INT(0, uv_loop_close(&loop));
}

TEST(lua_tasks_go_on_in_the_step)
{
    tp_host *host;
    tp_config config = { .size = sizeof config, .workers = 2, .write = keep_line };
    OK(tp_host_open(&host, &config, e));
    static const char code[] =
        "local tidepool = require 'tidepool'\n"
        "local f = tidepool.App('t'):func(function(x) return x * x end)\n"
        "tidepool.async(function()\n"
        "  tidepool.sleep(0.01)\n"
        "  local sum = 0\n"
        "  for _, y in f:map { 1, 2, 3 } do sum = sum + y end\n"
        "  print('sum', sum)\n"
        "  tidepool.sleep(0)\n"
        "  error('unread', 0)\n"
        "end)";
    OK(tp_host_run_string(host, code, strlen(code), NULL, e));
    int done = 0;
    for (int i = 0; i < 2000 && !done; i++) {
        struct pollfd p = { .fd = tp_host_fd(host), .events = POLLIN };
        poll(&p, 1, tp_host_timeout(host));
        OK(tp_host_step(host, e));
        done = strstr(printed, "unread") != NULL;
    }
    CHECK(strncmp(printed, "sum\t14\ntidepool: unread\n", 24) == 0);
    CHECK_INT(-1, tp_host_timeout(host));
    tp_host_close(host);
}

/* Its only worker is busy with the slow input, so nobody else looks. */
TEST(a_slow_input_keeps_back_no_results_from_who_steps)
{
    tp_host *host;
    tp_config config = { .size = sizeof config, .workers = 1, .write = keep_line };
    char path[] = "/tmp/tidepool_api_test_XXXXXX", code[1000];
    close(mkstemp(path));
    OK(tp_host_open(&host, &config, e));
    snprintf(code, sizeof code,
             "local tidepool = require 'tidepool'\n"
             "local path, quick = '%s', {}\n"
             "local f = tidepool.App('t'):func(function(x)\n"
             "  while x == 0 do\n"
             "    local file = io.open(path)\n"
             "    if not file then break end\n"
             "    file:close()\n"
             "  end\n"
             "  return x\n"
             "end)\n"
             "for i = 1, 2000 do quick[i] = 1 end\n"
             "for _ = 1, 2 do f:map(quick):list() end\n"
             "tidepool.async(function() for i, x in f:map { 1, 2, 0, 3 } do print(i, x) end end)",
             path);
    OK(tp_host_run_string(host, code, strlen(code), NULL, e));
    for (int i = 0; i < 3000 && !strstr(printed, "4\t3"); i++) {
        struct pollfd p = { .fd = tp_host_fd(host), .events = POLLIN };
        poll(&p, 1, tp_host_timeout(host));
        OK(tp_host_step(host, e));
        if (strstr(printed, "2\t2"))
            unlink(path);
    }
    CHECK_STR("1\t1\n2\t2\n3\t0\n4\t3\n", printed);
    CHECK_INT(-1, tp_host_timeout(host));
    tp_host_close(host);
}

TEST(lua_tasks_go_on_in_a_libuv_loop)
{
    uv_loop_t loop;
    uv_timer_t patience;
    CHECK_INT(0, uv_loop_init(&loop));
    uv_timer_init(&loop, &patience);
    tp_host *host;
    tp_config config = { .size = sizeof config, .workers = 2, .loop = &loop, .write = keep_line };
    OK(tp_host_open(&host, &config, e));
    static const char code[] = "local tidepool = require 'tidepool'\n"
                               "tidepool.async(function() tidepool.sleep(0.01) print 'slept' end)";
    OK(tp_host_run_string(host, code, strlen(code), NULL, e));
    for (int i = 0; i < 2000 && !*printed; i++) {
        uv_timer_start(&patience, (uv_timer_cb)(void (*)(void))abort, 60000, 0);
        uv_run(&loop, UV_RUN_ONCE);
    }
    CHECK_STR("slept\n", printed);
    uv_close((uv_handle_t *)&patience, NULL);
    tp_host_close(host);
    CHECK_INT(0, uv_run(&loop, UV_RUN_DEFAULT));
    CHECK_INT(0, uv_loop_close(&loop));
}

/* ---- devices ---- */

TEST(a_function_from_source_text_runs_on_a_device)
{
    double x[] = { 1, 2, 3 }, y[3];
    const double *columns[] = { x };
    tp_pair pair;
    tp_value options = option("gpu", tp_boolean(1), &pair);
    tp_host *host = open_host();
    tp_function *f, *g;
    tp_map *map;
    tp_error err = { 0 };
    OK(tp_function_from_lua(&f, host, "f", square, &options, e));
    OK(tp_function_from_lua(&g, host, "f", "return function(x) return x + 10 end", &options,
                            e)); /* of the same name */
    int rc = tp_map_doubles(&map, f, columns, 1, 3, NULL, &err);
    if (rc)
        CHECK(strstr(err.message, "OpenCL")); /* there is no device here */
    for (int round = 0; rc == 0 && round < 2; round++) {
        OK(tp_map_read_doubles(map, y, 3, e));
        CHECK(y[0] == (round ? 11 : 1) && y[2] == (round ? 13 : 9));
        if (round == 0)
            OK(tp_map_doubles(&map, g, columns, 1, 3, NULL, e));
    }
    tp_host_close(host);
}
