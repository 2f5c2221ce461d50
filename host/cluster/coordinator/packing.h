/* packing.h: chunks as messages: functions, modules and payloads as bytes, and what of them lies at
 * the server. All functions are the carrier's, but open and close, which are the owner's. */
#ifndef TP_PACKING_H
#define TP_PACKING_H

#include "cluster/blobs.h"
#include "cluster/coordinator/fleet.h"
#include "cluster/question.h"

/* A function's image as bytes. */
typedef struct image {
    tp_image *of; /* held; NULL: the place is free */
    uint64_t used;
    uint8_t digest[TP_DIGEST_BYTES];
    uint64_t size;
    tp_buf bytes; /* of a small one */
    tp_blob blob; /* of one that is stored */
    bool is_stored;
    unsigned users; /* flights */
    tp_parcel_refs refs;
} image;

struct packing {
    image *images;
    uint64_t used; /* a tick for image.used */
    uint8_t modules_digest[TP_DIGEST_BYTES];
    uint64_t modules_size; /* of the host's bundle as it was stored last; 0: it was not */
    tp_blob modules;
    uint64_t n_funcs; /* how many functions were numbered (tp_func.afar) */
    /* stores, which workers know by address, and functions with a limit: held while the session
     * lasts, since they may be asked for */
    tp_parcel_refs asked;
    tp_store_names stores;
    struct {
        tp_blob blob;
        uint64_t due_ns;
    } *read; /* large results that were read and are to be removed, in the order of that */
    unsigned n_read, first_read;
    tp_nats_stored trouble; /* why the last payload was not stored, */
    unsigned silent;        /* how many times in a row because of TP_NATS_SILENT */
};

/* Memory for it. False: there is none. Before the carrier's thread is started. */
bool tp_packing_open(cluster *c);
void tp_packing_close(cluster *c);

/* A session begins: its server has not been silent yet. */
void tp_packing_reset(cluster *c);

/* Makes the message for the next items of the flight's slice, and stores what is large. -1 with err
 * set, and packing.trouble says whether it was the server's. Blocks while it stores. */
int tp_packing_seal(cluster *c, flight *l, tp_error *err);

/* The flight's chunk is over, or sent anew: drops what was packed for it. */
void tp_packing_drop(cluster *c, flight *l);

/* The server may have lost the function and the modules: they are stored again. */
void tp_packing_store_again(cluster *c, flight *l);

/* The least items that a chunk of that work may have. */
uint32_t tp_packing_least_count(const tp_work *w);

/* The function with that id, as workers know it; NULL: there is none. Nothing is believed of the
 * id. */
tp_func *tp_packing_func_of(const cluster *c, uint64_t id);

/* A large result was read: it is removed from the server later (KEEP_NS). */
void tp_packing_leave_blob(cluster *c, const flight *l, tp_blob *b);

/* Removes large results that were read long enough before `now`. */
void tp_packing_drop_read(cluster *c, uint64_t now);

/* Removes all that this session has at the server. */
void tp_packing_remove_all(cluster *c);

#endif
