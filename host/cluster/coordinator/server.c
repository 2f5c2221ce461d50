/* server.c: a coordinator's connection, and the streams that it needs at the server. */
#include "cluster/coordinator/server.h"

#include "cluster/coordinator/coordinator.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    ENSURE_TRIES = 20,
    ASK_MS = 3000
};

tp_nats_event *tp_server_take(cluster *c, uint64_t deadline_ns)
{
    tp_nats_event *e = tp_nats_events_next(&c->server.later);
    return e ? e : tp_nats_take(&c->server.nats, deadline_ns);
}

void tp_server_disconnect(cluster *c)
{
    while (c->server.later.first)
        tp_nats_free(&c->server.nats, tp_server_take(c, 0));
    tp_nats_disconnect(&c->server.nats);
    c->server.is_connected = false;
}

static bool is_error(const tp_nats_event *e)
{
    static const char error[] = "\"error\"";
    return !e || e->status != 0 || memmem(e->data, e->len, error, sizeof error - 1) != NULL;
}

static bool has_code(const tp_nats_event *e, const char *code)
{
    return e && e->status == 0 && memmem(e->data, e->len, code, strlen(code)) != NULL;
}

/* Asks the server to make a stream or consumer, unless it is there. The error 10058 says that it is
 * there with another configuration, made by another version. */
static bool make(cluster *c, const char *subject, const char *body)
{
    tp_nats_event *e = tp_nats_ask(&c->server.nats, subject, body, strlen(body), ASK_MS);
    bool is_made = !is_error(e) || has_code(e, "10058");
    tp_nats_free(&c->server.nats, e);
    return is_made;
}

static bool make_stream(cluster *c, const char *name, const char *subjects, const char *retention)
{
    char subject[TP_SUBJECT_MAX], body[700];
    snprintf(subject, sizeof subject, "$JS.API.STREAM.CREATE.%s", name);
    snprintf(body, sizeof body,
             "{\"name\":\"%s\",\"subjects\":[\"%s\"],\"retention\":\"%s\",\"max_consumers\":-1,"
             "\"max_msgs\":-1,\"max_bytes\":-1,\"max_age\":%llu,\"max_msgs_per_subject\":1,"
             "\"max_msg_size\":-1,\"storage\":\"file\",\"discard\":\"new\","
             "\"discard_new_per_subject\":true,\"num_replicas\":1,\"allow_direct\":true}",
             name, subjects, retention, 72ull * 3600 * 1000000000);
    return make(c, subject, body);
}

int tp_server_ensure(cluster *c, tp_error *err)
{
    char subject[TP_SUBJECT_MAX], body[700];
    snprintf(subject, sizeof subject, "$JS.API.CONSUMER.DURABLE.CREATE." TP_STREAM_W ".P_%s",
             c->server.build.hex);
    snprintf(body, sizeof body,
             "{\"stream_name\":\"" TP_STREAM_W "\",\"config\":{\"durable_name\":\"P_%s\","
             "\"deliver_policy\":\"all\",\"ack_policy\":\"explicit\",\"ack_wait\":%llu,"
             "\"max_deliver\":-1,\"filter_subject\":\"" TP_SUBJECT_W "%s.>\","
             "\"replay_policy\":\"instant\",\"max_waiting\":%d,\"max_ack_pending\":%d}}",
             c->server.build.hex, TP_ACK_WAIT_S * 1000000000ull, c->server.build.hex, 20000,
             100000);
    const uint64_t before = c->server.nats.n_connections;
    for (int i = 0; i < ENSURE_TRIES && !tp_cluster_is_stopping(c); i++) {
        if (make_stream(c, TP_STREAM_W, TP_SUBJECT_W ">", "workqueue") &&
            make_stream(c, TP_STREAM_R, TP_SUBJECT_R "*.*.*.*", "limits") &&
            make_stream(c, TP_STREAM_B, TP_SUBJECT_B ">", "limits") && make(c, subject, body))
            return 0;
        if (c->server.nats.n_connections >= before + TP_LOSSES)
            return tp_error_set(err, TP_ESYS,
                                "the connection to the engine at %.200s is lost again and again "
                                "(%d times, before it could be asked for anything): something on "
                                "the way ends it",
                                c->base.host->config.engine, TP_LOSSES);
        uv_sleep(250);
    }
    return tp_error_set(err, TP_ESYS,
                        "the engine at %.200s keeps no work: is it a NATS server with JetStream, "
                        "and may this token make streams? (`tidepool engine up` starts one that "
                        "can)",
                        c->base.host->config.engine);
}

