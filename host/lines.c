/* lines.c: what items write, as whole lines. See lines.h.
 *
 * A line goes to the host in one piece, however many calls have made it, so that lines of several workers do not mix. The beginning of a line
 * belongs to the item that wrote it: the next item of the same agent, also one of a nested map, sends it out before it writes itself.
 * Under tp_config.tag_lines each line begins with its worker and input ("w3 #17| "), and one that has no end gets one. */
#include "lines.h"

#include "host.h"

#include <stdio.h>
#include <string.h>

enum { BEGUN_MAX = 1 << 16 }; /* bytes of a line that wait for its end */

/* The number of the input that the agent's slice runs, from 1. */
static uint64_t item_of(const tp_slice *s)
{
    return s->block->first + (uint64_t)atomic_load_explicit(&s->ctl[0], memory_order_relaxed) + 1;
}

static int add(tp_buf *to, const char *bytes, size_t len)
{
    uint8_t *at = tp_buf_reserve(to, len);
    if (!at)
        return -1;
    memcpy(at, bytes, len);
    to->len += len;
    return 0;
}

/* Each line after its tag. -1 when out of memory. */
static int add_tagged(tp_buf *to, const char *bytes, size_t len, int worker, uint64_t item)
{
    char tag[64];
    const int tag_len = snprintf(tag, sizeof tag, "w%d #%llu| ", worker, (unsigned long long)item);
    for (const char *end = bytes + len; bytes < end;) {
        const char *newline = memchr(bytes, '\n', (size_t)(end - bytes));
        const size_t n = (size_t)((newline ? newline + 1 : end) - bytes);
        if (add(to, tag, (size_t)tag_len) || add(to, bytes, n) || (!newline && add(to, "\n", 1)))
            return -1;
        bytes += n;
    }
    return 0;
}

/* What there is no memory to tag goes out without. */
static void send_out(tp_host *host, tp_agent *agent, int fd, const char *bytes, size_t len)
{
    if (host->config.tag_lines) {
        tp_buf *tagged = &agent->lines.tagged;
        tp_buf_clear(tagged);
        if (add_tagged(tagged, bytes, len, agent->index, agent->lines.item) == 0) {
            tp_host_print(host, fd, (const char *)tagged->data, tagged->len);
            return;
        }
    }
    tp_host_print(host, fd, bytes, len);
}

void tp_lines_end(tp_host *host, tp_agent *agent)
{
    for (int i = 0; i < 2; i++) {
        tp_buf *begun = &agent->lines.begun[i];
        if (begun->len == 0)
            continue;
        send_out(host, agent, i + 1, (const char *)begun->data, begun->len);
        tp_buf_clear(begun);
    }
}

void tp_lines_write(tp_host *host, tp_agent *agent, int fd, const char *bytes, size_t len)
{
    if (!agent || !agent->current) {
        tp_host_print(host, fd, bytes, len);
        return;
    }
    tp_lines *lines = &agent->lines;
    tp_buf *begun = &lines->begun[fd - 1];
    const uint64_t item = item_of(agent->current);
    if (lines->slice != agent->current || lines->item != item)
        tp_lines_end(host, agent);
    lines->slice = agent->current;
    lines->item = item;

    const char *newline = memrchr(bytes, '\n', len);
    const size_t whole = newline ? (size_t)(newline + 1 - bytes) : 0;
    if (whole > 0 && begun->len == 0) {
        send_out(host, agent, fd, bytes, whole);
    } else if (whole > 0) {
        if (add(begun, bytes, whole) == 0) {
            send_out(host, agent, fd, (const char *)begun->data, begun->len);
        } else {
            send_out(host, agent, fd, (const char *)begun->data, begun->len);
            send_out(host, agent, fd, bytes, whole);
        }
        tp_buf_clear(begun);
    }
    if (len == whole)
        return;
    if (begun->len + len - whole > BEGUN_MAX || add(begun, bytes + whole, len - whole)) {
        if (begun->len > 0)
            send_out(host, agent, fd, (const char *)begun->data, begun->len);
        tp_buf_clear(begun);
        send_out(host, agent, fd, bytes + whole, len - whole);
    }
}

void tp_lines_free(tp_lines *lines)
{
    tp_buf_free(&lines->begun[0]);
    tp_buf_free(&lines->begun[1]);
    tp_buf_free(&lines->tagged);
}
