/* hosts.c: starts workers on other machines with ssh. See hosts.h.
 *
 * The worker's token goes there as the first line of ssh's stdin, never in a command line. Nothing
 * follows on it, but it stays open: the worker there leaves when it is closed, which happens when
 * this process ends, on purpose or not, or when the connection breaks. When the engine listens on
 * this machine's loopback address, ssh forwards a port to it. */
#include "program/hosts.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

enum { HOSTS_MAX = 1000, TEXT_MAX = 2000, SSH_FAILED = 255, NOT_FOUND = 127 };

/* The shell script that runs on the other machine (POSIX sh); %s are options and the engine's
 * URL. */
static const char script[] =
    "IFS= read -r TIDEPOOL_TOKEN || exit 1; export TIDEPOOL_TOKEN; "
    "command -v tidepool >/dev/null || exit 127; "
    "exec 3<&0; "
    "tidepool worker %s--engine %s </dev/null 3<&- & worker=$!; "
    "{ cat <&3; kill -TERM $worker; } >/dev/null 2>&1 & cat=$!; "
    "exec 3<&-; "
    "wait $worker; code=$?; "
    "kill $cat 2>/dev/null; exit $code";

typedef struct host {
    struct hosts *all;
    char *name;
    uv_process_t process;
    uv_pipe_t in, out; /* out: its stdout and stderr */
    uv_write_t write;
    char line[TEXT_MAX];
    size_t len;
    bool runs; /* the process */
} host;

typedef struct hosts {
    uv_loop_t loop;
    uv_signal_t signals[3];
    host *list;
    int n, running;
    bool is_leaving, has_failed;
    char *secret; /* the line with the token */
} hosts;

static void say(const host *h, const char *text, size_t len)
{
    fprintf(stderr, "%s: %.*s\n", h->name, (int)len, text);
}

static void end_signals(hosts *all)
{
    for (int i = 0; i < 3; i++)
        uv_close((uv_handle_t *)&all->signals[i], NULL);
}

static void give_buffer(uv_handle_t *out, size_t size, uv_buf_t *buf)
{
    host *h = out->data;
    (void)size;
    *buf = uv_buf_init(h->line + h->len, (unsigned)(sizeof h->line - h->len));
}

/* Prints the complete lines that have arrived, each with the host's name; a line that is too long
 * in pieces. */
static void take_output(uv_stream_t *out, ssize_t n, const uv_buf_t *buf)
{
    host *h = out->data;
    char *end;
    (void)buf;
    if (n < 0) {
        if (h->len)
            say(h, h->line, h->len);
        h->len = 0;
        uv_close((uv_handle_t *)out, NULL);
        return;
    }
    h->len += (size_t)n;
    while (h->len && ((end = memchr(h->line, '\n', h->len)) || h->len == sizeof h->line)) {
        size_t len = end ? (size_t)(end - h->line) : h->len;
        size_t taken = end ? len + 1 : len;
        say(h, h->line, len);
        h->len -= taken;
        memmove(h->line, h->line + taken, h->len);
    }
}

static void take_end(uv_process_t *process, int64_t code, int signal)
{
    host *h = process->data;
    char text[200] = "";
    if (code == NOT_FOUND)
        snprintf(text, sizeof text,
                 "tidepool is not installed there (not in the PATH that ssh has)");
    else if (code == SSH_FAILED)
        snprintf(text, sizeof text,
                 "ssh has failed: `ssh %.100s true` is to work without questions", h->name);
    else if (signal && !h->all->is_leaving)
        snprintf(text, sizeof text, "ssh was ended by signal %d", signal);
    else if (code)
        snprintf(text, sizeof text, "its worker has ended with exit code %d", (int)code);
    if (*text)
        say(h, text, strlen(text));
    h->all->has_failed |= code != 0 || (signal && !h->all->is_leaving);
    h->runs = false;
    uv_close((uv_handle_t *)process, NULL);
    if (!uv_is_closing((uv_handle_t *)&h->in))
        uv_close((uv_handle_t *)&h->in, NULL);
    if (--h->all->running == 0)
        end_signals(h->all);
}

static void take_signal(uv_signal_t *signal, int number)
{
    hosts *all = signal->data;
    (void)number;
    if (!all->is_leaving)
        fprintf(stderr, "tidepool worker: the workers leave when what they run is over\n");
    for (int i = 0; i < all->n; i++) {
        host *h = &all->list[i];
        if (h->runs && all->is_leaving)
            uv_process_kill(&h->process, SIGKILL);
        else if (h->runs)
            uv_close((uv_handle_t *)&h->in, NULL);
    }
    all->is_leaving = true;
}

static void is_written(uv_write_t *write, int status)
{
    (void)write, (void)status; /* if writing failed, ssh has ended, and its output says why */
}

