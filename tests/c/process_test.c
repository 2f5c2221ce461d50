/* process_test.c: what a host does to the process that it is part of. */
#include "api_support.h"

#include <dirent.h>
#include <signal.h>
#include <sys/signalfd.h>

/* Makes workers run: the results are those of a worker each. */
static void use_workers(tp_host *host)
{
    double x[100] = { 0 }, y[100];
    tp_map *map;
    OK(tp_map_doubles(&map, from_lua(host, "return function(x) return x end"),
                      (const double *[]){ x }, 1, 100, NULL, e));
    OK(tp_map_read_doubles(map, y, 100, e));
    tp_map_close(map);
}

/* The mask of blocked signals in the text of a /proc/.../status. */
static unsigned long long mask_of(const char *status)
{
    const char *at = strstr(status, "SigBlk:");
    CHECK(at != NULL);
    return strtoull(at + 7, NULL, 16);
}

/* What /proc says about a thread of this process. False: it has ended. */
static bool read_status(const char *thread, char *status, size_t size)
{
    char path[300];
    snprintf(path, sizeof path, "/proc/self/task/%s/status", thread);
    FILE *file = fopen(path, "r");
    if (!file)
        return false;
    status[fread(status, 1, size - 1, file)] = '\0';
    fclose(file);
    return strstr(status, "SigBlk:") != NULL;
}

enum { THREADS_MAX = 64 };

/* The threads of this process; gives how many. */
static int list_threads(int ids[THREADS_MAX])
{
    DIR *tasks = opendir("/proc/self/task");
    int n = 0;
    for (struct dirent *d; n < THREADS_MAX && (d = readdir(tasks));)
        if (d->d_name[0] != '.')
            ids[n++] = atoi(d->d_name);
    closedir(tasks);
    return n;
}

static bool has_thread(const int *ids, int n, int id)
{
    for (int i = 0; i < n; i++)
        if (ids[i] == id)
            return true;
    return false;
}

static bool blocks(unsigned long long mask, int sig)
{
    return mask >> (sig - 1) & 1;
}

TEST(a_signal_that_the_program_blocks_is_its_own)
{
    tp_host *host = open_host();
    use_workers(host);
    sigset_t wanted;
    sigemptyset(&wanted);
    sigaddset(&wanted, SIGTERM);
    CHECK_INT(0, pthread_sigmask(SIG_BLOCK, &wanted,
                                 NULL)); /* as servers do: libraries first, then the loop */
    int fd = signalfd(-1, &wanted, SFD_CLOEXEC);
    CHECK_INT(0, kill(getpid(), SIGTERM));
    struct pollfd p = { .fd = fd, .events = POLLIN };
    CHECK_INT(1, poll(&p, 1, 60000));
    close(fd);
    tp_host_close(host);
}

TEST(no_thread_but_the_programs_takes_signals)
{
    static const int never[] = { SIGHUP,  SIGINT,  SIGQUIT, SIGTERM,  SIGUSR1,
                                 SIGUSR2, SIGALRM, SIGCHLD, SIGWINCH, SIGIO };
    static const int always[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGPIPE };
    static const char find[] = "local d = require('tidepool').devices()[1] if d then"
                               "  require('tidepool').App 'a':func({ gpu = true }, function(x) "
                               "return x + 1 end):map({ 1, 2 }):list() end";
    static const char record[] = "name = os.tmpname()"
                                 " results = require('tidepool').App 'b':func(function(x) return x "
                                 "+ 1 end):map({ 1, 2 }, { journal = name })";
    static const char forget[] = "results:list() for _, more in ipairs { '', '-wal', '-shm' } do "
                                 "os.remove(name .. more) end";
    int before[THREADS_MAX]; /* the program's, and one of its own that qemu-aarch64 has */
    int n_before = list_threads(before);
    tp_host *host = open_host();
    use_workers(host);
    OK(tp_host_run_string(host, find, strlen(find), "=find", e)); /* drivers have threads, too */
    OK(tp_host_run_string(host, record, strlen(record), "=record", e)); /* and so have journals */
    DIR *tasks = opendir("/proc/self/task");
    int n = 0;
    for (struct dirent *d; (d = readdir(tasks));) {
        char status[4096];
        if (d->d_name[0] == '.' || has_thread(before, n_before, atoi(d->d_name)) ||
            !read_status(d->d_name, status, sizeof status))
            continue;
        for (size_t i = 0; i < sizeof never / sizeof *never; i++)
            CHECK(blocks(mask_of(status), never[i]));
        /* A sanitizer's own thread blocks all; ThreadSanitizer's has no name of its own. */
        const char *sanitizer = getenv("TIDEPOOL_SANITIZER");
        bool is_ours = !strstr(status, "Name:\tsanitizer") &&
                       !(sanitizer && strcmp(sanitizer, "tsan") == 0);
        for (size_t i = 0; is_ours && i < sizeof always / sizeof *always; i++) {
            /* While it begins, a thread blocks all: the C library has it so. */
            for (int k = 0; k < 30000 && blocks(mask_of(status), always[i]) &&
                            read_status(d->d_name, status, sizeof status);
                 k++)
                usleep(1000);
            CHECK(!blocks(mask_of(status), always[i]));
        }
        n++;
    }
    closedir(tasks);
    CHECK(n > 0);
    OK(tp_host_run_string(host, forget, strlen(forget), "=forget", e));
    tp_host_close(host);
}

TEST(commands_of_workers_block_no_more_than_the_program_does)
{
    static const char *const commands[] = {
        "return function() local p = io.popen 'cat /proc/self/status' local s = p:read '*a' "
        "p:close() return s end",
        "return function() local name = os.tmpname() os.execute('cat /proc/self/status >' .. name)"
        "  local file = io.open(name) local s = file:read '*a' file:close() os.remove(name) return "
        "s end",
    };
    sigset_t one;
    sigemptyset(&one);
    sigaddset(&one, SIGUSR2);
    CHECK_INT(0, pthread_sigmask(SIG_BLOCK, &one, NULL));
    tp_host *host = open_host();
    for (int i = 0; i < 2; i++) {
        tp_map *map;
        tp_result r;
        tp_value none = tp_nil();
        OK(tp_map_values(&map, from_lua(host, commands[i]), &none, 1, 1, NULL, e));
        tp_error err = { 0 };
        int status = tp_map_next(map, &r, &err);
        CHECK_STR("", err.message);
        CHECK_INT(1, status);
        CHECK_INT(
            0, mask_of(r.values[0].as.bytes) &
                   ~(1ull << (SIGUSR2 - 1))); /* dash takes all of them whatever it begins with */
        tp_map_close(map);
    }
    tp_host_close(host);
}
