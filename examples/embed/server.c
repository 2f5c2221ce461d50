/* server.c: a server with its own libuv loop. Each line that a client sends is a Lua expression; a
 * worker computes it, and the answer goes back. The loop never waits for a worker: other clients,
 * and other lines of the same one, are served meanwhile.
 *
 *     cc server.c $(pkg-config --cflags --libs tidepool libuv) -o server
 *     ./server /tmp/answers.sock
 *
 * A line "quit" ends the server. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tidepool.h>
#include <uv.h>

static const char compute[] =
    "return function(line)\n"
    "  local chunk, problem = loadstring('return ' .. line, '=line')\n"
    "  return tostring(assert(chunk, problem)())\n"
    "end";

/* One connection. Freed when it is closed and the last of its answers has come. */
typedef struct client {
    uv_pipe_t pipe; /* first: a client is its handle */
    int waiting;    /* lines without an answer */
    int is_closed;
    size_t len;
    char line[4096];
} client;

typedef struct answer {
    uv_write_t write;
    size_t len;
    char text[];
} answer;

static struct server {
    tp_host *host;
    tp_function *compute;
    uv_pipe_t listener;
} server;

static void release(client *c)
{
    if (c->is_closed && c->waiting == 0)
        free(c);
}

static void on_closed(uv_handle_t *handle)
{
    client *c = (client *)handle;
    c->is_closed = 1;
    release(c);
}

static void hang_up(client *c)
{
    if (!uv_is_closing((uv_handle_t *)c))
        uv_close((uv_handle_t *)c, on_closed);
}

static void on_written(uv_write_t *write, int status)
{
    if (status)
        hang_up((client *)write->handle);
    free(write);
}

static void send_text(client *c, const char *text)
{
    size_t len = strlen(text);
    answer *a = malloc(sizeof *a + len + 1);
    if (!a || uv_is_closing((uv_handle_t *)c)) {
        free(a);
        return;
    }
    memcpy(a->text, text, len);
    a->text[len] = '\n';
    uv_buf_t buf = uv_buf_init(a->text, (unsigned)len + 1);
    uv_write(&a->write, (uv_stream_t *)&c->pipe, &buf, 1, on_written);
}

/* A result has come: called from our own uv_run. */
static void on_result(void *user, tp_map *map, tp_next status, const tp_result *result)
{
    client *c = user;
    if (status > 0) {
        send_text(c, result->values[0].as.bytes);
        return;
    }
    if (status < 0)
        send_text(c, tp_map_failure(map)->message);
    tp_map_close(map);
    c->waiting--;
    release(c);
}

static void stop(void)
{
    uv_close((uv_handle_t *)&server.listener, NULL);
}

static void take_line(client *c, const char *line, size_t len)
{
    tp_map *map = NULL;
    tp_error err = { TP_OK, "" };
    tp_span input = { line, len };
    if (len == 4 && memcmp(line, "quit", 4) == 0) {
        stop();
        hang_up(c);
    } else if (tp_map_bytes(&map, server.compute, &input, 1, NULL, &err) ==
                   0 /* has read the one line */
               && tp_map_on_result(map, on_result, c, &err) == 0) {
        c->waiting++;
    } else {
        tp_map_close(map);
        send_text(c, err.message);
    }
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    client *c = (client *)handle;
    (void)suggested;
    *buf = uv_buf_init(c->line + c->len, (unsigned)(sizeof c->line - c->len));
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    client *c = (client *)stream;
    (void)buf;
    if (n < 0) {
        hang_up(c);
        return;
    }
    c->len += (size_t)n;
    char *end, *at = c->line;
    while ((end = memchr(at, '\n', (size_t)(c->line + c->len - at)))) {
        take_line(c, at, (size_t)(end - at));
        at = end + 1;
    }
    c->len -= (size_t)(at - c->line);
    memmove(c->line, at, c->len);
    if (c->len == sizeof c->line)
        hang_up(c); /* a line that long is none */
}

static void on_connection(uv_stream_t *listener, int status)
{
    client *c = status == 0 ? calloc(1, sizeof *c) : NULL;
    if (!c)
        return;
    uv_pipe_init(listener->loop, &c->pipe, 0);
    if (uv_accept(listener, (uv_stream_t *)&c->pipe) ||
        uv_read_start((uv_stream_t *)&c->pipe, on_alloc, on_read))
        hang_up(c);
}

int main(int argc, char **argv)
{
    uv_loop_t loop;
    tp_error err = { TP_OK, "" };
    tp_config config = { .size = sizeof config, .loop = &loop };
    int status;

    if (argc != 2) {
        fprintf(stderr, "usage: server SOCKET\n");
        return 2;
    }
    uv_loop_init(&loop);
    uv_pipe_init(&loop, &server.listener, 0);
    if ((status = uv_pipe_bind(&server.listener, argv[1])) != 0 ||
        (status = uv_listen((uv_stream_t *)&server.listener, 16, on_connection)) != 0) {
        fprintf(stderr, "server: %s: %s\n", argv[1], uv_strerror(status));
        return 1;
    }
    if (tp_host_open(&server.host, &config, &err) == 0
        && tp_function_from_lua(&server.compute, server.host, "compute", compute, NULL, &err) == 0)
        uv_run(&loop, UV_RUN_DEFAULT); /* until the listener and all clients are closed */
    else
        fprintf(stderr, "server: %s\n", err.message);
    tp_host_close(server.host);
    uv_run(&loop, UV_RUN_DEFAULT); /* lets go of the host's handles */
    return err.code || uv_loop_close(&loop) ? 1 : 0;
}
