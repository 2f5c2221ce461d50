/* engine.c: `tidepool engine up`, `status`, `token` and `down`: a NATS server for the cluster of
 * one user, on the loopback address, with its configuration, tokens and streams in a folder. */
#include "program/engine.h"

#include "base/folder.h"
#include "cluster/nats.h"
#include "cluster/parcel.h"
#include "cluster/protocol.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { START_MS = 20000, END_MS = 20000, LOOK_MS = 20, LISTEN_MS = 1500, PORT = 4222 };

typedef struct engine {
    char folder[3000];
    int port;
    bool has_port; /* it was given */
    bool is_coordinators; /* token --coordinator */
    const char *command;
} engine;

static int fail(const char *format, const char *what)
{
    fprintf(stderr, "tidepool engine: ");
    fprintf(stderr, format, what);
    fputc('\n', stderr);
    return EXIT_FAILURE;
}

static const char usage_text[] =
    "usage: tidepool engine up [--listen 127.0.0.1:4222] | status | token [--coordinator] | down "
    "[--dir FOLDER]   (see tidepool help engine)\n";

static int usage(const char *format, const char *what)
{
    fail(format, what);
    fputs(usage_text, stderr);
    return TP_EXIT_USAGE;
}

/* ---- files ---- */

static char *path_of(const engine *e, const char *name, char path[4096])
{
    snprintf(path, 4096, "%s/%s", e->folder, name);
    return path;
}

