/* report_private.h: what report.c adds up and findings.c and report_page.c read. */
#ifndef TP_REPORT_PRIVATE_H
#define TP_REPORT_PRIVATE_H

#include "engine/reason.h"
#include "trace/report.h"

enum {
    REASONS = TP_REASON_WORKERS + 1,
    FUNCTIONS_MAX = 200, /* functions that are told apart; the last entry stands for all others */
    GROUPS_MAX = 16,
    BINS = 30, /* of histograms: their bounds are 1, 2 and 5 times powers of ten, from 100 ns on */
    SLOWEST = 20,
    SAMPLES_MAX = 1000,  /* of the counters */
    BOXES_MAX = 12000,   /* boxes that are drawn */
    LIVE_BOXES_MAX = 1500, /* the same of a page that is drawn again and again, */
    FAILURES_MAX = 20,     /* the last failures, whose texts are kept */
    RECENT_MAX = 10,       /* maps that are over, which a live page shows */
    LANES = 8            /* of a worker: boxes inside of others, or beside them */
};

/* A long item. */
typedef struct tp_report_item {
    uint64_t index, begun_ns, ns;
    uint32_t worker, function;
    char input[TP_INPUT_TEXT + 1];
} tp_report_item;

/* The end of a map, at which workers had nothing to do because of one long item. */
typedef struct tp_report_tail {
    /* best_ns: what the map would have taken with its longest items first */
    uint64_t idle_ns, span_ns, best_ns;
    uint64_t items;
    tp_report_item item;
} tp_report_tail;

/* A map of the script's that is over. */
typedef struct tp_report_recent {
    uint64_t number, opened_ns, ended_ns, items, failures;
    uint32_t function;
    bool is_cancelled; /* it was cancelled, or left before its end */
} tp_report_recent;

/* What is known of all maps and calls of a function. */
typedef struct tp_report_function {
    uint32_t name;
    int group; /* of the workers that run it; -1: not known */
    uint64_t maps, pushed, items, failures, retries;
    uint64_t busy_ns, self_ns, max_ns; /* self: without the items of nested maps inside */
    uint64_t bins[BINS];
    unsigned open;      /* maps that are open now */
    uint64_t opened_ns; /* when the first of them was opened */
    /* since_ns: since when at least one has been open; active_ns: how long that was the case in
     * all */
    uint64_t since_ns, active_ns;
    uint64_t unread_ns; /* how long no item was left to run, but results were waiting to be read */
    double idle_ns[REASONS]; /* of workers, summed up, by why they waited */
    unsigned limit;
    uint64_t limited_ns; /* how long as many items ran as the limit allows */
    tp_report_tail tail;
    uint64_t encodings, encode_ns, encode_bytes /* of the largest image */, captured_bytes;
    uint32_t captured; /* the name of the captured value with the most bytes */
    uint64_t copies, copied_bytes, copy_ns, kernels, kernel_ns;
    uint64_t builds[4], build_ns[4]; /* by tp_build_how */
    uint64_t steps, blocked_ns, longest_ns; /* of items that wait beside others */
    uint64_t longest;                       /* the item of that step */
    uint64_t lost;    /* items from which a device has not come back, */
    uint32_t lost_by; /* and the worker that is the device */
    uint32_t message; /* of the first failure; 0: none */
} tp_report_function;

/* Workers of the same executor. */
typedef struct tp_report_group {
    char name[TP_TRACK_TEXT];
    unsigned workers;
    bool is_owner; /* they run in the script's thread */
    /* on other machines: the group "cluster HOST" (cluster/lanes.h); "cluster" are the chunks under
     * way, which are no workers */
    bool is_far;
} tp_report_group;

typedef enum tp_report_kind { REPORT_ITEMS, REPORT_SPAN, REPORT_WAIT } tp_report_kind;

/* A box that has no end yet. */
typedef struct tp_report_open {
    tp_report_kind kind;
    uint64_t begun_ns, job, first, count, inside_ns;
    uint32_t of;       /* of items: a function; of a span: a name; of a wait: a reason */
    uint32_t function; /* of a wait for work: the function that is the cause; UINT32_MAX: none */
} tp_report_open;

