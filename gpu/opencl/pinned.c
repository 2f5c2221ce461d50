/* pinned.c: copies by way of pinned memory, in pieces. */
#include "opencl/pinned.h"

#include "opencl/life.h"

#include <stdlib.h>
#include <string.h>

/* The size of pieces for a copy: a quarter of it, so that the host and the card work at the same
 * time, but as large as is worth a command. */
static size_t choose_piece(size_t size)
{
    size_t piece = TP_PIECE_MIN;
    while (piece < TP_PIECE_MAX && piece < size / 4)
        piece *= 2;
    return piece;
}

/* Waits until the device has done with the half, and notes if its last command has failed. */
static void settle(tp_pinned *p, const tp_transfer *t, tp_pinned_half *h)
{
    const tp_cl *cl = t->open->cl;
    cl_int status = CL_COMPLETE, rc;
    if (!h->last)
        return;
    if (p->waiter)
        tp_queue_waiter_wait_for(p->waiter, cl, t->queue, h->last);
    rc = cl->WaitForEvents(1, &h->last);
    if (cl->GetEventInfo(h->last, CL_EVENT_COMMAND_EXECUTION_STATUS, sizeof status, &status,
                         NULL) == CL_SUCCESS && status < 0)
        rc = status; /* says more than that the wait failed */
    cl->ReleaseEvent(h->last);
    h->last = NULL;
    if (p->failed == CL_SUCCESS)
        p->failed = rc;
}

static void free_half(tp_pinned *p, const tp_transfer *t, tp_pinned_half *h)
{
    const tp_cl *cl = t->open->cl;
    settle(p, t, h);
    if (h->data && cl->EnqueueUnmapMemObject(t->queue, h->mem, h->data, 0, NULL, NULL) ==
                       CL_SUCCESS)
        cl->Finish(t->queue);
    if (h->mem) {
        cl->ReleaseMemObject(h->mem);
        tp_room_subtract(&t->open->life->room, TP_HELD_PINNED, h->size);
    }
    *h = (tp_pinned_half){ 0 };
}

/* Makes the half hold a piece. False when there is no memory. */
static bool grow(tp_pinned *p, const tp_transfer *t, tp_pinned_half *h, size_t piece)
{
    const tp_cl *cl = t->open->cl;
    cl_int rc;
    if (h->capacity >= piece)
        return true;
    if (p->waiter) /* what follows waits, too, but may spin */
        tp_queue_waiter_wait(p->waiter, cl, t->queue);
    free_half(p, t, h);
    h->mem = cl->CreateBuffer(t->open->context, CL_MEM_READ_WRITE | CL_MEM_ALLOC_HOST_PTR, piece,
                              NULL, &rc);
    if (rc != CL_SUCCESS) {
        h->mem = NULL;
        return false;
    }
    h->size = piece;
    tp_room_add(&t->open->life->room, TP_HELD_PINNED, piece);
    h->data = cl->EnqueueMapBuffer(t->queue, h->mem, CL_TRUE, CL_MAP_READ | CL_MAP_WRITE, 0, piece,
                                   0, NULL, NULL, &rc);
    if (rc != CL_SUCCESS || !h->data) {
        h->data = NULL;
        free_half(p, t, h);
        return false;
    }
    h->capacity = piece;
    return true;
}

/* Is the copy one for pinned memory, and is there some? Who shares the host's memory needs none. */
static bool prepare(tp_pinned *p, const tp_transfer *t, size_t size, size_t piece)
{
    tp_error ignored = { 0 }; /* without a waiter it spins */
    if (t->open->device->is_unified || size < TP_PINNED_FROM || p->is_refused)
        return false;
    if (!p->waiter)
        p->waiter = tp_queue_waiter_new(&ignored);
    p->wanted = p->wanted > piece ? p->wanted : piece;
    if (grow(p, t, &p->half[0], piece) && grow(p, t, &p->half[1], piece))
        return true;
    tp_pinned_give_up(p, t);
    return false;
}

static cl_event *event_of(const tp_transfer *t, size_t size)
{
    return t->time ? t->time(t->user, size) : NULL;
}

