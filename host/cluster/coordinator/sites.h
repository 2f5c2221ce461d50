/* sites.h: where jobs of kernels run: each different value of the option `gpu` is a site, and a
 * worker is at it when it has such devices. All functions are the carrier's; the words of sites,
 * which other threads add (tp_cluster_site), are guarded by the cluster's lock. */
#ifndef TP_SITES_H
#define TP_SITES_H

#include "cluster/coordinator/fleet.h"

enum { SITES_MAX = 64 }; /* different values of the option `gpu` */

struct sites {
    /* since when a site has work and no worker is at it, or 0; bits of those of which that was
     * said; how many there are */
    uint64_t unmet_ns[SITES_MAX], said;
    unsigned n_unmet;
};

/* How many sites there are. Takes the lock. */
unsigned tp_sites_count(cluster *c);

/* Finds out which workers are at which sites. Of several words the first counts that there are
 * devices for. */
void tp_sites_find(cluster *c, uint64_t now);

/* The worker at the flight's site with the least to do; NULL: there is none whose devices can run
 * its function. */
struct worker *tp_sites_choose(const cluster *c, const flight *l, uint64_t now);

/* Why none of the workers at the flight's site can run its function, in the words of one of them;
 * NULL: one may, or there is none at all, or others may tell of their devices yet (for ALONE_S). */
const char *tp_sites_refusal(const cluster *c, const flight *l, uint64_t now);

/* How many more chunks the workers at that site have room for. */
unsigned tp_sites_room(const cluster *c, uint64_t site, uint64_t now);

/* The sites are gone through anew (tp_sites_note). */
void tp_sites_begin(cluster *c);

/* The site with that number has work, or not: when it has some and no worker is there for ALONE_S,
 * it is told. */
void tp_sites_note(cluster *c, unsigned k, bool has_work, uint64_t now);

#endif