/* Writes a file that only this user may read, in one step. */
static int write_file(const engine *e, const char *name, const char *text)
{
    char path[4096], new[4096];
    path_of(e, name, path);
    snprintf(new, sizeof new, "%s/.new", e->folder);
    unlink(new);
    int fd = open(new, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    size_t len = strlen(text);
    bool is_fine = fd >= 0 && write(fd, text, len) == (ssize_t)len;
    if (fd >= 0 && close(fd))
        is_fine = false;
    if (!is_fine || rename(new, path)) {
        fprintf(stderr, "tidepool engine: cannot write %s: %s\n", path, strerror(errno));
        return -1;
    }
    return 0;
}

/* The first line of a file; false when there is none. */
static bool read_line(const engine *e, const char *name, char *text, size_t size)
{
    char path[4096];
    FILE *file = fopen(path_of(e, name, path), "re");
    bool is_read = file && fgets(text, (int)size, file);
    if (file)
        fclose(file);
    if (is_read)
        text[strcspn(text, "\n")] = '\0';
    return is_read;
}

/* ---- the server ---- */

/* The process of the server that was started for this folder; 0: it does not run. */
static pid_t running(const engine *e)
{
    char text[100], path[4096], config[4096], words[8192];
    if (!read_line(e, "nats.pid", text, sizeof text))
        return 0;
    long pid = strtol(text, NULL, 10);
    if (pid <= 1)
        return 0;
    /* another process may have got its number */
    snprintf(path, sizeof path, "/proc/%ld/cmdline", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, words, sizeof words - 1) : 0;
    if (fd >= 0)
        close(fd);
    path_of(e, "nats.conf", config);
    return n > 0 && memmem(words, (size_t)n, config, strlen(config)) ? (pid_t)pid : 0;
}

static bool answers(int port)
{
    char info[5] = { 0 };
    struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    struct timeval patience = { .tv_sec = 2 };
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    bool does = fd >= 0 && connect(fd, (struct sockaddr *)&to, sizeof to) == 0 &&
                recv(fd, info, 4, MSG_WAITALL) == 4 && memcmp(info, "INFO", 4) == 0;
    if (fd >= 0)
        close(fd);
    return does;
}

static const char *find_server(char path[4096])
{
    static const char name[] = "nats-server";
    const char *folders = getenv("PATH");
    char all[8192];
    snprintf(all, sizeof all, "%s:/usr/sbin:/usr/local/sbin:/usr/local/bin:/usr/bin",
             folders ? folders : "");
    for (char *rest = all, *folder; (folder = strsep(&rest, ":"));) {
        snprintf(path, 4096, "%.4000s/%s", folder, name);
        if (*folder && access(path, X_OK) == 0)
            return path;
    }
    return NULL;
}

/* What each role may do, and nothing else. Nobody may use the API of streams as a whole, since
 * servers before 2.10.27 let such users into other accounts (CVE-2025-30215). */
static const char config_format[] =
    "# Written by `tidepool engine up`, and written again by the next one.\n"
    "listen: \"127.0.0.1:%d\"\n"
    "server_name: \"tidepool\"\n"
    "pid_file: \"%s/nats.pid\"\n"
    "log_file: \"%s/nats.log\"\n"
    "ping_interval: \"5s\"\n"
    "ping_max: 2\n"
    "jetstream { store_dir: \"%s/streams\" }\n"
    "accounts {\n"
    "  TIDEPOOL {\n"
    "    jetstream: enabled\n"
    "    users: [\n"
    "      { user: \"" TP_USER_COORDINATOR "\", password: \"%.64s\", permissions: {\n"
    "        publish: { allow: [\"tp1.d.w.>\", \"tp1.d.b.>\", \"tp1.d.ctl.*\", \"_TPW.>\",\n"
    "          \"$JS.ACK." TP_STREAM_W ".>\",\n"
    "          \"$JS.API.STREAM.CREATE." TP_STREAM_W "\", \"$JS.API.STREAM.CREATE." TP_STREAM_R
    "\", \"$JS.API.STREAM.CREATE." TP_STREAM_B "\",\n"
    "          \"$JS.API.STREAM.PURGE." TP_STREAM_R "\", \"$JS.API.STREAM.PURGE." TP_STREAM_B
    "\",\n"
    "          \"$JS.API.CONSUMER.DURABLE.CREATE." TP_STREAM_W ".*\",\n"
    "          \"$JS.API.DIRECT.GET." TP_STREAM_R ".>\", \"$JS.API.DIRECT.GET." TP_STREAM_B
    ".>\"] }\n"
    "        subscribe: { allow: [\"_TPC.>\", \"tp1.d.r.>\", \"tp1.d.hb.*\", \"tp1.d.q.*\"] } } }\n"
    "      { user: \"" TP_USER_WORKER "\", password: \"%.64s\", permissions: {\n"
    "        publish: { allow: [\"tp1.d.r.>\", \"tp1.d.b.>\", \"tp1.d.hb.*\", \"tp1.d.q.*\",\n"
    "          \"$JS.API.CONSUMER.MSG.NEXT." TP_STREAM_W ".*\", \"$JS.ACK." TP_STREAM_W ".>\",\n"
    "          \"$JS.API.DIRECT.GET." TP_STREAM_B ".>\"] }\n"
    "        subscribe: { allow: [\"_TPW.>\", \"tp1.d.ctl.*\"] } } }\n"
    "    ]\n"
    "  }\n"
    "}\n";

static int write_config(const engine *e, const char *coordinator, const char *worker)
{
    char *text = NULL;
    const char *f = e->folder;
    int n = asprintf(&text, config_format, e->port, f, f, f, coordinator + 5, worker + 5);
    int rc = n < 0 ? -1 : write_file(e, "nats.conf", text);
    free(n < 0 ? NULL : text);
    return rc;
}

static int find_tokens(const engine *e, char coordinator[TP_TOKEN_TEXT],
                       char worker[TP_TOKEN_TEXT])
{
    tp_signer s;
    tp_error err = { 0 };
    if (read_line(e, "coordinator.token", coordinator, TP_TOKEN_TEXT) &&
        read_line(e, "worker.token", worker, TP_TOKEN_TEXT))
        return tp_signer_open(&s, coordinator, true, &err) ||
                       tp_signer_open(&s, worker, false, &err)
                   ? fail("%s", err.message)
                   : 0;
    if (tp_signer_make(&s, coordinator, worker, &err))
        return fail("%s", err.message);
    return write_file(e, "coordinator.token", coordinator) || write_file(e, "worker.token", worker);
}

static pid_t start_server(const engine *e, const char *server)
{
    char config[4096], log[4096];
    path_of(e, "nats.conf", config);
    path_of(e, "start.log", log);
    pid_t pid = fork();
    if (pid)
        return pid;
    int null = open("/dev/null", O_RDONLY);
    int out = open(log, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    setsid();
    umask(077);
    dup2(null, 0);
    dup2(out, 1);
    dup2(out, 2);
    for (int fd = 3; fd < 256; fd++)
        close(fd);
    execl(server, server, "-c", config, (char *)NULL);
    _exit(127);
}

static void show_last_lines(const engine *e, const char *name)
{
    char path[4096], line[1000];
    FILE *file = fopen(path_of(e, name, path), "re");
    while (file && fgets(line, sizeof line, file))
        if (strstr(line, "[FTL]") || strstr(line, "[ERR]") || strcmp(name, "start.log") == 0)
            fputs(line, stderr);
    if (file)
        fclose(file);
}

static int show_next(const engine *e, const char *how)
{
    bool is_default = getenv("TIDEPOOL_ENGINE_DIR") == NULL;
    char folder[4096];
    is_default = tp_engine_folder(folder, sizeof folder) && strcmp(folder, e->folder) == 0;
    const char *with = is_default ? "" : "TIDEPOOL_ENGINE_DIR=";
    printf("The engine %s at nats://127.0.0.1:%d (its files are in %s).\n\n"
           "Next, in another terminal:\n"
           "    %s%s%stidepool worker --engine nats://127.0.0.1:%d\n"
           "and here:\n"
           "    %s%s%stidepool run --engine nats://127.0.0.1:%d FILE\n",
           how, e->port, e->folder, with, is_default ? "" : e->folder, is_default ? "" : " ",
           e->port, with, is_default ? "" : e->folder, is_default ? "" : " ", e->port);
    return EXIT_SUCCESS;
}

/* The port that the engine was started with. */
static bool read_port(engine *e)
{
    char text[100];
    if (!read_line(e, "port", text, sizeof text))
        return false;
    e->port = atoi(text);
    return e->port > 0;
}

static int up(engine *e)
{
    char coordinator[TP_TOKEN_TEXT], worker[TP_TOKEN_TEXT], path[4096], text[32];
    int port = e->port;
    if (strpbrk(e->folder, "\"\\\n"))
        return fail("the folder %s has quotes or line ends in its name", e->folder);
    tp_error err = { 0 };
    int folder;
    if (tp_folder_open(&folder, e->folder, true, &err))
        return fail("%s", err.message);
    close(folder);
    /* one that is about to end, or to start, is waited for */
    for (int ms = 0; running(e) && ms < START_MS; ms += LOOK_MS) {
        read_port(e);
        if (e->has_port && port != e->port)
            return fail("it runs already, on another port: `%s` ends it", "tidepool engine down");
        if (answers(e->port))
            return show_next(e, "runs already");
        usleep(LOOK_MS * 1000);
    }
    if (!e->has_port && read_port(e))
        port = e->port;
    e->port = port;
    const char *server = find_server(path);
    if (!server)
        return fail("%s is not installed: on Debian, apt install nats-server", "nats-server");
    if (answers(e->port)) {
        snprintf(text, sizeof text, "%d", e->port);
        return fail("another server listens on port %s: --listen 127.0.0.1:PORT takes another one",
                    text);
    }
    snprintf(text, sizeof text, "%d\n", e->port);
    if (find_tokens(e, coordinator, worker) || write_config(e, coordinator, worker) ||
        write_file(e, "port", text))
        return EXIT_FAILURE;
    char log[4096];
    unlink(path_of(e, "nats.log", log));
    unlink(path_of(e, "nats.pid", log));
    pid_t pid = start_server(e, server);
    for (int ms = 0; pid > 0 && ms < START_MS; ms += LOOK_MS) {
        if (waitpid(pid, NULL, WNOHANG) == pid)
            break;
        if (running(e) == pid && answers(e->port))
            return show_next(e, "runs");
        usleep(LOOK_MS * 1000);
    }
    show_last_lines(e, "start.log");
    show_last_lines(e, "nats.log");
    return fail("%s did not start", server);
}

static int down(engine *e)
{
    pid_t pid = running(e);
    if (!pid)
        return fail("no engine of %s runs", e->folder);
    kill(pid, SIGTERM);
    for (int ms = 0; ms < END_MS; ms += LOOK_MS) {
        if (kill(pid, 0) || running(e) != pid) {
            puts("The engine has ended.");
            return EXIT_SUCCESS;
        }
        usleep(LOOK_MS * 1000);
    }
    return fail("%s does not end", "nats-server");
}

static int token(const engine *e)
{
    char text[TP_TOKEN_TEXT];
    if (!read_line(e, e->is_coordinators ? "coordinator.token" : "worker.token", text, sizeof text))
        return fail("there is no engine in %s: `tidepool engine up` makes one", e->folder);
    puts(text);
    return EXIT_SUCCESS;
}

/* Lists the workers that show themselves. */
static int list_workers(const engine *e)
{
    enum { WORKERS = 1024 };
    char text[TP_TOKEN_TEXT], url[100], (*seen)[TP_ID_TEXT] = calloc(WORKERS, TP_ID_TEXT);
    tp_signer s;
    tp_nats n;
    tp_error err = { 0 };
    unsigned count = 0, slots = 0;
    snprintf(url, sizeof url, "nats://127.0.0.1:%d", e->port);
    signal(SIGPIPE, SIG_IGN);
    if (!seen || !read_line(e, "coordinator.token", text, sizeof text) ||
        tp_signer_open(&s, text, true, &err) || tp_nats_open(&n, &err))
        return fail("%s", err.message);
    if (tp_nats_connect(&n, url, "tidepool", TP_USER_COORDINATOR, s.password, TP_INBOX_COORDINATOR,
                        &err) ||
        tp_nats_subscribe(&n, TP_SUBJECT_HB "*", &err))
        return fail("%s", err.message);
    tp_nats_publish(&n, TP_SUBJECT_CTL "all", NULL, "hello", 5);
    uint64_t until = uv_hrtime() + LISTEN_MS * 1000000ull;
    while (uv_hrtime() < until) {
        tp_nats_event *m = tp_nats_take(&n, until);
        if (!m || m->kind != TP_NATS_MESSAGE) {
            tp_nats_free(&n, m);
            continue;
        }
        char line[256], host[64];
        const char *id = m->subject + strlen(TP_SUBJECT_HB);
        unsigned has = 0, i = 0;
        int at = 0;
        snprintf(line, sizeof line, "%.*s", (int)(m->len < 200 ? m->len : 200), m->data);
        while (i < count && strcmp(seen[i], id) != 0)
            i++;
        if (i == count && count < WORKERS && strlen(id) < TP_ID_TEXT &&
            sscanf(line, "%*s %u %63s %n", &has, host, &at) == 2 && at) {
            strcpy(seen[count++], id);
            slots += has;
            printf("worker on %s: %u at once (%s)\n", host, has, line + at);
        }
        tp_nats_free(&n, m);
    }
    printf("%u worker%s, %u at once\n", count, count == 1 ? "" : "s", slots);
    tp_nats_close(&n);
    free(seen);
    return EXIT_SUCCESS;
}

static int status(engine *e)
{
    pid_t pid = running(e);
    if (!pid || !read_port(e)) {
        printf("No engine of %s runs.\n", e->folder);
        return EXIT_FAILURE;
    }
    printf("The engine runs at nats://127.0.0.1:%d (process %ld, files in %s).\n", e->port,
           (long)pid, e->folder);
    fflush(stdout);
    return list_workers(e);
}

/* ---- words ---- */

/* "127.0.0.1:4222", or "localhost:4222", or a port. 0, or the exit code. */
static int read_listen(engine *e, const char *text)
{
    static const char *const names[] = { "127.0.0.1:", "localhost:", "" };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        size_t len = strlen(names[i]);
        char *end;
        if (strncmp(text, names[i], len) != 0)
            continue;
        long port = strtol(text + len, &end, 10);
        if (text[len] >= '0' && text[len] <= '9' && !*end && port > 0 && port < 65536) {
            e->port = (int)port;
            e->has_port = true;
            return 0;
        }
    }
    if (strchr(text, ':'))
        return usage("it listens on 127.0.0.1 only, not on %s: it has no TLS yet, so others reach "
                     "it through a tunnel (ssh -L 4222:127.0.0.1:4222 HOST)",
                     text);
    return usage("--listen needs 127.0.0.1:PORT, not %s", text);
}

int tp_engine_main(const tp_options *o)
{
    static const struct {
        const char *name;
        int (*run)(engine *e);
    } commands[] = { { "up", up }, { "status", status }, { "down", down }, { "token", NULL } };
    engine e = { .port = PORT };
    if (!tp_engine_folder(e.folder, sizeof e.folder))
        *e.folder = '\0';
    for (int i = o->script; i < o->argc; i++) {
        const char *word = o->argv[i], *next = i + 1 < o->argc ? o->argv[i + 1] : NULL;
        if (strcmp(word, "--help") == 0) {
            fputs(usage_text, stdout);
            return EXIT_SUCCESS;
        } else if (strcmp(word, "--dir") == 0 && next) {
            if (snprintf(e.folder, sizeof e.folder, "%s", next) >= (int)sizeof e.folder)
                return usage("the folder's name is too long%s", "");
            i++;
        } else if (strcmp(word, "--listen") == 0 && next) {
            int wrong = read_listen(&e, next);
            if (wrong)
                return wrong;
            i++;
        } else if (strcmp(word, "--coordinator") == 0) {
            e.is_coordinators = true;
        } else if (*word != '-' && !e.command) {
            e.command = word;
        } else {
            return usage("it does not know %s", word);
        }
    }
    if (!e.command)
        return usage("what is it to do?%s", "");
    if (!*e.folder)
        return fail("there is no folder for it: --dir says which%s", "");
    /* the server runs elsewhere: it needs whole paths */
    if (*e.folder != '/') {
        char here[2000], whole[6000];
        if (!getcwd(here, sizeof here) ||
            snprintf(whole, sizeof whole, "%s/%s", here, e.folder) >= (int)sizeof e.folder)
            return fail("the folder's name is too long%s", "");
        strcpy(e.folder, whole);
    }
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        if (strcmp(e.command, commands[i].name) == 0)
            return commands[i].run ? commands[i].run(&e) : token(&e);
    return usage("it can be up, status, token or down, not %s", e.command);
}
