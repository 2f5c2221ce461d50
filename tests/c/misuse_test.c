/* misuse_test.c: a wrong argument is an error that says which, and no crash. */
#include "api_support.h"

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <pthread.h>

#define SAYS(text, call)                                               \
    do {                                                               \
        tp_error err = { TP_ELIMIT, "of the call before" }, *e = &err; \
        CHECK((call) < 0);                                             \
        CHECK_STR(text, err.message);                                  \
        CHECK_INT(TP_EUSAGE, err.code);                                \
    } while (0)

TEST(mistakes_have_a_message_each)
{
    tp_host *host = open_host();
    tp_function *f;
    tp_map *map;
    tp_pair pair;
    tp_value options = option("concurency_limit", tp_number(1), &pair);
    tp_error err = { 0 };
    CHECK_INT(-1, tp_function_from_lua(&f, host, "f", square, &options, &err));
    CHECK_STR("options: unknown option 'concurency_limit' (did you mean 'concurrency_limit'?)",
              err.message);
    CHECK_INT(TP_EUSAGE, err.code);
    CHECK(!f);
    CHECK_INT(-1, tp_function_from_lua(&f, host, "f", "return 1", NULL, &err));
    CHECK_STR("the source of 'f' returned 1: it should be a chunk that returns a function",
              err.message);
    CHECK_INT(-1, tp_function_from_lua(&f, host, "f", "return function( end", NULL, &err));
    CHECK_STR("f:1: <name> or '...' expected near 'end'", err.message);
    CHECK_INT(TP_ELUA, err.code);
    CHECK_INT(-1, tp_function_find(&f, host, "g", &err));
    CHECK_STR("there is no function 'g': none was decorated, or made, with that name", err.message);
    CHECK_INT(-1, tp_map_doubles(&map, from_lua(host, square), NULL, 9, 1, NULL, &err));
    CHECK_STR("tp_map_doubles: width is 9: it must be 1 to 8", err.message);
    double x = 1;
    tp_value number = tp_number(1);
    CHECK_INT(-1, tp_map_doubles(&map, from_lua(host, square), (const double *[]){ &x }, 1, 1,
                                 &number, &err));
    CHECK_STR("options must be a table value, with names as its keys", err.message);
    CHECK(!map);
    tp_host_close(host);
}

TEST(what_is_null_is_said_by_name)
{
    tp_host *host = open_host();
    tp_function *f = from_lua(host, square), *none = NULL;
    tp_map *map;
    tp_result r = { .n = 7 };
    tp_value out;
    const double *columns[] = { NULL };
    SAYS("tp_function_from_lua: host is NULL",
         tp_function_from_lua(&none, NULL, "f", square, NULL, e));
    SAYS("tp_function_from_lua: name is NULL",
         tp_function_from_lua(&none, host, NULL, square, NULL, e));
    SAYS("tp_function_from_lua: source is NULL",
         tp_function_from_lua(&none, host, "f", NULL, NULL, e));
    SAYS("tp_function_from_c: name is NULL",
         tp_function_from_c(&none, host, NULL, NULL, NULL, NULL, e));
    SAYS("tp_function_from_c: fn is NULL",
         tp_function_from_c(&none, host, "f", NULL, NULL, NULL, e));
    SAYS("tp_function_find: name is NULL", tp_function_find(&none, host, NULL, e));
    SAYS("tp_host_run_file: path is NULL", tp_host_run_file(host, NULL, e));
    SAYS("tp_host_run_string: code is NULL", tp_host_run_string(host, NULL, 3, NULL, e));
    SAYS("tp_host_call: args is NULL", tp_host_call(NULL, host, "print", NULL, 1, e));
    SAYS("tp_host_step: host is NULL", tp_host_step(NULL, e));
    SAYS("tp_map_doubles: function is NULL", tp_map_doubles(&map, NULL, columns, 1, 1, NULL, e));
    SAYS("tp_map_doubles: columns is NULL", tp_map_doubles(&map, f, NULL, 1, 1, NULL, e));
    SAYS("tp_map_doubles: columns[0] is NULL", tp_map_doubles(&map, f, columns, 1, 1, NULL, e));
    SAYS("tp_map_bytes: inputs is NULL", tp_map_bytes(&map, f, NULL, 1, NULL, e));
    SAYS("tp_map_values: values is NULL", tp_map_values(&map, f, NULL, 1, 1, NULL, e));
    SAYS("tp_map_next: map is NULL", tp_map_next(NULL, &r, e));
    CHECK_INT(0, r.n);
    SAYS("tp_map_read_doubles: map is NULL", tp_map_read_doubles(NULL, NULL, 0, e));
    SAYS("tp_map_on_result: map is NULL", tp_map_on_result(NULL, NULL, NULL, e));
    SAYS("tp_map_cancel: map is NULL", tp_map_cancel(NULL, e));
    SAYS("tp_map_progress: map is NULL", tp_map_progress(NULL, &(tp_progress){ 0 }, e));
    out = (tp_value){ .kind = (tp_kind)77 };
    SAYS("args[0]: a value has the kind 77, which there is not",
         tp_host_call(NULL, host, "print", &out, 1, e));
    CHECK(!tp_map_failure(NULL) && !tp_host_failure(NULL));
    tp_host_interrupt(NULL);
    tp_host_resume(NULL);
    tp_host_close(host);
}

