/* nats.h: a connection to a NATS server, and what comes in on it, in one queue.
 *
 * The client library (libnats) is loaded at the first connection and never linked, so that
 * a program without a cluster neither needs it nor takes longer to start. The part of its
 * interface that is used is declared here.
 *
 * One thread of ours, the taker, makes all calls but tp_nats_publish and tp_nats_wake. It also
 * reads and writes the socket, in tp_nats_take, so that no message passes through another thread,
 * and messages that are published while the taker is busy go out in one write. The library's own
 * threads ping the server.
 *
 * A connection that was lost is never used again: the taker has a thread make a new one, and
 * subscribes to everything there. The library would reconnect by itself, but in somebody's loop it
 * keeps what it has read of a message whose end was lost, and takes that from the new socket
 * (github.com/nats-io/nats.c/issues/1007). */
#ifndef TP_NATS_H
#define TP_NATS_H

#include "base/buf.h"
#include "base/error.h"
#include "cluster/sign.h"

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

typedef struct __natsOptions natsOptions;
typedef struct __natsConnection natsConnection;
typedef struct __natsSubscription natsSubscription;
typedef struct __natsMsg natsMsg;
typedef void (*natsConnectionHandler)(natsConnection *, void *);
typedef void (*natsErrHandler)(natsConnection *, natsSubscription *, int, void *);
/* How the library tells a loop which socket it is to watch, and for what. */
typedef int (*natsEvLoop_Attach)(void **, void *, natsConnection *, int);
typedef int (*natsEvLoop_Change)(void *, bool);
typedef int (*natsEvLoop_Detach)(void *);

#define TP_NATS_FUNCTIONS(X)                                                                    \
    X(const char *, Status_GetText, (int))                                                      \
    X(int, Options_Create, (natsOptions **))                                                    \
    X(void, Options_Destroy, (natsOptions *))                                                   \
    X(int, Options_SetURL, (natsOptions *, const char *))                                       \
    X(int, Options_SetName, (natsOptions *, const char *))                                      \
    X(int, Options_SetUserInfo, (natsOptions *, const char *, const char *))                    \
    X(int, Options_SetSecure, (natsOptions *, bool))                                            \
    X(int, Options_SetCATrustedCertificates, (natsOptions *, const char *))                     \
    X(int, Options_SetExpectedHostname, (natsOptions *, const char *))                          \
    X(int, Options_SetTimeout, (natsOptions *, int64_t))                                        \
    X(int, Options_SetAllowReconnect, (natsOptions *, bool))                                    \
    X(int, Options_SetPingInterval, (natsOptions *, int64_t))                                   \
    X(int, Options_SetMaxPingsOut, (natsOptions *, int))                                        \
    X(int, Options_SetSendAsap, (natsOptions *, bool))                                          \
    X(int, Options_SetCustomInboxPrefix, (natsOptions *, const char *))                         \
    X(int, Options_SetClosedCB, (natsOptions *, natsConnectionHandler, void *))                 \
    X(int, Options_SetErrorHandler, (natsOptions *, natsErrHandler, void *))                    \
    X(int, Options_SetEventLoop,                                                                \
      (natsOptions *, void *, natsEvLoop_Attach, natsEvLoop_Change, natsEvLoop_Change,          \
       natsEvLoop_Detach))                                                                      \
    X(int, Connection_Connect, (natsConnection **, natsOptions *))                              \
    X(int64_t, Connection_GetMaxPayload, (natsConnection *))                                    \
    X(void, Connection_ProcessReadEvent, (natsConnection *))                                    \
    X(void, Connection_ProcessWriteEvent, (natsConnection *))                                   \
    X(int, Connection_Buffered, (natsConnection *))                                             \
    X(void, Connection_Close, (natsConnection *))                                               \
    X(void, Connection_Destroy, (natsConnection *))                                             \
    X(int, Connection_PublishRequest,                                                           \
      (natsConnection *, const char *, const char *, const void *, int))                        \
    X(int, Connection_Publish, (natsConnection *, const char *, const void *, int))             \
    X(int, Connection_SubscribeSync, (natsSubscription **, natsConnection *, const char *))     \
    X(int, Subscription_SetPendingLimits, (natsSubscription *, int, int))                       \
    X(int, Subscription_QueuedMsgs, (natsSubscription *, uint64_t *))                           \
    X(int, Subscription_NextMsg, (natsMsg **, natsSubscription *, int64_t))                     \
    X(void, Subscription_Destroy, (natsSubscription *))                                         \
    X(const char *, Msg_GetSubject, (const natsMsg *))                                          \
    X(const char *, Msg_GetReply, (const natsMsg *))                                            \
    X(const char *, Msg_GetData, (const natsMsg *))                                             \
    X(int, Msg_GetDataLength, (const natsMsg *))                                                \
    X(int, MsgHeader_Get, (natsMsg *, const char *, const char **))                             \
    X(void, Msg_Destroy, (natsMsg *))

