/* jobs.c: scripts in the background. See jobs.h.
 *
 * A background job is a folder in the user's state folder with the files `command` (its command
 * line), `out` and `err` (what it writes), `pid`, and `status` (how it has ended). Its keeper, a
 * process that only waits for it, holds a lock on the file `lock` meanwhile. So while the lock is
 * held the job runs, and its pid cannot be another process's. */
#include "program/jobs.h"

#include "base/folder.h"
#include "base/system.h"
#include "program/pocl_cache.h"
#include "wire/peer.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
    NAME = 64,
    NUMBER_MAX = 100000,
    LOOK_MS = 30,
    PATIENCE_MS = 10000, /* how long a cancelled job may take to end by itself */
    KEPT_S = 7 * 24 * 3600, /* how long the folder of a job that has ended is kept */
    PATH = 4096 + 2 * NAME
};

static const char *const files[] = { "command", "out", "err", "pid", "status", "lock" };

/* Each of these writes its own line, and gives an exit code. */
static int fail(const char *who, const char *format, const char *what)
{
    fprintf(stderr, "tidepool %s: ", who);
    fprintf(stderr, format, what);
    fputc('\n', stderr);
    return EXIT_FAILURE;
}

static int usage(const char *who, const char *words)
{
    fprintf(stderr, "usage: tidepool %s%s   (see tidepool help %s)\n", who, words, who);
    return TP_EXIT_USAGE;
}

/* Opens the folder of all jobs. `folder` gets its path. -1 after saying why not. */
static int open_folder(const char *who, char folder[4096], bool is_made)
{
    char state[4000];
    int fd = -1;
    tp_error err = { 0 };
    if (!tp_caches_state(state, sizeof state))
        fail(who, "there is no folder for jobs: %s is not set", "HOME");
    else if (snprintf(folder, 4096, "%s/jobs", state) > 0 &&
             tp_folder_open(&fd, folder, is_made, &err))
        fail(who, "%s", err.message);
    return fd;
}

/* ---- files of a job; `job` is its folder's descriptor ---- */