/* ssh gets a session of its own, so that Ctrl-C reaches only this process. */
static int start(hosts *all, host *h, char *command, char *tunnel)
{
    char *words[16] = { "ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=15",
                        "-o",  "ServerAliveInterval=15" };
    int n = 7;
    if (tunnel) {
        words[n++] = "-o";
        words[n++] = "ExitOnForwardFailure=yes";
        words[n++] = "-R";
        words[n++] = tunnel;
    }
    words[n++] = h->name;
    words[n++] = command;
    uv_pipe_init(&all->loop, &h->in, 0);
    uv_pipe_init(&all->loop, &h->out, 0);
    h->out.data = h->process.data = h;
    h->all = all;
    uv_stdio_container_t stdio[3] = {
        { .flags = UV_CREATE_PIPE | UV_READABLE_PIPE, .data.stream = (uv_stream_t *)&h->in },
        { .flags = UV_IGNORE },
        { .flags = UV_CREATE_PIPE | UV_WRITABLE_PIPE, .data.stream = (uv_stream_t *)&h->out },
    };
    uv_process_options_t options = { .file = "ssh",
                                     .args = words,
                                     .exit_cb = take_end,
                                     .stdio = stdio,
                                     .stdio_count = 3,
                                     .flags = UV_PROCESS_DETACHED };
    int rc = uv_spawn(&all->loop, &h->process, &options);
    if (rc) {
        uv_close((uv_handle_t *)&h->process, NULL);
        uv_close((uv_handle_t *)&h->in, NULL);
        uv_close((uv_handle_t *)&h->out, NULL);
        return rc;
    }
    h->runs = true;
    all->running++;
    uv_buf_t line = uv_buf_init(all->secret, (unsigned)strlen(all->secret));
    uv_write(&h->write, (uv_stream_t *)&h->in, &line, 1, is_written);
    uv_read_start((uv_stream_t *)&h->out, give_buffer, take_output);
    return 0;
}

static int usage(const char *format, const char *what)
{
    fprintf(stderr, "tidepool worker: ");
    fprintf(stderr, format, what);
    fputc('\n', stderr);
    return TP_EXIT_USAGE;
}

/* Makes the list of hosts of their names. 0, or the exit code after saying what is wrong. */
static int read_names(hosts *all, char *names)
{
    for (char *name; (name = strsep(&names, ","));) {
        if (!*name || *name == '-' || strpbrk(name, " \t\n'\"\\$;&|<>()`"))
            return usage("--hosts are names that ssh knows, with commas between them, not %s",
                         *name ? name : "nothing");
        if (all->n == HOSTS_MAX)
            return usage("at most 1000 hosts%s", "");
        all->list[all->n++].name = name;
    }
    return 0;
}

/* Makes the parts of ssh's command line that are the same for all hosts: `command`, and `tunnel`,
 * which forwards the engine's port when it listens on this machine's loopback address. */
static bool describe(const tp_options *o, long grace_s, long idle_s, char command[2000],
                     char tunnel[100])
{
    char words[100] = "";
    int n = 0;
    const char *place = strstr(o->engine, "://") + 3, *port = strrchr(place, ':');
    bool is_near = strncmp(place, "127.", 4) == 0 || strncmp(place, "localhost", 9) == 0;
    int number = port ? atoi(port + 1) : 0;
    if (o->workers)
        n += snprintf(words + n, sizeof words - (size_t)n, "-w %d ", o->workers);
    if (grace_s >= 0)
        n += snprintf(words + n, sizeof words - (size_t)n, "--grace %ld ", grace_s);
    if (idle_s)
        snprintf(words + n, sizeof words - (size_t)n, "--idle-exit %ld ", idle_s);
    snprintf(command, 2000, script, words, o->engine);
    snprintf(tunnel, 100, "%d:127.0.0.1:%d", number ? number : 4222, number ? number : 4222);
    return is_near;
}

int tp_hosts_main(const tp_options *o, const char *names, long grace_s, long idle_s)
{
    static const int numbers[3] = { SIGINT, SIGTERM, SIGHUP };
    char command[2000], tunnel[100];
    if (strlen(o->engine) > 500 || strpbrk(o->engine, "'\"\\$;&|<>()`"))
        return usage("the URL %.500s cannot be given to another machine", o->engine);
    bool is_near = describe(o, grace_s, idle_s, command, tunnel);
    hosts all = { .list = calloc(HOSTS_MAX, sizeof(host)) };
    char *copy = strdup(names);
    int code = !all.list || !copy || asprintf(&all.secret, "%s\n", o->token) < 0
                   ? usage("not enough memory%s", "")
                   : read_names(&all, copy);
    if (code == 0 && uv_loop_init(&all.loop))
        code = usage("not enough memory%s", "");
    if (code == 0) {
        for (int i = 0; i < 3; i++) {
            uv_signal_init(&all.loop, &all.signals[i]);
            all.signals[i].data = &all;
            uv_signal_start(&all.signals[i], take_signal, numbers[i]);
        }
        int rc = 0;
        for (int i = 0; i < all.n && rc == 0; i++)
            rc = start(&all, &all.list[i], command, is_near ? tunnel : NULL);
        if (rc == UV_ENOENT)
            usage("%s is not installed: on Debian, apt install openssh-client", "ssh");
        else if (rc)
            usage("cannot start ssh: %s", uv_strerror(rc));
        all.has_failed |= rc != 0;
        if (all.running == 0)
            end_signals(&all);
        else if (rc)
            take_signal(&all.signals[0], SIGTERM);
        uv_run(&all.loop, UV_RUN_DEFAULT);
        uv_loop_close(&all.loop);
        code = all.has_failed ? EXIT_FAILURE : EXIT_SUCCESS;
    }
    free(all.secret);
    free(all.list);
    free(copy);
    return code;
}