/* Starts to copy `size` bytes between the half and the device's memory. */
static cl_int start(const tp_transfer *t, tp_pinned_half *h, bool is_home, cl_mem mem, size_t at,
                    size_t size)
{
    const tp_cl *cl = t->open->cl;
    cl_event *place = event_of(t, size);
    cl_int rc = is_home ? cl->EnqueueReadBuffer(t->queue, mem, CL_FALSE, at, size, h->data, 0, NULL,
                                                &h->last)
                        : cl->EnqueueWriteBuffer(t->queue, mem, CL_FALSE, at, size, h->data, 0,
                                                 NULL, &h->last);
    if (rc != CL_SUCCESS)
        h->last = NULL;
    else if (place && cl->RetainEvent(h->last) == CL_SUCCESS)
        *place = h->last;
    return rc == CL_SUCCESS ? cl->Flush(t->queue) : rc;
}

cl_int tp_pinned_settle(tp_pinned *p, const tp_transfer *t)
{
    settle(p, t, &p->half[0]);
    settle(p, t, &p->half[1]);
    cl_int rc = p->failed;
    p->failed = CL_SUCCESS;
    return rc;
}

cl_int tp_pinned_write(tp_pinned *p, const tp_transfer *t, cl_mem mem, size_t at, const void *from,
                       size_t size, bool is_settled)
{
    const char *data = from;
    size_t piece = choose_piece(size);
    cl_int rc = CL_SUCCESS;
    if (!prepare(p, t, size, piece))
        return t->open->cl->EnqueueWriteBuffer(t->queue, mem, is_settled, at, size, from, 0, NULL,
                                               event_of(t, size));
    for (size_t done = 0, n; done < size && rc == CL_SUCCESS; done += n) {
        tp_pinned_half *h = &p->half[p->next];
        n = size - done < piece ? size - done : piece;
        settle(p, t, h);
        memcpy(h->data, data + done, n); /* while the device takes the piece before this one */
        rc = p->failed == CL_SUCCESS ? start(t, h, false, mem, at + done, n) : p->failed;
        p->next = !p->next;
    }
    if (rc == CL_SUCCESS && !is_settled)
        return rc;
    cl_int failed = tp_pinned_settle(p, t);
    return rc == CL_SUCCESS ? failed : rc;
}

cl_int tp_pinned_read(tp_pinned *p, const tp_transfer *t, cl_mem mem, size_t at, void *to,
                      size_t size, bool is_settled)
{
    char *data = to;
    size_t piece = choose_piece(size), asked = 0;
    cl_int rc = CL_SUCCESS;
    if (!prepare(p, t, size, piece))
        return t->open->cl->EnqueueReadBuffer(t->queue, mem, is_settled, at, size, to, 0, NULL,
                                              event_of(t, size));
    for (size_t done = 0, n; done < size && rc == CL_SUCCESS; done += n) {
        /* the next piece is on its way while this one is copied */
        for (; rc == CL_SUCCESS && asked < size && asked < done + 2 * piece; asked += piece) {
            tp_pinned_half *h = &p->half[asked / piece % 2];
            settle(p, t, h);
            rc = start(t, h, true, mem, at + asked, size - asked < piece ? size - asked : piece);
        }
        tp_pinned_half *h = &p->half[done / piece % 2];
        n = size - done < piece ? size - done : piece;
        settle(p, t, h);
        rc = rc == CL_SUCCESS ? p->failed : rc;
        if (rc == CL_SUCCESS)
            memcpy(data + done, h->data, n);
    }
    cl_int failed = tp_pinned_settle(p, t);
    return rc == CL_SUCCESS ? failed : rc;
}

void tp_pinned_trim(tp_pinned *p, const tp_transfer *t)
{
    for (int i = 0; i < 2; i++)
        if (p->half[i].capacity / 4 > p->wanted)
            free_half(p, t, &p->half[i]);
    p->wanted = 0;
    p->is_refused = false;
}

bool tp_pinned_give_up(tp_pinned *p, const tp_transfer *t)
{
    bool had_some = p->half[0].mem || p->half[1].mem;
    free_half(p, t, &p->half[0]);
    free_half(p, t, &p->half[1]);
    p->is_refused = true;
    return had_some;
}

void tp_pinned_close(tp_pinned *p, const tp_transfer *t)
{
    free_half(p, t, &p->half[0]);
    free_half(p, t, &p->half[1]);
    tp_ref_drop(p->waiter);
    *p = (tp_pinned){ 0 };
}
