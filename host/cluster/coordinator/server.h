/* server.h: a coordinator's connection to its engine: who it is there, and the streams that must
 * stand. All functions are the carrier's. */
#ifndef TP_COORDINATOR_SERVER_H
#define TP_COORDINATOR_SERVER_H

#include "cluster/nats.h"
#include "cluster/parcel.h"
#include "cluster/protocol.h"
#include "cluster/sign.h"

typedef struct cluster cluster;

struct server {
    tp_nats nats; /* opened and closed by exec_cluster.c; publishing is everybody's */
    tp_signer signer;
    tp_build build;
    uint8_t session[TP_ID_BYTES];
    char session_hex[TP_ID_TEXT], inbox[80];
    bool is_connected, has_lost; /* has_lost: the server is away */
    uint64_t lost_ns;            /* since when; 0: it is not */
    unsigned losses;             /* since a result has come (returns.c) */
    tp_nats_events later; /* events that came while a payload was transferred; signs.c adds them */
    uint64_t streams_ns;  /* missing streams are not looked for before this time */
};

/* The next event, which is the caller's. NULL: none has come until then. */
tp_nats_event *tp_server_take(cluster *c, uint64_t deadline_ns);

/* Connects as a new session, and has the streams made. Blocks. -1 with err set: what is missing. */
int tp_server_connect(cluster *c, tp_error *err);

/* Drops the connection, and what has come in on it. */
void tp_server_disconnect(cluster *c);

/* The connection was lost, or is there again. */
void tp_server_set_lost(cluster *c, bool is_lost);

/* Tells the workers that have work of this session (TP_SUBJECT_CTL): "over", ... */
void tp_server_tell(cluster *c, const char *text);

/* Makes the streams and our build's consumer where they are missing. A server that is being
 * restarted meanwhile is only a delay. Blocks. */
int tp_server_ensure(cluster *c, tp_error *err);

/* The same, for whoever sees again and again that there is no stream; false: it is not the time. */
bool tp_server_ensure_again(cluster *c);

/* How many messages there are in that stream. -1: the server does not say. Blocks. */
long long tp_server_count(cluster *c, const char *stream);

#endif
