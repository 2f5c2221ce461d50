/* reason.h: why nothing of a job can be begun. */
#ifndef TP_REASON_H
#define TP_REASON_H

typedef enum tp_reason {
    TP_REASON_NONE,    /* nothing is left to be begun, or something can be */
    TP_REASON_INPUTS,  /* its inputs come too slowly */
    TP_REASON_READER,  /* its window is full of results that its owner does not take */
    TP_REASON_ORDER,   /* the same, and the owner waits for an earlier one that still runs */
    TP_REASON_LIMIT,   /* as many items of its function run as concurrency_limit allows */
    TP_REASON_RETRY,   /* what is left waits for its next attempt */
    TP_REASON_WORKERS  /* all workers are busy */
} tp_reason;

#endif
