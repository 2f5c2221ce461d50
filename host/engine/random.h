/* random.h: whose random numbers are whose: the keys of streams.
 *
 * Everything that can draw has a key of its own, made from what it is, not from when or where it
 * runs: a script's key comes from its seed, a map's from its caller's key and a count of the
 * caller's maps and calls, an item's from its map's key and its index. So an item draws the same
 * numbers on any number of workers, on any executor, and at every attempt.
 *
 * The numbers themselves are drawn in Lua (lua/tidepool/engine/random.lua) and on devices
 * (gpu/translate/builtins.lua): xoroshiro128++ (Blackman and Vigna, "Scrambled linear pseudorandom
 * number generators", 2021), whose 128 bits of state are the item's key. What makes keys is a pair
 * of mixers of 64 bits, that of SplitMix64 (Steele, Lea and Flood, 2014, with Stafford's constants)
 * and that of MurmurHash3 (Appleby, 2011). Both are bijections, so that no two items of a map have
 * the same state. */
#ifndef TP_RANDOM_H
#define TP_RANDOM_H

#include <stdbool.h>
#include <stdint.h>

typedef struct tp_key {
    uint64_t half[2];
} tp_key;

/* Whoever starts maps and calls (a script, a task, an item), with the key from which theirs are
 * derived. Belongs to the thread that runs it. */
typedef struct tp_source {
    tp_key key;
    uint64_t started; /* maps, calls and tasks so far */
    uint64_t stray;   /* those that start in no fixed order (in callbacks), counted apart */
} tp_source;

/* The random numbers of a slice's items. The agent's own. lua/tidepool/engine/random.lua has the
 * same struct: it draws, and sets `state` and `at`. */
typedef struct tp_draws {
    tp_key map;         /* of the job */
    double first;       /* index of the block's first item */
    tp_key state;       /* of the generator, for item `at` */
    tp_key luajit[2];   /* state of LuaJIT's own generator, for item `seeded_at` */
    int32_t at;         /* offset of the item that `state` belongs to; -1: none has drawn yet */
    int32_t seeded_at;  /* offset of the item that has called math.randomseed last; -1: none */
    int32_t started_at; /* offset of the item that `source` belongs to; -1: none */
    tp_source source;
} tp_draws;

/* The key of part n of whatever has this key. */
tp_key tp_key_of(tp_key key, uint64_t n);

/* The key that math.randomseed(seed) asks for. */
tp_key tp_key_of_seed(double seed);

/* The key of the stream that tidepool.random(seed, i) gives. */
tp_key tp_key_by_hand(double seed, double i);

/* The key for the state of LuaJIT's generator at `state`. A generator that was never seeded has the
 * key of the seed 0. */
tp_key tp_key_of_luajit(const void *state);

/* A source with that key. */
tp_source tp_source_new(tp_key key);

/* The key of the next map, call or task of a source. Stray ones are counted apart, so that they do
 * not change the keys of the others. */
tp_key tp_source_next(tp_source *source, bool is_stray);

/* Opens draws for the items of a block whose first item has the index `first`, of a job with the
 * key `map`. Nothing has been drawn yet. */
void tp_draws_open(tp_draws *draws, tp_key map, uint64_t first);

/* The source from which maps inside the item at that offset get their keys. */
tp_source *tp_draws_source(tp_draws *draws, int32_t at);

/* The item at that offset has called math.randomseed(seed): its numbers are LuaJIT's from here
 * on. */
void tp_draws_seed(tp_draws *draws, int32_t at, double seed);

#endif