int tp_server_connect(cluster *c, tp_error *err)
{
    const tp_config *config = &c->base.host->config;
    char subject[TP_SUBJECT_MAX];
    if (!config->engine)
        return tp_error_set(err, TP_EUSAGE,
                            "the executor \"cluster\" needs an engine: `tidepool engine up` starts "
                            "one, and --engine URL or TIDEPOOL_ENGINE says where it is");
    if (!config->token)
        return tp_error_set(err, TP_EUSAGE,
                            "there is no token for the engine at %.200s: TIDEPOOL_TOKEN is to be "
                            "what `tidepool engine token --coordinator` shows where it runs",
                            config->engine);
    if (tp_signer_open(&c->server.signer, config->token, true, err))
        return -1;
    tp_build_get(&c->server.build);
    memcpy(c->server.session, c->base.host->session, sizeof c->server.session);
    tp_to_hex(c->server.session_hex, c->server.session, sizeof c->server.session);
    /* the session's random name, which others cannot guess */
    snprintf(c->server.inbox, sizeof c->server.inbox, TP_INBOX_COORDINATOR ".%s",
             c->server.session_hex);
    if (tp_nats_connect(&c->server.nats, config->engine, "tidepool", &c->server.signer, err))
        return -1;
    const struct {
        const char *begin, *middle, *end;
    } subjects[] = { { c->server.inbox, "", ".>" },
                     { TP_SUBJECT_R, c->server.session_hex, ".>" },
                     { TP_SUBJECT_HB, "", "*" },
                     { TP_SUBJECT_Q, c->server.session_hex, "" } };
    for (int i = 0; i < 4; i++) {
        snprintf(subject, sizeof subject, "%s%s%s", subjects[i].begin, subjects[i].middle,
                 subjects[i].end);
        if (tp_nats_subscribe(&c->server.nats, subject, err))
            goto failed;
    }
    if (tp_server_ensure(c, err))
        goto failed;
    tp_nats_publish(&c->server.nats, TP_SUBJECT_CTL "all", NULL, "hello", 5);
    c->server.is_connected = true;
    c->server.has_lost = false;
    c->server.losses = 0;
    return 0;
failed:
    tp_nats_disconnect(&c->server.nats);
    return -1;
}

long long tp_server_count(cluster *c, const char *stream)
{
    static const char begin[] = "\"messages\":";
    char subject[TP_SUBJECT_MAX];
    snprintf(subject, sizeof subject, "$JS.API.STREAM.INFO.%s", stream);
    tp_nats_event *e = tp_nats_ask(&c->server.nats, subject, "", 0, ASK_MS);
    const char *at = e ? memmem(e->data, e->len, begin, sizeof begin - 1) : NULL;
    long long n = -1;
    char digits[24];
    if (at) {
        at += sizeof begin - 1;
        size_t len = (size_t)(e->data + e->len - at);
        snprintf(digits, sizeof digits, "%.*s", (int)(len < 20 ? len : 20), at);
        n = strtoll(digits, NULL, 10);
    }
    tp_nats_free(&c->server.nats, e);
    return n;
}

void tp_server_tell(cluster *c, const char *text)
{
    char subject[TP_SUBJECT_MAX];
    snprintf(subject, sizeof subject, TP_SUBJECT_CTL "%s", c->server.session_hex);
    tp_nats_publish(&c->server.nats, subject, NULL, text, strlen(text));
}

void tp_server_set_lost(cluster *c, bool is_lost)
{
    c->server.has_lost = is_lost;
    if (!is_lost)
        return;
    c->server.lost_ns = uv_hrtime();
    if (++c->server.losses != TP_LOSSES)
        return;
    char text[500];
    snprintf(text, sizeof text,
             "tidepool: the connection to the engine at %.200s is lost again and again (%d times, "
             "and no result has come meanwhile): something on the way ends it\n",
             c->base.host->config.engine, TP_LOSSES);
    tp_cluster_say(c, text);
}

bool tp_server_ensure_again(cluster *c)
{
    tp_error err = { 0 };
    if (uv_hrtime() < c->server.streams_ns)
        return false;
    tp_server_ensure(c, &err);
    c->server.streams_ns = uv_hrtime() + RETRY_NS;
    return true;
}
