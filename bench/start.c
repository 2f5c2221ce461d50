/* start.c: how long two commands take from their start, in turns: for W6.
 *
 *   start ROUNDS FIRST... -- SECOND...
 *
 * Prints a line per round: nanoseconds from the start of FIRST to its end; from the start of SECOND
 * to its first byte of output, and to its end. Exits with 1 when a command cannot be started,
 * fails, or when SECOND prints anything but "42". */
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static long long now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

/* Runs a command. Gives the time to its end, and in *first, if wanted, that to its first output. */
static long long run(char **argv, long long *first)
{
    int fds[2];
    if (pipe2(fds, O_CLOEXEC))
        fail("pipe");
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, fds[1], 1);
    pid_t pid;
    long long start = now();
    if (posix_spawnp(&pid, argv[0], &actions, NULL, argv, environ))
        fail(argv[0]);
    posix_spawn_file_actions_destroy(&actions);
    close(fds[1]);
    char text[64] = "";
    ssize_t len = 0, n;
    while ((n = read(fds[0], text + len, sizeof text - 1 - (size_t)len)) > 0) {
        if (len == 0 && first)
            *first = now() - start;
        len += n;
    }
    close(fds[0]);
    int status;
    if (waitpid(pid, &status, 0) != pid)
        fail("waitpid");
    long long whole = now() - start;
    if (status != 0 || (first && strcmp(text, "42\n") != 0)) {
        fprintf(stderr, "%s: status %d, output \"%s\"\n", argv[0], status, text);
        exit(1);
    }
    return whole;
}

int main(int argc, char **argv)
{
    int split = 2;
    while (split < argc && strcmp(argv[split], "--") != 0)
        split++;
    if (split < 3 || split + 1 >= argc) {
        fprintf(stderr, "usage: start ROUNDS FIRST... -- SECOND...\n");
        return 2;
    }
    argv[split] = NULL;
    long long first = 0;
    for (int i = 0; i < 3; i++) { /* the files are read into the page cache */
        run(argv + 2, NULL);
        run(argv + split + 1, &first);
    }
    for (int i = 0; i < atoi(argv[1]); i++) {
        long long a = run(argv + 2, NULL);
        long long b = run(argv + split + 1, &first);
        printf("%lld %lld %lld\n", a, first, b);
    }
    return 0;
}
