/* engine.c: `tidepool engine up`, `status`, `token`, `gc` and `down`: a NATS server for the cluster
 * of one user, with its configuration, tokens and streams in a folder. On the loopback address
 * without TLS, on all others with it. */
#include "program/engine.h"

#include "base/amount.h"
#include "base/folder.h"
#include "base/system.h"
#include "cluster/certificate.h"
#include "cluster/nats.h"
#include "cluster/parcel.h"
#include "cluster/protocol.h"
#include "program/engine_gc.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
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
    /* the IP address on which the server listens: 127.0.0.1, 0.0.0.0, :: */
    char address[INET6_ADDRSTRLEN];
    int port;
    bool has_listen; /* --listen was given */
    char monitor[100]; /* up --monitor ADDRESS:PORT; "": nowhere */
    bool is_coordinators; /* token --coordinator */
    const char *whose, *revoked; /* token --for NAME, --revoke NAME */
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
    "usage: tidepool engine up [--listen 127.0.0.1:4222] [--monitor ADDRESS:PORT] | status | "
    "token [--coordinator | --for NAME | --revoke NAME] | gc | down [--dir FOLDER]   (see "
    "tidepool help engine)\n";

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
    char text[100], config[4096], words[8192];
    if (!read_line(e, "nats.pid", text, sizeof text))
        return 0;
    long pid = strtol(text, NULL, 10);
    if (pid <= 1)
        return 0;
    /* the number may be another process's by now: it must be a NATS server */
    size_t n = tp_system_command(pid, words, sizeof words);
    path_of(e, "nats.conf", config);
    return n > 0 && memmem(words, n, config, strlen(config)) ? (pid_t)pid : 0;
}

/* Is that a loopback address, which only this machine can reach? */
static bool is_loopback(const char *address)
{
    return strncmp(address, "127.", 4) == 0 || strcmp(address, "::1") == 0;
}

/* The address at which this machine reaches its own engine. */
static const char *near_address(const engine *e)
{
    if (strcmp(e->address, "0.0.0.0") == 0)
        return "127.0.0.1";
    return strcmp(e->address, "::") == 0 ? "::1" : e->address;
}

/* A URL of the engine, with that host. */
static char *url_of(const engine *e, const char *host, char url[300])
{
    bool has_colons = strchr(host, ':') != NULL;
    snprintf(url, 300, "%s://%s%s%s:%d", is_loopback(e->address) ? "nats" : "tls",
             has_colons ? "[" : "", host, has_colons ? "]" : "", e->port);
    return url;
}

/* Does a NATS server answer at the engine's address? *version gets the version that it names, or
 * "". */