static bool write_text(int job, const char *name, const char *text)
{
    int fd = openat(job, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    size_t len = strlen(text);
    bool is_fine = fd >= 0 && write(fd, text, len) == (ssize_t)len;
    if (fd >= 0 && close(fd))
        is_fine = false;
    return is_fine;
}

/* The text of a file, up to size - 1 bytes; "" when there is none. */
static void read_text(int job, const char *name, char *text, size_t size)
{
    int fd = openat(job, name, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, text, size - 1) : 0;
    if (fd >= 0)
        close(fd);
    text[n > 0 ? n : 0] = '\0';
}

static bool runs(int job)
{
    int fd = openat(job, "lock", O_RDONLY | O_CLOEXEC);
    bool does = fd >= 0 && flock(fd, LOCK_SH | LOCK_NB) && errno == EWOULDBLOCK;
    if (fd >= 0)
        close(fd);
    return does;
}

/* How a job has ended, in words, and as an exit code. */
static int describe(int job, char *text, size_t size)
{
    char status[100];
    int code;
    read_text(job, "status", status, sizeof status);
    if (sscanf(status, "exit %d", &code) == 1) {
        if (code)
            snprintf(text, size, "failed (exit code %d)", code);
        else
            snprintf(text, size, "done");
        return code;
    }
    if (sscanf(status, "signal %d", &code) == 1) {
        if (code == SIGINT) {
            snprintf(text, size, "cancelled");
            return 128 + code;
        }
        const char *name = tp_peer_signal_name(code);
        if (name)
            snprintf(text, size, "ended by %s", name);
        else
            snprintf(text, size, "ended by signal %d", code);
        return 128 + code;
    }
    /* it has ended, but its keeper was killed and could not write `status` */
    snprintf(text, size, "lost");
    return EXIT_FAILURE;
}

static time_t time_of(int job, const char *name)
{
    struct stat s;
    return fstatat(job, name, &s, 0) ? 0 : s.st_mtime;
}

/* Opens the job that the only word after the command names. -1 with *code set. */
static int open_job(const tp_options *o, const char *who, const char **name, int *code)
{
    char folder[4096];
    bool is_asked = o->script < o->argc && strcmp(o->argv[o->script], "--help") == 0;
    *code = EXIT_SUCCESS;
    if (is_asked) {
        printf("usage: tidepool %s JOB   (see tidepool help %s)\n", who, who);
        return -1;
    }
    if (o->script + 1 != o->argc || *o->argv[o->script] == '-') {
        *code = usage(who, " JOB");
        return -1;
    }
    *name = o->argv[o->script];
    *code = EXIT_FAILURE;
    int all = open_folder(who, folder, false);
    int job = all >= 0 && !strchr(*name, '/') && **name != '.'
                  ? openat(all, *name, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
                  : -1;
    if (all >= 0)
        close(all);
    if (job < 0)
        fail(who, "there is no job %s: `tidepool jobs` lists those that there are", *name);
    return job;
}

/* ---- --detach ---- */

/* Removes jobs that ended long ago. */
static void forget_old(int all)
{
    DIR *list = fdopendir(dup(all));
    time_t now = time(NULL);
    if (!list)
        return;
    rewinddir(list);
    for (struct dirent *e; (e = readdir(list));) {
        int job = *e->d_name == '.'
                      ? -1
                      : openat(all, e->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (job < 0)
            continue;
        time_t ended = time_of(job, "status");
        ended = ended ? ended : time_of(job, "err");
        bool is_old = ended && now - ended > KEPT_S && !runs(job);
        for (size_t i = 0; is_old && i < sizeof files / sizeof *files; i++)
            unlinkat(job, files[i], 0);
        close(job);
        if (is_old)
            unlinkat(all, e->d_name, AT_REMOVEDIR);
    }
    closedir(list);
}

/* Makes the folder of a new job, named after the script. -1 when that fails. */
static int make_job(int all, const char *script, char name[NAME])
{
    const char *slash = strrchr(script, '/');
    char base[NAME / 2];
    snprintf(base, sizeof base, "%s", slash ? slash + 1 : script);
    char *end = strstr(base, "::");
    if (end)
        *end = '\0';
    end = strrchr(base, '.');
    if (end && end != base)
        *end = '\0';
    for (char *c = base; *c; c++)
        if (!isalnum((unsigned char)*c) && *c != '_')
            *c = '-';
    for (int i = 1; i < NUMBER_MAX; i++) {
        snprintf(name, NAME, "%s%s-%d", *base == '-' || !*base ? "job" : "", base, i);
        if (mkdirat(all, name, 0700) == 0)
            return openat(all, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (errno != EEXIST)
            return -1;
    }
    return -1;
}

/* Writes the words as a shell would read them. */
static bool write_command(int job, char *const *words)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                "_-+=./:,@%";
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    if (!out)
        return false;
    for (; *words; words++) {
        if (**words && (*words)[strspn(*words, plain)] == '\0') {
            fputs(*words, out);
        } else {
            fputc('\'', out);
            for (const char *c = *words; *c; c++)
                fprintf(out, *c == '\'' ? "'\\''" : "%c", *c);
            fputc('\'', out);
        }
        fputc(words[1] ? ' ' : '\n', out);
    }
    bool is_fine = fclose(out) == 0 && write_text(job, "command", text);
    free(text);
    return is_fine;
}

/* The keeper: waits for the job, and writes how it has ended before the job's pid can be reused. */
static _Noreturn void keep(int job, pid_t pid)
{
    siginfo_t info;
    char text[40];
    signal(SIGINT, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    while (waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT) && errno == EINTR)
        ;
    snprintf(text, sizeof text, "%s %d\n", info.si_code == CLD_EXITED ? "exit" : "signal",
             info.si_status);
    write_text(job, "status", text);
    waitpid(pid, NULL, 0);
    _exit(EXIT_SUCCESS);
}

/* Becomes the keeper, or the job's process with the job's files. */
static _Noreturn void begin(int job, char *const *words)
{
    char text[40];
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    int out = openat(job, "out", O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    int err = openat(job, "err", O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    setsid();
    dup2(null, STDIN_FILENO);
    dup2(out, STDOUT_FILENO);
    dup2(err, STDERR_FILENO);
    pid_t keeper = getpid(), pid = fork();
    if (pid > 0) {
        keep(job, pid);
    } else if (pid == 0) {
        setpgid(0, 0);
        tp_system_end_with_parent(SIGTERM);
        snprintf(text, sizeof text, "%ld\n", (long)getpid());
        if (getppid() == keeper && write_text(job, "pid", text))
            execv(TP_SYSTEM_PROGRAM, words);
    }
    fprintf(stderr, "tidepool: cannot start: %s\n", strerror(errno));
    _exit(EXIT_FAILURE);
}

int tp_jobs_detach(char *const *words, const char *script)
{
    static const char who[] = "--detach";
    char folder[4096], name[NAME];
    size_t n = 0, at = 0;
    while (words[n])
        n++;
    char **rest = calloc(n + 1, sizeof *rest);
    bool is_found = false;
    for (size_t i = 0; rest && i < n; i++) {
        if (!is_found && strcmp(words[i], who) == 0)
            is_found = true;
        else
            rest[at++] = words[i];
    }
    int all = open_folder(who, folder, true);
    if (all < 0)
        return EXIT_FAILURE;
    forget_old(all);
    int job = make_job(all, script, name);
    /* flock belongs to the open file, which the keeper inherits */
    int lock = job < 0 ? -1 : openat(job, "lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (!rest || lock < 0 || flock(lock, LOCK_EX) || !write_command(job, rest))
        return fail(who, "cannot make a job: %s", strerror(errno));
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0)
        begin(job, rest);
    if (pid < 0)
        return fail(who, "cannot start: %s", strerror(errno));
    free(rest);
    puts(name);
    return fflush(stdout) ? EXIT_FAILURE : EXIT_SUCCESS;
}

/* ---- jobs ---- */

static int by_name_and_number(const struct dirent **a, const struct dirent **b)
{
    return strverscmp((*a)->d_name, (*b)->d_name);
}

static int is_visible(const struct dirent *e)
{
    return *e->d_name != '.';
}

static void show_job(int job, const char *name)
{
    char state[100], command[400], began[40], took[40];
    time_t start = time_of(job, "command"), end = time(NULL);
    bool goes_on = runs(job);
    if (goes_on)
        strcpy(state, "running");
    else
        describe(job, state, sizeof state);
    if (!goes_on && time_of(job, "status"))
        end = time_of(job, "status");
    long seconds = end > start ? (long)(end - start) : 0;
    struct tm when;
    strftime(began, sizeof began, "%Y-%m-%d %H:%M", localtime_r(&start, &when));
    snprintf(took, sizeof took, seconds < 3600 ? "%ld:%02ld" : "%ld:%02ld h",
             seconds < 3600 ? seconds / 60 : seconds / 3600,
             seconds < 3600 ? seconds % 60 : seconds / 60 % 60);
    read_text(job, "command", command, sizeof command);
    command[strcspn(command, "\n")] = '\0';
    printf("%-20s  %-22s  %s  %8s  %s\n", name, state, began, took, command);
}

int tp_jobs_list(const tp_options *o)
{
    char folder[4096];
    struct dirent **found;
    if (o->script < o->argc && strcmp(o->argv[o->script], "--help") == 0) {
        puts("usage: tidepool jobs   (see tidepool help jobs)");
        return EXIT_SUCCESS;
    }
    if (o->script < o->argc)
        return usage("jobs", "");
    int all = open_folder("jobs", folder, true);
    int n = all < 0 ? -1 : scandir(folder, &found, is_visible, by_name_and_number);
    if (n < 0)
        return EXIT_FAILURE;
    for (int i = 0; i < n; i++) {
        int job = openat(all, found[i]->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (job >= 0) {
            show_job(job, found[i]->d_name);
            close(job);
        }
        free(found[i]);
    }
    free(found);
    close(all);
    if (n == 0)
        puts("No jobs. (tidepool run --detach FILE starts one.)");
    return EXIT_SUCCESS;
}

/* ---- attach, cancel ---- */

/* Copies what was added to the file. False when the reader of our output is gone. */
static bool copy_new(int from, int to)
{
    char bytes[1 << 16];
    for (ssize_t n; from >= 0 && (n = read(from, bytes, sizeof bytes)) > 0;)
        for (ssize_t at = 0, k; at < n; at += k) {
            k = write(to, bytes + at, (size_t)(n - at));
            if (k < 0 && errno != EINTR)
                return false;
            k = k < 0 ? 0 : k;
        }
    return true;
}

int tp_jobs_attach(const tp_options *o)
{
    const char *name;
    char state[100];
    int code, job = open_job(o, "attach", &name, &code), out = -1, err = -1;
    if (job < 0)
        return code;
    if (runs(job) && isatty(STDERR_FILENO))
        fprintf(stderr, "(Ctrl-C leaves it running; tidepool cancel %s ends it)\n", name);
    for (bool goes_on = true; goes_on;) {
        /* asked before reading: all that it wrote before its end is then read */
        goes_on = runs(job);
        out = out < 0 ? openat(job, "out", O_RDONLY | O_CLOEXEC) : out;
        err = err < 0 ? openat(job, "err", O_RDONLY | O_CLOEXEC) : err;
        if (!copy_new(out, STDOUT_FILENO) || !copy_new(err, STDERR_FILENO))
            return EXIT_FAILURE;
        if (goes_on)
            usleep(LOOK_MS * 1000);
    }
    code = describe(job, state, sizeof state);
    if (code > 128 || strcmp(state, "lost") == 0)
        fprintf(stderr, "tidepool attach: %s: %s\n", name, state);
    return code;
}

int tp_jobs_cancel(const tp_options *o)
{
    const char *name;
    char text[100];
    int code, job = open_job(o, "cancel", &name, &code);
    if (job < 0)
        return code;
    for (int ms = 0; runs(job); ms += LOOK_MS) {
        read_text(job, "pid", text, sizeof text);
        pid_t pid = (pid_t)strtol(text, NULL, 10);
        bool is_late = ms >= PATIENCE_MS;
        /* while the keeper runs, the pid is the job's */
        if (pid > 1 && (ms == 0 || is_late))
            kill(is_late ? -pid : pid, is_late ? SIGKILL : SIGINT);
        ms -= pid > 1 ? 0 : LOOK_MS; /* the job has not written its pid yet */
        usleep(LOOK_MS * 1000);
        if (!runs(job)) {
            printf("%s %s\n", name, is_late ? "was killed" : "was cancelled");
            return EXIT_SUCCESS;
        }
    }
    describe(job, text, sizeof text);
    fprintf(stderr, "tidepool cancel: %s has ended before: %s\n", name, text);
    return EXIT_FAILURE;
}