/* An item that waits beside others. */
typedef struct tp_report_beside {
    struct tp_report_beside *next;
    uint64_t number, begun_ns, item;
    uint32_t worker, function;
    uint8_t lane; /* LANES: it is not drawn */
} tp_report_beside;

typedef struct tp_report_box {
    uint64_t begun_ns, ended_ns, first, count;
    uint32_t of;  /* a function, a name, a reason */
    uint8_t kind, lane;
    bool is_joined;
    char *input; /* NULL: none */
} tp_report_box;

typedef struct tp_report_track {
    uint32_t worker;
    int group;
    tp_report_open *open; /* open boxes, the outermost first */
    unsigned n_open, room;
    unsigned n_beside;  /* items that wait beside others */
    unsigned n_inner;   /* open maps of its process, or machine: tp_wire_is_inner */
    uint32_t lanes;     /* taken by them, as bits */
    uint64_t seen_ns; /* its first event */
    uint64_t busy_since_ns, busy_ns, items;
    uint64_t process; /* in which it runs its items; 0: in this one */
    uint64_t copies, copied_bytes, copy_ns, kernels, kernel_ns; /* of a device's */
    tp_report_box *boxes;
    unsigned n_boxes, box_room;
    int last[LANES];    /* the last box of each lane; -1: none */
    /* an item that has ended, whose input may follow */
    bool is_pending;
    uint64_t pending_ns; /* how long it took */
    tp_report_box pending;
    char input[TP_INPUT_TEXT + 24 + 1];
    unsigned input_len;
} tp_report_track;

typedef struct tp_report_sample {
    uint64_t time_ns, queued, running, ready;
    double mib, memory;
} tp_report_sample;

struct tp_report {
    tp_trace *trace;
    uint64_t start_ns, end_ns, last_ns, lost;
    uint64_t keep_ns; /* boxes that ended longer ago are forgotten; 0: none are */
    unsigned boxes_max;
    double processor_begun_s; /* that the process had used when it began; */
    double processor_s;       /* and from then until the page was last written */
    unsigned processors, workers; /* workers: of a kind, at most */
    tp_report_function functions[FUNCTIONS_MAX];
    unsigned n_functions;
    tp_report_group groups[GROUPS_MAX];
    int n_groups;
    tp_report_track **tracks; /* by their workers' ids; NULL: not seen yet */
    uint32_t n_tracks;
    struct tp_report_job *jobs[1024];
    struct tp_report_beside *beside[1024];
    tp_failure_view failures[FAILURES_MAX]; /* a ring */
    tp_report_recent recent[RECENT_MAX];    /* a ring */
    uint64_t n_failures, n_recent;          /* that were ever put in */
    uint64_t build_ns, built_ns; /* how long somebody waited for programs, and the end of that */
    unsigned open;      /* maps of the script that are open now */
    uint64_t since_ns, active_ns;
    uint64_t explained_ns;
    unsigned deaths, cancelled;
    tp_report_item slowest[SLOWEST]; /* the slowest first */
    unsigned n_slowest;
    unsigned n_boxes;
    uint64_t fine_ns; /* boxes shorter than this are joined */
    tp_report_sample samples[SAMPLES_MAX];
    /* of `skip` samples one is kept; `skipped` counts all of them */
    unsigned n_samples, skip, skipped;
};

/* How many workers run the function; 0: none has. */
static inline unsigned tp_report_workers(const tp_report *r, const tp_report_function *f)
{
    return f->group >= 0 ? r->groups[f->group].workers : 0;
}

/* Appends the findings, as a list of JSON: {"kind", "function", "text", "advice", "weight"}, the
 * most important first. -1 when out of memory. */
int tp_report_find(const tp_report *r, tp_buf *out);

/* Appends the page. */
int tp_report_write(const tp_report *r, tp_buf *out);

/* Appends what the page is made of, with what happens now: tp_report_snapshot. */
int tp_report_put_live(const tp_report *r, const tp_report_now *now, tp_buf *out);

/* Appends text; the second, a text as a string of JSON. -1 when out of memory. */
__attribute__((format(printf, 2, 3))) int tp_report_put(tp_buf *out, const char *format, ...);
int tp_report_quote(tp_buf *out, const char *text);

#endif
