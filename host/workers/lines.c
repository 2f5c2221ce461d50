/* lines.c: what items write, as whole lines. See lines.h.
 *
 * A line goes to the host in one piece, however many calls wrote it, so that lines of several
 * workers do not mix. An unfinished line belongs to the item that wrote it; the next item of the
 * same work sends it out before it writes anything itself. Items of a nested map, which the agent
 * runs while an outer item waits, have work and lines of their own; the outer item's unfinished
 * line waits until that item goes on. Under tp_config.tag_lines each line begins with its worker
 * and input ("w3 #17| "), and an unfinished one gets an end. */
#include "workers/lines.h"

#include <stdio.h>
#include <string.h>

enum { BEGUN_MAX = 1 << 16 }; /* longest unfinished line that is kept waiting for its end */

/* The number of the input that runs, from 1. */
static uint64_t item_of(const tp_work *w)
{
    return w->block->first + (uint64_t)tp_work_running(w) + 1;
}

/* Appends each line with a tag before it. -1 when out of memory. */
static int add_tagged(tp_buf *to, const char *bytes, size_t len, int worker, uint64_t item)
{
    char tag[64];
    const int tag_len = snprintf(tag, sizeof tag, "w%d #%llu| ", worker, (unsigned long long)item);
    for (const char *end = bytes + len; bytes < end;) {
        const char *newline = memchr(bytes, '\n', (size_t)(end - bytes));
        const size_t n = (size_t)((newline ? newline + 1 : end) - bytes);
        if (tp_buf_add(to, tag, (size_t)tag_len) || tp_buf_add(to, bytes, n) ||
            (!newline && tp_buf_add(to, "\n", 1)))
            return -1;
        bytes += n;
    }
    return 0;
}

/* Without memory for the tags, the lines go out untagged. */
static void send_out(tp_worker *worker, const tp_work *work, int fd, const char *bytes, size_t len)
{
    if (worker->tags_lines) {
        tp_buf *tagged = &worker->tagged;
        tp_buf_clear(tagged);
        if (add_tagged(tagged, bytes, len, worker->index, work->lines.item) == 0) {
            worker->type->write(worker, fd, (const char *)tagged->data, tagged->len);
            return;
        }
    }
    worker->type->write(worker, fd, bytes, len);
}

void tp_lines_end(tp_worker *worker, tp_work *work)
{
    for (int i = 0; i < 2; i++) {
        tp_buf *begun = &work->lines.begun[i];
        if (begun->len == 0)
            continue;
        send_out(worker, work, i + 1, (const char *)begun->data, begun->len);
        tp_buf_clear(begun);
    }
}

void tp_lines_write(tp_worker *worker, int fd, const char *bytes, size_t len)
{
    tp_work *work = worker->current;
    if (!work) {
        worker->type->write(worker, fd, bytes, len);
        return;
    }
    tp_lines *lines = &work->lines;
    tp_buf *begun = &lines->begun[fd - 1];
    const uint64_t item = item_of(work);
    if (lines->item != item)
        tp_lines_end(worker, work);
    lines->item = item;

    const char *newline = memrchr(bytes, '\n', len);
    const size_t whole = newline ? (size_t)(newline + 1 - bytes) : 0;
    if (whole > 0 && begun->len == 0) {
        send_out(worker, work, fd, bytes, whole);
    } else if (whole > 0) {
        if (tp_buf_add(begun, bytes, whole) == 0) {
            send_out(worker, work, fd, (const char *)begun->data, begun->len);
        } else {
            send_out(worker, work, fd, (const char *)begun->data, begun->len);
            send_out(worker, work, fd, bytes, whole);
        }
        tp_buf_clear(begun);
    }
    if (len == whole)
        return;
    if (begun->len + len - whole > BEGUN_MAX || tp_buf_add(begun, bytes + whole, len - whole)) {
        if (begun->len > 0)
            send_out(worker, work, fd, (const char *)begun->data, begun->len);
        tp_buf_clear(begun);
        send_out(worker, work, fd, bytes + whole, len - whole);
    }
}