TEST(what_is_given_out_needs_a_place)
{
    tp_host *host = open_host();
    tp_function *f = from_lua(host, square);
    double x = 1;
    const double *columns[] = { &x };
    tp_span span = { "a", 1 };
    tp_value one = tp_number(1);
    tp_map *map;
    OK(tp_map_doubles(&map, f, columns, 1, 1, NULL, e));
    SAYS("tp_host_open: out is NULL", tp_host_open(NULL, NULL, e));
    SAYS("tp_function_from_lua: out is NULL",
         tp_function_from_lua(NULL, host, "f", square, NULL, e));
    SAYS("tp_function_from_c: out is NULL",
         tp_function_from_c(NULL, host, "f", NULL, NULL, NULL, e));
    SAYS("tp_function_find: out is NULL", tp_function_find(NULL, host, "f", e));
    SAYS("tp_map_doubles: out is NULL", tp_map_doubles(NULL, f, columns, 1, 1, NULL, e));
    SAYS("tp_map_bytes: out is NULL", tp_map_bytes(NULL, f, &span, 1, NULL, e));
    SAYS("tp_map_values: out is NULL", tp_map_values(NULL, f, &one, 1, 1, NULL, e));
    SAYS("tp_map_next: out is NULL", tp_map_next(map, NULL, e));
    SAYS("tp_map_read_doubles: out is NULL", tp_map_read_doubles(map, NULL, 1, e));
    SAYS("tp_map_progress: out is NULL", tp_map_progress(map, NULL, e));
    SAYS("tp_map_on_result: callback is NULL", tp_map_on_result(map, NULL, NULL, e));
    SAYS("tp_host_openlibs: L is NULL", tp_host_openlibs(host, NULL, e));
    tp_host_counts(host, NULL, NULL);
    OK(tp_map_read_doubles(map, &x, 1, e)); /* none of them has touched it */
    tp_host_close(host);
}

/* Reads results that come before it, as they may on a slow machine. */
static bool comes_to_an_error(tp_map *map, tp_error *err)
{
    tp_result r;
    int rc;
    do {
        rc = tp_map_next(map, &r, err);
    } while (rc > 0);
    return rc < 0;
}

TEST(what_a_value_consists_of_is_there)
{
    tp_host *host = open_host();
    tp_function *f = from_lua(host, "return function(x) return x end");
    const struct {
        tp_value value;
        const char *text;
    } wrong[] = {
        { tp_bytes(NULL, 40), "the bytes of a string are NULL, with n = 40" },
        { tp_string(NULL), "the bytes of a string are NULL, with n = 1" },
        { tp_list(NULL, 2), "the items of a list are NULL, with n = 2" },
        { tp_table(NULL, 3), "the pairs of a table are NULL, with n = 3" },
        { { .kind = (tp_kind)77 }, "a value has the kind 77, which there is not" },
    };
    tp_map *map;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        char text[100];
        snprintf(text, sizeof text, "args[1]: %s", wrong[i].text);
        SAYS(text, tp_host_call(NULL, host, "print", (const tp_value[]){ tp_nil(), wrong[i].value },
                                2, e));
        tp_error err = { 0 };
        snprintf(text, sizeof text, "tp_map_values: values[3]: %s", wrong[i].text);
        const tp_value nested = tp_list(&wrong[i].value, 1),
                       values[] = { tp_nil(), tp_nil(), tp_nil(), i % 2 ? nested : wrong[i].value };
        CHECK(tp_map_values(&map, f, values, 2, 2, NULL, &err) || comes_to_an_error(map, &err));
        CHECK_STR(text, err.message);
    }
    const tp_span span = { NULL, 12 };
    tp_error err = { 0 };
    CHECK(tp_map_bytes(&map, f, &span, 1, NULL, &err) || comes_to_an_error(map, &err));
    CHECK_STR("tp_map_bytes: inputs[0].bytes is NULL, with len 12", err.message);
    CHECK(!tp_value_field(NULL, "x") && !tp_value_field(&wrong[3].value, "x") &&
          !tp_value_field(&wrong[0].value, NULL));
    tp_host_close(host);
}

static int return_wrong(void *user, tp_call *call, const tp_value *in, size_t n)
{
    (void)user, (void)n;
    const tp_value wrong[] = { tp_bytes(NULL, 40), tp_list(NULL, 2) };
    int which = (int)in[0].as.number;
    if (tp_call_return(NULL, wrong, 1) != -1 || tp_call_fail(NULL, "x") != -1)
        return 0;
    return which == 3 ? tp_call_fail(call, NULL)
                      : tp_call_return(call, which == 2 ? NULL : &wrong[which], 1);
}

