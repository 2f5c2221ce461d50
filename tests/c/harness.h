/* harness.h: tests in C. A program is one file that includes this and holds tests:
 *
 *     #include "harness.h"
 *
 *     TEST(numbers_keep_their_bits)
 *     {
 *         CHECK(signbit(decode(encode(-0.0))));
 *     }
 *
 * Each test runs in a process of its own, so that a crash or an exit costs one test. A failed CHECK
 * ends its test. The program prints `ok NAME` or `not ok NAME: why` per test, which
 * scripts/run-tests counts, and exits with 0 when all passed. A test that has not ended after
 * HARNESS_LIMIT_S, or after what harness_watch allows it, has failed: where it stands and the
 * stacks of its threads are shown, and it is killed. With names as arguments it runs only those,
 * here in this process: for a debugger. */
#ifndef TP_HARNESS_H
#define TP_HARNESS_H

#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

typedef struct harness_test {
    const char *name;
    void (*run)(void);
    struct harness_test *next;
} harness_test;

enum {
    HARNESS_FAILED = 97, /* exit code of a test that has said why */
    HARNESS_LIMIT_S = 600
};

/* What a test and the process that waits for it share. */
typedef struct harness_watched {
    _Atomic long until_s;  /* CLOCK_MONOTONIC: when it is taken for hanging */
    _Atomic long limit_s;  /* what it was given */
    char what[100];        /* what it is at, or "": written before until_s */
} harness_watched;

static harness_test *harness_first, **harness_last = &harness_first;
static const char *harness_running; /* the test that this process runs */
static harness_watched *harness_shared;

#define TEST(test)                                                    \
    static void test(void);                                           \
    __attribute__((constructor)) static void harness_add_##test(void) \
    {                                                                 \
        static harness_test self = { #test, test, NULL };             \
        *harness_last = &self;                                        \
        harness_last = &self.next;                                    \
    }                                                                 \
    static void test(void)

#define CHECK(condition)                                      \
    do {                                                      \
        if (!(condition))                                     \
            harness_fail(__FILE__, __LINE__, #condition, ""); \
    } while (0)

/* Whole numbers of any type that fits. */
#define CHECK_INT(expected, actual)                                                              \
    do {                                                                                         \
        long long harness_e = (long long)(expected), harness_a = (long long)(actual);            \
        char harness_text[64];                                                                   \
        snprintf(harness_text, sizeof harness_text, " is %lld, not %lld", harness_a, harness_e); \
        if (harness_e != harness_a)                                                              \
            harness_fail(__FILE__, __LINE__, #actual, harness_text);                             \
    } while (0)

#define CHECK_STR(expected, actual)                                                              \
    do {                                                                                         \
        const char *harness_e = (expected), *harness_a = (actual);                               \
        char harness_text[1200];                                                                 \
        snprintf(harness_text, sizeof harness_text, " is \"%.550s\", not \"%.550s\"", harness_a, \
                 harness_e);                                                                     \
        if (strcmp(harness_e, harness_a) != 0)                                                   \
            harness_fail(__FILE__, __LINE__, #actual, harness_text);                             \
    } while (0)

__attribute__((unused)) static _Noreturn void harness_fail(const char *file, int line,
                                                           const char *what, const char *how)
{
    printf("not ok %s: %s:%d: %s%s\n", harness_running, file, line, what,
           *how ? how : " does not hold");
    fflush(stdout);
    _exit(HARNESS_FAILED); /* whatever the test left behind is no further failure */
}

static long harness_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec;
}

/* From now on the test may take so many seconds more, with `what`, a part of it. */
__attribute__((unused)) static void harness_watch(long seconds, const char *what)
{
    if (!harness_shared)
        return;
    snprintf(harness_shared->what, sizeof harness_shared->what, "%s", what);
    atomic_store(&harness_shared->limit_s, seconds);
    atomic_store(&harness_shared->until_s, harness_now() + seconds);
}

/* Waits for the test's process. False when it had to be killed, which is said. */
static bool harness_wait(const harness_test *t, pid_t child, int *status)
{
    struct pollfd ended = { .fd = (int)syscall(SYS_pidfd_open, child, 0), .events = POLLIN };
    bool hangs = false;
    while (ended.fd >= 0 && !hangs && poll(&ended, 1, 1000) == 0)
        hangs = harness_now() > atomic_load(&harness_shared->until_s);
    if (hangs) {
        char command[120];
        const char *what = harness_shared->what;
        printf("not ok %s: %s%shad not ended after %ld s\n", t->name, what, *what ? " " : "",
               atomic_load(&harness_shared->limit_s));
        fflush(stdout);
        snprintf(
            command, sizeof command,
            "exec timeout -k 5 60 gdb -p %ld -batch -ex 'thread apply all bt 40' </dev/null 2>&1",
            (long)child);
        if (system(command) != 0)
            printf("gdb has not shown its stacks\n");
        kill(child, SIGKILL);
    }
    if (ended.fd >= 0)
        close(ended.fd);
    return waitpid(child, status, 0) == child && !hangs;
}

/* Runs a test in a child. True when it passed. */
static bool harness_run(const harness_test *t)
{
    int status = 0;
    fflush(stdout);
    if (!harness_shared) {
        void *shared = mmap(NULL, sizeof *harness_shared, PROT_READ | PROT_WRITE,
                            MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (shared == MAP_FAILED) {
            printf("not ok %s: no memory\n", t->name);
            return false;
        }
        harness_shared = shared;
    }
    harness_watch(HARNESS_LIMIT_S, "");
    pid_t child = fork();
    if (child == 0) {
        harness_running = t->name;
        t->run();
        exit(0); /* leak checks run here */
    }
    if (child < 0) {
        printf("not ok %s: cannot start a process\n", t->name);
        return false;
    }
    if (!harness_wait(t, child, &status))
        return false;
    if (WIFSIGNALED(status))
        printf("not ok %s: killed by signal %d (%s)\n", t->name, WTERMSIG(status),
               strsignal(WTERMSIG(status)));
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
