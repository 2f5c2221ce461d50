/* harness.h: tests in C. A program is one file that includes this and holds tests:
 *
 *     #include "harness.h"
 *
 *     TEST(numbers_keep_their_bits)
 *     {
 *         CHECK(signbit(decode(encode(-0.0))));
 *     }
 *
 * Each test runs in a process of its own, so that a crash or an exit costs one test. A failed CHECK ends its test. The program prints
 * `ok NAME` or `not ok NAME: why` per test, which scripts/run-tests counts, and exits with 0 when all passed.
 * With names as arguments it runs only those, here in this process: for a debugger. */
#ifndef TP_HARNESS_H
#define TP_HARNESS_H

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

typedef struct harness_test {
    const char *name;
    void (*run)(void);
    struct harness_test *next;
} harness_test;

enum { HARNESS_FAILED = 97 }; /* exit code of a test that has said why */

static harness_test *harness_first, **harness_last = &harness_first;
static const char *harness_running; /* the test that this process runs */

#define TEST(test)                                                                                                 \
    static void test(void);                                                                                        \
    __attribute__((constructor)) static void harness_add_##test(void)                                              \
    {                                                                                                              \
        static harness_test self = { #test, test, NULL };                                                          \
        *harness_last = &self;                                                                                     \
        harness_last = &self.next;                                                                                 \
    }                                                                                                              \
    static void test(void)

#define CHECK(condition)                                                                                           \
    do {                                                                                                           \
        if (!(condition))                                                                                          \
            harness_fail(__FILE__, __LINE__, #condition, "");                                                      \
    } while (0)

/* Whole numbers of any type that fits. */
#define CHECK_INT(expected, actual)                                                                                \
    do {                                                                                                           \
        long long harness_e = (long long)(expected), harness_a = (long long)(actual);                              \
        char harness_text[64];                                                                                     \
        snprintf(harness_text, sizeof harness_text, " is %lld, not %lld", harness_a, harness_e);                   \
        if (harness_e != harness_a)                                                                                \
            harness_fail(__FILE__, __LINE__, #actual, harness_text);                                               \
    } while (0)

#define CHECK_STR(expected, actual)                                                                                \
    do {                                                                                                           \
        const char *harness_e = (expected), *harness_a = (actual);                                                 \
        char harness_text[1200];                                                                                   \
        snprintf(harness_text, sizeof harness_text, " is \"%.550s\", not \"%.550s\"", harness_a, harness_e);       \
        if (strcmp(harness_e, harness_a) != 0)                                                                     \
            harness_fail(__FILE__, __LINE__, #actual, harness_text);                                               \
    } while (0)

__attribute__((unused)) static _Noreturn void harness_fail(const char *file, int line, const char *what, const char *how)
{
    printf("not ok %s: %s:%d: %s%s\n", harness_running, file, line, what, *how ? how : " does not hold");
    fflush(stdout);
    _exit(HARNESS_FAILED); /* whatever the test left behind is no further failure */
}

/* Runs a test in a child. True when it passed. */
static bool harness_run(const harness_test *t)
{
    int status = 0;
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        harness_running = t->name;
        t->run();
        exit(0); /* leak checks run here */
    }
    if (child < 0 || waitpid(child, &status, 0) != child) {
        printf("not ok %s: cannot start a process\n", t->name);
        return false;
    }
    if (WIFSIGNALED(status))
        printf("not ok %s: killed by signal %d (%s)\n", t->name, WTERMSIG(status), strsignal(WTERMSIG(status)));
    else if (WEXITSTATUS(status) == 0)
        printf("ok %s\n", t->name);
    else if (WEXITSTATUS(status) != HARNESS_FAILED)
        printf("not ok %s: exit code %d\n", t->name, WEXITSTATUS(status));
    return status == 0;
}

int main(int argc, char **argv)
{
    bool all_passed = true;
    for (harness_test *t = harness_first; t; t = t->next) {
        bool is_named = argc == 1;
        for (int i = 1; i < argc; i++)
            is_named |= strcmp(argv[i], t->name) == 0;
        if (argc > 1 && is_named) {
            harness_running = t->name;
            t->run();
            printf("ok %s\n", t->name);
        } else if (is_named) {
            all_passed &= harness_run(t);
        }
    }
    return all_passed ? 0 : 1;
}

#endif