TEST(what_a_c_function_returns_is_there)
{
    static const char *const texts[] = {
        "tp_call_return: what a string, list or table consists of is NULL, with n > 0",
        "tp_call_return: what a string, list or table consists of is NULL, with n > 0",
        "tp_call_return: results is NULL",
        "failed, without a message",
    };
    tp_host *host = open_host();
    tp_function *f;
    OK(tp_function_from_c(&f, host, "f", return_wrong, NULL, NULL, e));
    for (int i = 0; i < 4; i++) {
        double x = i, y;
        tp_map *map;
        tp_error err = { 0 };
        OK(tp_map_doubles(&map, f, (const double *[]){ &x }, 1, 1, NULL, e));
        CHECK_INT(-1, tp_map_read_doubles(map, &y, 1, &err));
        CHECK(strncmp("input 1: ", err.message, 9) == 0);
        CHECK_STR(texts[i], err.message + 9);
        tp_map_close(map);
    }
    tp_host_close(host);
}

static void never(void *user, tp_map *map, tp_next status, const tp_result *result)
{
    (void)user, (void)map, (void)status, (void)result;
}

TEST(what_has_been_closed_is_not_used)
{
    tp_host *host = open_host();
    double x[] = { 1, 2 };
    const double *columns[] = { x };
    const tp_value one = tp_number(1);
    const tp_span span = { "a", 1 };
    tp_function *f = from_lua(host, square);
    tp_map *map, *other;
    tp_result r;
    tp_progress p;
    OK(tp_map_doubles(&map, f, columns, 1, 2, NULL, e));
    tp_map_close(map);
    SAYS("tp_map_next: the map has been closed", tp_map_next(map, &r, e));
    SAYS("tp_map_read_doubles: the map has been closed", tp_map_read_doubles(map, x, 2, e));
    SAYS("tp_map_on_result: the map has been closed", tp_map_on_result(map, never, NULL, e));
    SAYS("tp_map_cancel: the map has been closed", tp_map_cancel(map, e));
    SAYS("tp_map_progress: the map has been closed", tp_map_progress(map, &p, e));
    CHECK(!tp_map_failure(map));
    tp_map_close(map);
    tp_function_close(f);
    tp_function_close(f);
    SAYS("tp_map_doubles: the function has been closed",
         tp_map_doubles(&other, f, columns, 1, 2, NULL, e));
    SAYS("tp_map_bytes: the function has been closed", tp_map_bytes(&other, f, &span, 1, NULL, e));
    SAYS("tp_map_values: the function has been closed",
         tp_map_values(&other, f, &one, 1, 1, NULL, e));
    for (int i = 0; i < 1000; i++) { /* what is remembered of them is bounded */
        f = from_lua(host, square);
        OK(tp_map_doubles(&map, f, columns, 1, 2, NULL, e));
        tp_function_close(f);
        tp_map_close(map);
    }
    tp_host_close(host);
}

TEST(a_state_has_one_host_and_its_libraries)
{
    tp_host *host = open_host(), *other = open_host();
    lua_State *L = luaL_newstate();
    SAYS("cannot open the Lua side: the state's standard libraries are not open",
         tp_host_openlibs(host, L, e));
    luaL_openlibs(L);
    OK(tp_host_openlibs(host, L, e));
    SAYS("cannot open the Lua side: the state has been given a host before",
         tp_host_openlibs(other, L, e));
    CHECK_INT(
        0,
        luaL_dostring(
            L, "assert(require 'tidepool'.App 'a':func(function(x) return x end):remote(1) == 1)"));
    CHECK_INT(0, lua_gettop(L));
    lua_close(L);
    tp_host_close(other);
    tp_host_close(host);
}

/* Runs code of Lua's in a host of its own. */
static void *run_deep(void *code)
{
    tp_host *host = open_host();
    tp_error err = { 0 };
    if (tp_host_run_string(host, code, strlen(code), "=deep", &err) == 0 ||
        !strstr(err.message, "nested too deep for this thread's stack"))
        CHECK_STR("nested too deep for this thread's stack", err.message);
    static const char shallow[] =
        "local y = 1 for i = 1, 60 do y = { y } end"
        " require('tidepool').App 'a':func(function(x) return x end):remote(y)";
    OK(tp_host_run_string(host, shallow, strlen(shallow), "=shallow", e));
    tp_host_close(host);
    return NULL;
}

TEST(what_is_too_deep_for_the_owners_stack_is_refused)
{
    static const char *const codes[] = {
        "local y = 1 for i = 1, 9000 do y = { y } end require('tidepool').App 'a':func(function(x) "
        "return x end):remote(y)",
        "require('tidepool').App 'a':func(function() local y = 1 for i = 1, 9000 do y = { y } end "
        "return y end):remote()",
        "local y = 1 for i = 1, 9000 do local x = y y = function() return x end end "
        "require('tidepool').App 'a':func(function(x) return x end):remote(y)",
    };
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++) {
        pthread_attr_t attributes;
        pthread_t thread;
        pthread_attr_init(&attributes);
        CHECK_INT(0, pthread_attr_setstacksize(&attributes, 256 * 1024));
        CHECK_INT(0, pthread_create(&thread, &attributes, run_deep, (void *)codes[i]));
        pthread_join(thread, NULL);
    }
}