static bool answers(const engine *e, char version[32])
{
    char info[1000] = "", port[12];
    struct addrinfo hints = { .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV,
                              .ai_socktype = SOCK_STREAM },
                    *to = NULL;
    struct timeval patience = { .tv_sec = 2 };
    snprintf(port, sizeof port, "%d", e->port);
    if (getaddrinfo(near_address(e), port, &hints, &to))
        return false;
    int fd = socket(to->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    ssize_t n = fd >= 0 && connect(fd, to->ai_addr, to->ai_addrlen) == 0
                    ? recv(fd, info, sizeof info - 1, 0)
                    : 0;
    freeaddrinfo(to);
    if (fd >= 0)
        close(fd);
    info[n > 0 ? n : 0] = '\0';
    const char *at = strstr(info, "\"version\":\"");
    if (!at || sscanf(at, "\"version\":\"%31[^\"]", version) != 1)
        strcpy(version, "?");
    return strncmp(info, "INFO", 4) == 0;
}

/* Does this version have known vulnerabilities? The versions below are the first that fix all in
 * https://advisories.nats.io, as of 2026-11. */
static bool has_holes(const char *version)
{
    unsigned major = 0, minor = 0, patch = 0;
    if (sscanf(version, "%u.%u.%u", &major, &minor, &patch) != 3 || major > 2)
        return false;
    return minor < 14 ? minor != 12 || patch < 12 : minor == 14 && patch < 3;
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

/* The server's configuration: what each role may do, and nothing else. Nobody may use the API of
 * streams as a whole, since servers before 2.10.27 let such users into other accounts
 * (CVE-2025-30215). */
static const char config_format[] =
    "# Written by `tidepool engine up`, and written again by the next one.\n"
    "listen: \"%s\"\n"
    "server_name: \"tidepool\"\n"
    "pid_file: \"%s/nats.pid\"\n"
    "log_file: \"%s/nats.log\"\n"
    "ping_interval: \"5s\"\n"
    "ping_max: 2\n"
    "jetstream { store_dir: \"%s/streams\" }\n"
    "%s%s"
    "accounts {\n"
    "  TIDEPOOL {\n"
    "    jetstream: enabled\n"
    "    users: [\n"
    "      { user: \"" TP_USER_COORDINATOR "\", password: \"%.64s\", permissions: {\n"
    "        publish: { allow: [\"tp1.d.w.>\", \"tp1.d.b.>\", \"tp1.d.ctl.*\", \"tp1.d.q.*\", "
    "\"_TPW.>\", \"_TPC.>\",\n"
    "          \"$JS.ACK." TP_STREAM_W ".>\",\n"
    "          \"$JS.API.STREAM.CREATE." TP_STREAM_W "\", \"$JS.API.STREAM.CREATE." TP_STREAM_R
    "\", \"$JS.API.STREAM.CREATE." TP_STREAM_B "\",\n"
    "          \"$JS.API.STREAM.PURGE." TP_STREAM_R "\", \"$JS.API.STREAM.PURGE." TP_STREAM_B
    "\", \"$JS.API.STREAM.MSG.DELETE." TP_STREAM_B "\",\n"
    "          \"$JS.API.STREAM.PURGE." TP_STREAM_W "\", \"$JS.API.STREAM.INFO." TP_STREAM_W
    "\", \"$JS.API.STREAM.INFO." TP_STREAM_R "\", \"$JS.API.STREAM.INFO." TP_STREAM_B "\",\n"
    "          \"$JS.API.CONSUMER.NAMES." TP_STREAM_W "\", \"$JS.API.CONSUMER.DELETE." TP_STREAM_W
    ".*\",\n"
    "          \"$JS.API.CONSUMER.DURABLE.CREATE." TP_STREAM_W ".*\",\n"
    "          \"$JS.API.DIRECT.GET." TP_STREAM_R ".>\", \"$JS.API.DIRECT.GET." TP_STREAM_B
    ".>\"] }\n"
    "        subscribe: { allow: [\"_TPC.>\", \"tp1.d.r.>\", \"tp1.d.hb.*\", \"tp1.d.q.*\"] } } }\n"
    "%s"
    "    ]\n"
    "  }\n"
    "}\n";

/* One user for each workers' token: its name, its password, and the subjects of its inbox. */
static const char worker_format[] =
    "      { user: \"%s\", password: \"%.64s\", permissions: {\n"
    "        publish: { allow: [\"tp1.d.r.>\", \"tp1.d.b.>\", \"tp1.d.hb.*\", \"tp1.d.q.*\",\n"
    "          \"$JS.API.CONSUMER.MSG.NEXT." TP_STREAM_W ".*\", \"$JS.ACK." TP_STREAM_W ".>\",\n"
    "          \"$JS.API.DIRECT.GET." TP_STREAM_B ".>\"] }\n"
    "        subscribe: { allow: [\"%s.>\", \"tp1.d.ctl.*\"] } } }\n";

static const char tls_format[] = "tls { cert_file: \"%s/server.pem\", key_file: \"%s/server.key\", "
                                 "timeout: 10 }\n";

/* The file with the workers' token of that name; NULL: the one without a name. */
static char *token_file(const char *name, char file[200])
{
    snprintf(file, 200, name ? "worker-%s.token" : "worker.token", name);
    return file;
}

/* Adds the user of the token in that file, if there is one. */
static int add_user(const engine *e, const char *file, FILE *to)
{
    char token[TP_TOKEN_TEXT];
    tp_signer s;
    tp_error err = { 0 };
    if (!read_line(e, file, token, sizeof token))
        return 0;
    if (tp_signer_open(&s, token, false, &err))
        return fail("%s", err.message);
    fprintf(to, worker_format, s.user, s.password, s.inbox);
    return 0;
}

/* The part of nats.conf with the users of all workers' tokens; to be freed. NULL after saying what
 * is wrong. */
static char *write_users(const engine *e)
{
    char *text = NULL;
    size_t len, name;
    FILE *to = open_memstream(&text, &len);
    DIR *folder = opendir(e->folder);
    int rc = to && folder ? add_user(e, "worker.token", to) : fail("cannot read %s", e->folder);
    for (struct dirent *one; rc == 0 && (one = readdir(folder));)
        if (strncmp(one->d_name, "worker-", 7) == 0 && (name = strlen(one->d_name)) > 6 &&
            strcmp(one->d_name + name - 6, ".token") == 0)
            rc = add_user(e, one->d_name, to);
    if (folder)
        closedir(folder);
    if (to && fclose(to))
        rc = fail("%s", "not enough memory");
    if (rc == 0)
        return text;
    free(text);
    return NULL;
}

/* "ADDRESS:PORT" on which the server listens, for people and for nats.conf. */
static char *listen_of(const engine *e, char text[100])
{
    snprintf(text, 100, strchr(e->address, ':') ? "[%s]:%d" : "%s:%d", e->address, e->port);
    return text;
}

/* Writes nats.conf. `s` is the coordinator's. */
static int write_config(const engine *e, const tp_signer *s)
{
    char *users = write_users(e), *text = NULL, *tls = NULL, address[100], http[120] = "";
    const char *f = e->folder;
    if (!users)
        return -1;
    if (!is_loopback(e->address) && asprintf(&tls, tls_format, f, f) < 0)
        tls = NULL;
    if (*e->monitor)
        snprintf(http, sizeof http, "http: \"%s\"\n", e->monitor);
    int n = asprintf(&text, config_format, listen_of(e, address), f, f, f, tls ? tls : "", http,
                     s->password, users);
    int rc = n < 0 || (!is_loopback(e->address) && !tls) ? fail("%s", "not enough memory")
                                                         : write_file(e, "nats.conf", text);
    free(n < 0 ? NULL : text);
    free(users);
    free(tls);
    return rc;
}

/* Writes the server's TLS certificate and key, which it needs when it listens for other machines.
 * They are new with each start. */
static int write_certificate(const engine *e, const tp_signer *s)
{
    char pem[TP_PEM_MAX], key[TP_PEM_MAX];
    tp_certificate_make(s, pem, key);
    return write_file(e, "server.pem", pem) || write_file(e, "server.key", key);
}

/* Reads the coordinator's token into *s. With `makes`, makes tokens that are missing. */
static int find_tokens(const engine *e, bool makes, tp_signer *s)
{
    char text[TP_TOKEN_TEXT];
    tp_error err = { 0 };
    if (read_line(e, "coordinator.token", text, sizeof text)) {
        if (tp_signer_open(s, text, true, &err))
            return fail("%s", err.message);
    } else if (!makes) {
        return fail("there is no engine in %s: `tidepool engine up` makes one", e->folder);
    } else if (tp_signer_make(s, text, &err)) {
        return fail("%s", err.message);
    } else if (write_file(e, "coordinator.token", text)) {
        return EXIT_FAILURE;
    }
    if (!makes || read_line(e, "worker.token", text, sizeof text))
        return 0;
    tp_signer_make_worker(s, text);
    return write_file(e, "worker.token", text);
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

static void warn_of_holes(const engine *e, const char *version)
{
    if (!is_loopback(e->address) && has_holes(version))
        fprintf(stderr,
                "tidepool engine: warning: nats-server %s has known holes, which 2.12.12 and "
                "2.14.3 have not (https://advisories.nats.io): only machines that you trust should "
                "reach this address\n",
                version);
}

static int show_next(const engine *e, const char *how, const char *version)
{
    char folder[4096], url[300], far[300], name[256] = "HOST";
    bool is_default = tp_engine_folder(folder, sizeof folder) &&
                      strcmp(folder, e->folder) == 0 && !getenv("TIDEPOOL_ENGINE_DIR");
    const char *with = is_default ? "" : "TIDEPOOL_ENGINE_DIR=";
    const char *where = is_default ? "" : e->folder, *space = is_default ? "" : " ";
    url_of(e, near_address(e), url);
    printf("The engine %s at %s (its files are in %s).\n\n"
           "Next, in another terminal:\n"
           "    %s%s%stidepool worker --engine %s\n"
           "and here:\n"
           "    %s%s%stidepool run --engine %s FILE\n",
           how, url, e->folder, with, where, space, url, with, where, space, url);
    if (!is_loopback(e->address)) {
        gethostname(name, sizeof name - 1);
        bool is_any = strcmp(e->address, near_address(e)) != 0;
        printf("and on other machines, with TIDEPOOL_TOKEN=... as `tidepool engine token` shows "
               "it:\n"
               "    tidepool worker --engine %s\n",
               url_of(e, is_any ? name : e->address, far));
    }
    warn_of_holes(e, version);
    return EXIT_SUCCESS;
}

/* "127.0.0.1:4222", "[::]:4222", or a port. False when it is none. */
static bool read_address(const char *text, char address[INET6_ADDRSTRLEN], int *port)
{
    uint8_t bytes[16];
    char host[INET6_ADDRSTRLEN] = "127.0.0.1", *end;
    const char *digits = strrchr(text, ':');
    if (digits) {
        bool has_brackets = *text == '[' && digits > text && digits[-1] == ']';
        size_t len = (size_t)(digits - text) - (has_brackets ? 2 : 0);
        if (len >= sizeof host)
            return false;
        memcpy(host, text + has_brackets, len);
        host[len] = '\0';
        if (strcmp(host, "localhost") == 0)
            strcpy(host, "127.0.0.1");
        if (inet_pton(has_brackets ? AF_INET6 : AF_INET, host, bytes) != 1)
            return false;
    }
    digits = digits ? digits + 1 : text;
    long number = *digits >= '0' && *digits <= '9' ? strtol(digits, &end, 10) : 0;
    if (number <= 0 || number > 65535 || *end)
        return false;
    strcpy(address, host);
    *port = (int)number;
    return true;
}

/* Reads the address and port with which the running engine was started. */
static bool read_listen(engine *e)
{
    char text[100];
    if (!read_line(e, "monitor", e->monitor, sizeof e->monitor))
        *e->monitor = '\0';
    return read_line(e, "listen", text, sizeof text) && read_address(text, e->address, &e->port);
}

static int up(engine *e)
{
    char path[4096], text[101], version[32];
    engine wanted = *e;
    tp_signer s;
    if (strpbrk(e->folder, "\"\\\n"))
        return fail("the folder %s has quotes or line ends in its name", e->folder);
    tp_error err = { 0 };
    int folder;
    if (tp_folder_open(&folder, e->folder, true, &err))
        return fail("%s", err.message);
    close(folder);
    /* an engine that is about to end or to start is waited for */
    for (int ms = 0; running(e) && ms < START_MS; ms += LOOK_MS) {
        read_listen(e);
        if (e->has_listen && (wanted.port != e->port || strcmp(wanted.address, e->address) != 0))
            return fail("it runs already, at another address: `%s` ends it",
                        "tidepool engine down");
        if (answers(e, version))
            return show_next(e, "runs already", version);
        usleep(LOOK_MS * 1000);
    }
    if (!e->has_listen)
        read_listen(e);
    strcpy(e->monitor, wanted.monitor);
    const char *server = find_server(path);
    if (!server)
        return fail("%s is not installed: on Debian, apt install nats-server", "nats-server");
    listen_of(e, text);
    if (answers(e, version))
        return fail("another server listens on %s: --listen ADDRESS:PORT takes another port", text);
    strcat(text, "\n");
    if (find_tokens(e, true, &s) || (!is_loopback(e->address) && write_certificate(e, &s)) ||
        write_config(e, &s) || write_file(e, "listen", text) ||
        write_file(e, "monitor", e->monitor))
        return EXIT_FAILURE;
    char log[4096];
    unlink(path_of(e, "nats.log", log));
    unlink(path_of(e, "nats.pid", log));
    pid_t pid = start_server(e, server);
    for (int ms = 0; pid > 0 && ms < START_MS; ms += LOOK_MS) {
        if (waitpid(pid, NULL, WNOHANG) == pid)
            break;
        if (running(e) == pid && answers(e, version))
            return show_next(e, "runs", version);
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

/* How often the server has reloaded its configuration, by its log. */
static int count_reloads(const engine *e)
{
    char path[4096], line[1000];
    int n = 0;
    FILE *file = fopen(path_of(e, "nats.log", path), "re");
    while (file && fgets(line, sizeof line, file))
        n += strstr(line, "Reloaded server configuration") != NULL;
    if (file)
        fclose(file);
    return n;
}

/* Makes a running server reload its configuration, after tokens were added or revoked. */
static int reload(engine *e, const tp_signer *s)
{
    pid_t pid = running(e);
    if (!pid || !read_listen(e))
        return 0;
    int before = count_reloads(e);
    if (write_config(e, s))
        return EXIT_FAILURE;
    kill(pid, SIGHUP);
    for (int ms = 0; ms < END_MS; ms += LOOK_MS) {
        if (count_reloads(e) > before)
            return 0;
        usleep(LOOK_MS * 1000);
    }
    return fail("%s does not read its configuration again", "nats-server");
}

static int end_token(engine *e)
{
    char path[4096], file[200];
    tp_signer s;
    if (find_tokens(e, false, &s))
        return EXIT_FAILURE;
    if (unlink(path_of(e, token_file(e->revoked, file), path)))
        return fail("there is no token for %s", e->revoked);
    if (reload(e, &s))
        return EXIT_FAILURE;
    printf("The token for %s is worth nothing any more.\n", e->revoked);
    return EXIT_SUCCESS;
}

static int token(engine *e)
{
    char text[TP_TOKEN_TEXT], file[200];
    tp_signer s;
    if (e->revoked)
        return end_token(e);
    bool is_there =
        read_line(e, e->is_coordinators ? "coordinator.token" : token_file(e->whose, file), text,
                  sizeof text);
    if (!is_there && !e->whose)
        return fail("there is no engine in %s: `tidepool engine up` makes one", e->folder);
    if (!is_there) {
        if (find_tokens(e, false, &s))
            return EXIT_FAILURE;
        tp_signer_make_worker(&s, text);
        if (write_file(e, file, text) || reload(e, &s))
            return EXIT_FAILURE;
    }
    puts(text);
    return EXIT_SUCCESS;
}

/* Connects as a coordinator. 0, or the exit code after saying why not. */
static int connect_to(const engine *e, tp_nats *n, tp_signer *s)
{
    char text[TP_TOKEN_TEXT], url[300];
    tp_error err = { 0 };
    url_of(e, near_address(e), url);
    signal(SIGPIPE, SIG_IGN);
    if (!read_line(e, "coordinator.token", text, sizeof text) ||
        tp_signer_open(s, text, true, &err) || tp_nats_open(n, &err))
        return fail("%s", err.message);
    return tp_nats_connect(n, url, "tidepool", s, &err) ? fail("%s", err.message) : 0;
}

/* Shows what the process that drives a machine's devices tells of them: see read_devices in
 * cluster/coordinator/crew.c. */
static void list_devices(const char *host, char *lines)
{
    for (char *line; (line = strsep(&lines, "\n"));) {
        char type[16], name[TP_SUBJECT_MAX];
        char shown[TP_AMOUNT_TEXT];
        unsigned long long memory;
        if (sscanf(line, "%15[^\t]\t%*[^\t]\t%*[^\t]\t%llu\t%255[^\t]", type, &memory, name) == 3)
            printf("device on %s: %s (%s, %s)\n", host, name, type,
                   tp_amount_of_bytes(shown, memory));
    }
}

/* Lists the workers that show themselves. */
static int list_workers(const engine *e)
{
    enum { WORKERS = 1024 };
    char (*seen)[TP_ID_TEXT] = calloc(WORKERS, TP_ID_TEXT);
    tp_signer s;
    tp_nats n;
    tp_error err = { 0 };
    unsigned count = 0, workers = 0, slots = 0;
    if (!seen || connect_to(e, &n, &s))
        return EXIT_FAILURE;
    if (tp_nats_subscribe(&n, TP_SUBJECT_HB "*", &err))
        return fail("%s", err.message);
    tp_nats_publish(&n, TP_SUBJECT_CTL "all", NULL, "hello", 5);
    uint64_t until = uv_hrtime() + LISTEN_MS * 1000000ull;
    while (uv_hrtime() < until) {
        tp_nats_event *m = tp_nats_take(&n, until);
        if (!m || m->kind != TP_NATS_MESSAGE) {
            tp_nats_free(&n, m);
            continue;
        }
        char line[8192], host[64];
        const char *id = m->subject + strlen(TP_SUBJECT_HB);
        unsigned has = 0, i = 0;
        int at = 0;
        snprintf(line, sizeof line, "%.*s",
                 (int)(m->len < sizeof line ? m->len : sizeof line - 1), m->data);
        char *devices = strchr(line, '\n');
        if (devices)
            *devices++ = '\0';
        while (i < count && strcmp(seen[i], id) != 0)
            i++;
        if (i == count && count < WORKERS && strlen(id) < TP_ID_TEXT &&
            sscanf(line, "%*s %u %63s %*s %*s %n", &has, host, &at) == 2 && at) {
            strcpy(seen[count++], id);
            if (devices) {
                list_devices(host, devices);
            } else {
                workers++;
                slots += has;
                printf("worker on %s: %u at once (%s)\n", host, has, line + at);
            }
        }
        tp_nats_free(&n, m);
    }
    printf("%u worker%s, %u at once\n", workers, workers == 1 ? "" : "s", slots);
    tp_nats_close(&n);
    free(seen);
    return EXIT_SUCCESS;
}

static int status(engine *e)
{
    char url[300], version[32];
    tp_build build;
    pid_t pid = running(e);
    if (!pid || !read_listen(e)) {
        printf("No engine of %s runs.\n", e->folder);
        return EXIT_FAILURE;
    }
    answers(e, version);
    printf("The engine runs at %s (nats-server %s, process %ld, files in %s).\n",
           url_of(e, near_address(e), url), version, (long)pid, e->folder);
    tp_build_get(&build);
    printf("Work for workers of this build waits at the consumer P_%s of " TP_STREAM_W ".\n",
           build.hex);
    fflush(stdout);
    warn_of_holes(e, version);
    return list_workers(e);
}

static int gc(engine *e)
{
    tp_signer s;
    tp_nats n;
    if (!running(e) || !read_listen(e))
        return fail("no engine of %s runs", e->folder);
    if (connect_to(e, &n, &s))
        return EXIT_FAILURE;
    int code = tp_engine_gc(&n, &s);
    tp_nats_close(&n);
    return code;
}

/* ---- words ---- */

/* Is it a valid name for a token? It becomes part of a file's name. */
static bool is_name(const char *text)
{
    static const char fine[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";
    size_t len = strlen(text);
    return len > 0 && len < 100 && strspn(text, fine) == len;
}

int tp_engine_main(const tp_options *o)
{
    static const struct {
        const char *name;
        int (*run)(engine *e);
    } commands[] = { { "up", up }, { "status", status }, { "down", down }, { "token", token },
                   { "gc", gc } };
    engine e = { .address = "127.0.0.1", .port = PORT };
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
            if (!read_address(next, e.address, &e.port))
                return usage("--listen needs ADDRESS:PORT, as 127.0.0.1:4222 or 0.0.0.0:4222, "
                             "not %s",
                             next);
            e.has_listen = true;
            i++;
        } else if (strcmp(word, "--monitor") == 0 && next) {
            engine monitor = { .port = 0 };
            if (!read_address(next, monitor.address, &monitor.port))
                return usage("--monitor needs ADDRESS:PORT, as 127.0.0.1:8222, not %s", next);
            listen_of(&monitor, e.monitor);
            i++;
        } else if ((strcmp(word, "--for") == 0 || strcmp(word, "--revoke") == 0) && next) {
            if (!is_name(next))
                return usage("a token's name has letters, digits and -_. only, not as %s", next);
            *(strcmp(word, "--for") == 0 ? &e.whose : &e.revoked) = next;
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
        return fail("there is no folder for it, since HOME is not set: --dir says which%s", "");
    /* the server runs in another folder, so paths must be absolute */
    if (*e.folder != '/') {
        char here[2000], whole[6000];
        if (!getcwd(here, sizeof here) ||
            snprintf(whole, sizeof whole, "%s/%s", here, e.folder) >= (int)sizeof e.folder)
            return fail("the folder's name is too long%s", "");
        strcpy(e.folder, whole);
    }
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        if (strcmp(e.command, commands[i].name) == 0)
            return commands[i].run(&e);
    return usage("it can be up, status, token, gc or down, not %s", e.command);
}
