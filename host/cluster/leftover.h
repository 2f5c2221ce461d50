/* leftover.h: results that are left at the server of a session whose coordinator is dead: those of
 * maps with journals, each with its ticket (parcel.h). */
#ifndef TP_LEFTOVER_H
#define TP_LEFTOVER_H

#include "cluster/parcel.h"

/* Takes results: `results` is a list of blocks, `items` has their indexes and, as tags, their
 * identities. Both are the caller's. -1 with err set ends the reading. */
typedef int tp_leftover_taker(void *user, const tp_ticket *ticket, const tp_block *items,
                              const tp_block *results, tp_error *err);

/* Reads all results of the session at the engine, has its workers forget it, and removes it there.
 * Blocks. 1: its coordinator is alive, and nothing was done; -1 with err set: it cannot be read.
 * What comes from workers is not believed: results that are none are passed over. */
int tp_leftover_read(const char *engine, const char *token, const char session[TP_ID_TEXT],
                     tp_leftover_taker *take, void *user, tp_error *err);

#endif