enum {
    TP_NATS_SUBSCRIPTIONS = 5,
    TP_NATS_INBOX = 80,
    TP_NATS_USED = 64,
    /* bytes that a message may have; the server's max_payload must be at least this */
    TP_NATS_PAYLOAD = 1000 * 1000
};

/* What has come in. CLOSED: the server has refused us when the connection was to be made anew, and
 * no other will be made. */
typedef enum tp_nats_kind { TP_NATS_MESSAGE, TP_NATS_LOST, TP_NATS_BACK, TP_NATS_CLOSED }
    tp_nats_kind;

typedef struct tp_nats_event {
    struct tp_nats_event *next;
    tp_nats_kind kind;
    natsMsg *message; /* of TP_NATS_MESSAGE; what follows lies in it */
    const char *subject, *reply; /* reply: "" when there is none */
    const char *data;
    size_t len;
    /* of a message of the server's own: 404, 408, ...; 0: none. 503: nobody is there who answers
     * what was published; the subject is "", since the library does not say what that was */
    int status;
} tp_nats_event;

/* Events in the order in which they came; all zero: none. */
typedef struct tp_nats_events {
    tp_nats_event *first, *last;
} tp_nats_events;

/* Not synchronised. next: takes the first one; NULL when there is none. */
void tp_nats_events_add(tp_nats_events *events, tp_nats_event *e);
tp_nats_event *tp_nats_events_next(tp_nats_events *events);

typedef struct tp_nats {
    void *library;
    void (*Connection_ProcessCloseEvent)(int *); /* NULL: this version closes sockets itself */

    /* ---- the taker's own ---- */
    natsSubscription *subscriptions[TP_NATS_SUBSCRIPTIONS]; /* NULL: the connection is lost */
    char *subjects[TP_NATS_SUBSCRIPTIONS]; /* theirs, owned */
    int n_subscriptions;
    char *url, *name;     /* owned. How it is connected: the seeker's thread reads these, too */
    const tp_signer *who;
    uint64_t n_connections; /* so many were made */
    bool is_lost;           /* it is to be connected again, */
    bool is_seeking;        /* which `seeker` tries now, */
    uint64_t seek_ns;       /* or is to try at this time */
    uv_thread_t seeker;
    unsigned refused; /* so often in turn the server has not let it in */
    tp_nats_events later;              /* events that came while tp_nats_ask waited */
    char inbox[TP_NATS_INBOX];         /* answers to tp_nats_ask come here; */
    char reply[TP_NATS_INBOX + 24];    /* the reply subject of the last one */
    uint64_t asked;
    natsMsg *used[TP_NATS_USED]; /* to be freed */
    unsigned n_used;
    size_t used_bytes;
    uv_thread_t taker;

    uv_mutex_t publishing; /* taken before `lock` */
    /* ---- guarded by it; the taker, who alone writes these two, reads them without ---- */
    natsConnection *connection; /* NULL: there is none */
    bool is_wanted;             /* there is one, or will be again */
    tp_buf kept;                /* what was published while there is none */

    uv_mutex_t lock;
    int wake_fd; /* a bell: rung when is_sleeping was set and there is something to see */
    /* ---- guarded by the lock ---- */
    bool is_woken, is_sleeping;
    int socket;             /* -1: none is to be watched */
    bool wants_write;       /* there is something to write */
    bool is_live;           /* the library has not said that the connection is closed; */
    bool is_attached;       /* or it may still call us for its socket */
    bool has_sought;        /* the seeker is done: */
    natsConnection *sought; /* this was found, or nothing, */
    int sought_rc;          /* with this natsStatus */
#define TP_NATS_FIELD(result, name, arguments) result (*name) arguments;
    TP_NATS_FUNCTIONS(TP_NATS_FIELD)
#undef TP_NATS_FIELD
} tp_nats;

