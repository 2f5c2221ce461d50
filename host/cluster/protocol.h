/* protocol.h: the names that a coordinator and its workers use on a NATS server.
 *
 * Streams, made by the coordinator when they are missing:
 *   W  tp1.d.w.BUILD.SESSION.CHUNK.SENDING     work: a queue, each message once
 *   R  tp1.d.r.SESSION.GROUP.CHUNK.SENDING     results: the first one counts
 *   B  tp1.d.b.SESSION.DIGEST.PIECE            large payloads in pieces
 * BUILD (tp_build) and SESSION (a coordinator's, by chance) are hexadecimal. Workers pull work of
 * their own build only, by the consumer P_BUILD.
 *
 * Short chunks go directly, which is not kept: to INBOX.d of a worker that has said in an answer
 * that it takes some, and the answers to tp1.d.r.SESSION.direct (INBOX: see tp1.d.hb.WORKER). So do
 * all chunks of kernels, to a worker that drives such devices; their long answers go to R.
 *
 * Not kept: tp1.d.r.SESSION.out (what items print), tp1.d.r.SESSION.held (what a worker has, in
 * lines "CHUNK SENDING WAITS WORKER ITEM MS MAPS DONE TOTAL ACK": whether it waits without an end,
 * 1, or for a compiler, 2, or neither, 0; the item of the job that has been running for longest,
 * and for how long, from 1, or 0: none runs; how many maps inside of the items are open, and how
 * far those of one function are, whose name is in a line "in NAME" behind that; where the chunk is
 * acknowledged, "-": nowhere), tp1.d.r.SESSION.piece (of a result, or of values, for which B has
 * no room; the answer "+" asks for the next), tp1.d.r.SESSION.part (values that an item gives
 * while it runs; the answers go to INBOX, see tp_part), tp1.d.r.SESSION.early (results that a slow
 * item of their chunk would keep back, see tp_early), tp1.d.r.SESSION.happened (what happens in a
 * chunk, see happened.h), tp1.d.r.SESSION.ask (about a Dict, Queue or permit, see question.h),
 * tp1.d.hb.WORKER (it is there, and takes answers and direct work in INBOX; with the devices that
 * it drives, if it does; "gone": it is dead), tp1.d.q.SESSION (is its coordinator alive?),
 * tp1.d.ctl.SESSION ("cancel CHUNK", "over", "stuck": all that waits without an end is to give up)
 * and tp1.d.ctl.all ("hello": workers show themselves at once; "devices": they start what drives
 * theirs, if they have some; "beat MS": how often they show themselves, and name what they have: a
 * coordinator that sees thousands of them asks for less of that). */
#ifndef TP_PROTOCOL_H
#define TP_PROTOCOL_H

#include <stdint.h>

#define TP_STREAM_W "TP1_d_W"
#define TP_STREAM_R "TP1_d_R"
#define TP_STREAM_B "TP1_d_B"

#define TP_SUBJECT_W "tp1.d.w."
#define TP_SUBJECT_R "tp1.d.r."
#define TP_SUBJECT_B "tp1.d.b."
#define TP_SUBJECT_HB "tp1.d.hb."
#define TP_SUBJECT_Q "tp1.d.q."
#define TP_SUBJECT_CTL "tp1.d.ctl."

/* Prefixes of the subjects on which each side gets answers, and names of the server's users. For
 * workers both end with digits of their own token (cluster/sign.h) */
#define TP_INBOX_COORDINATOR "_TPC"
#define TP_INBOX_WORKER "_TPW"
#define TP_USER_COORDINATOR "coordinator"
#define TP_USER_WORKER "worker"

enum {
    /* Results are purged from R by groups of this many chunk numbers. A chunk's number is a count
     * times 32,768 plus its flight, so that is a thousand counts */
    TP_GROUP_CHUNKS = 32768 * 1000,
    /* work that its worker has neither answered nor named as running for so long goes to another
     * worker */
    TP_ACK_WAIT_S = 10,
    TP_BEAT_MS = 1000,
    TP_BEAT_MAX_MS = 10 * 1000,
    /* a beat that a coordinator has asked for is kept for so long, unless it is asked for again */
    TP_BEAT_KEPT_MS = 60 * 1000,
    /* a worker that has not named a chunk for so many beats is taken for dead, and the chunk goes
     * to another */
    TP_HELD_BEATS = 4,
    /* when a connection has been lost so often and no result has got through, it is told */
    TP_LOSSES = 10,
    TP_SUBJECT_MAX = 256
};

/* The subject of a chunk's work; `build` and `session` are hexadecimal. */
void tp_protocol_name_work(char to[TP_SUBJECT_MAX], const char *build, const char *session,
                           uint64_t chunk, uint32_t sending);

/* The subject of its result, behind `before`. */
void tp_protocol_name_result(char to[TP_SUBJECT_MAX], const char *before, const char *session,
                             uint64_t chunk, uint32_t sending);

#endif