/* Makes the queue; nothing is loaded or connected yet. */
int tp_nats_open(tp_nats *n, tp_error *err);

/* Loads the library and connects with the token of `who`, which is to stay until tp_nats_close;
 * does that anew when the connection is lost or the server restarts. With a URL tls://... only over
 * TLS, and only to the engine of that token (cluster/certificate.h). Blocks for some seconds at
 * most. -1 with err set: what is missing, or why the server at `url` cannot be used. */
int tp_nats_connect(tp_nats *n, const char *url, const char *name, const tp_signer *who,
                    tp_error *err);

/* Messages on this subject come into the queue from now on. */
int tp_nats_subscribe(tp_nats *n, const char *subject, tp_error *err);

/* Takes the next event, for which it waits until deadline_ns (uv_hrtime). NULL: none has come, or
 * tp_nats_wake was called. The event is the caller's, for tp_nats_free. */
tp_nats_event *tp_nats_take(tp_nats *n, uint64_t deadline_ns);
void tp_nats_free(tp_nats *n, tp_nats_event *e); /* accepts NULL */

/* Ends the wait of tp_nats_take, or its next one. Any thread. */
void tp_nats_wake(tp_nats *n);

/* Publishes: it is sent with the next tp_nats_take at the latest; `reply` may be NULL. Any thread,
 * while the taker does not disconnect. What cannot be sent is dropped: whoever needs to know waits
 * for an answer. While there is no connection messages are kept for the next, up to some MiB. */
void tp_nats_publish(tp_nats *n, const char *subject, const char *reply, const void *data,
                     size_t len);

/* Has the server remove the stream's messages whose subjects match `filter` (with NATS wildcards),
 * without waiting. */
void tp_nats_purge(tp_nats *n, const char *stream, const char *filter);

/* Writes what was published to the socket now. */
void tp_nats_push(tp_nats *n);

/* Publishes and waits for the answer; publishes again, with the same reply subject, when the
 * connection was lost meanwhile: so it is for what may be asked twice. NULL when none has come in
 * time; one with the status 503 when nobody is there to give one. */
tp_nats_event *tp_nats_ask(tp_nats *n, const char *subject, const void *data, size_t len,
                           int64_t timeout_ms);

/* What a server says of a message that was published to a stream. */
typedef enum tp_nats_stored {
    TP_NATS_STORED, /* it is kept, or was kept already */
    /* there is no room; a full server also says so of a message that it has already */
    TP_NATS_FULL,
    TP_NATS_SILENT, /* nothing: the server is away */
    TP_NATS_NOWHERE, /* there is no stream for it */
    TP_NATS_REFUSED
} tp_nats_stored;

/* `e` may be NULL: none has come. `why` is what the server says when the message is not kept. */
tp_nats_stored tp_nats_is_stored(const tp_nats_event *e, char *why, size_t size);

/* Where in its stream a message is: one that the server has just stored, or has read from there (a
 * direct get). 0: it does not say. */
uint64_t tp_nats_sequence(tp_nats *n, const tp_nats_event *e);

/* Waits until the server has what was published, but no longer than that. */
void tp_nats_flush(tp_nats *n, int64_t timeout_ms);

/* Closes the connection and drops what has come in on it. It may be connected again. */
void tp_nats_disconnect(tp_nats *n);
void tp_nats_close(tp_nats *n);

#endif
