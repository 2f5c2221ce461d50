/* random.c: the keys of random numbers, and the seeding of LuaJIT's generator. */
#include "engine/random.h"

#include <math.h>
#include <string.h>

/* Before keys of another kind are derived from a key, half of it is XORed with one of these, so
 * that an item's random numbers and the keys of its maps are unrelated. */
#define SOURCE UINT64_C(0x243f6a8885a308d3) /* digits of pi, as the others */
#define BY_HAND UINT64_C(0x452821e638d01377)
#define STRAY UINT64_C(0x13198a2e03707344)

static uint64_t bits_of(double x)
{
    uint64_t bits;
    x += 0.0; /* -0 becomes 0: they are the same seed */
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

tp_key tp_key_of(tp_key key, uint64_t n)
{
    uint64_t a = key.half[0] + n * UINT64_C(0x9e3779b97f4a7c15),
             b = key.half[1] ^ n * UINT64_C(0xd1342543de82ef95);
    a = (a ^ a >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    a = (a ^ a >> 27) * UINT64_C(0x94d049bb133111eb);
    b = (b ^ b >> 33) * UINT64_C(0xff51afd7ed558ccd);
    b = (b ^ b >> 33) * UINT64_C(0xc4ceb9fe1a85ec53);
    return (tp_key){ { a ^ a >> 31, b ^ b >> 33 } };
}

tp_key tp_key_of_seed(double seed)
{
    static const tp_key root = { { UINT64_C(0xa4093822299f31d0), UINT64_C(0x082efa98ec4e6c89) } };
    return tp_key_of(root, bits_of(seed));
}

tp_key tp_key_by_hand(double seed, double i)
{
    tp_key key = tp_key_of_seed(seed);
    key.half[0] ^= BY_HAND;
    return tp_key_of(key, bits_of(i));
}

/* LuaJIT's generator: four linear feedback shift registers, of 63, 58, 55 and 47 bits (L'Ecuyer,
 * "Tables of maximally equidistributed combined LFSR generators", 1999). math.randomseed fills them
 * from the seed, and drops ten numbers. */
static void seed_luajit(uint64_t state[4], double seed)
{
    static const int unused[] = {
        1, 6, 9, 17 /* the lowest bits of each register do not count; one above must be set */
    };
    static const int q[] = { 31, 19, 24, 21 }, s[] = { 18, 28, 7, 8 };
    for (int i = 0; i < 4; i++) {
#ifdef FP_FAST_FMA /* arm64: there C compilers make one step of it in LuaJIT's lib_math.c */
        seed = fma(seed, 3.14159265358979323846, 2.7182818284590452354);
#else
        double product = seed * 3.14159265358979323846;
        seed = product + 2.7182818284590452354;
#endif
        memcpy(&state[i], &seed, sizeof seed);
        if (state[i] < UINT64_C(1) << unused[i])
            state[i] += UINT64_C(1) << unused[i];
    }
    for (int drop = 0; drop < 10; drop++)
        for (int i = 0; i < 4; i++) {
            uint64_t z = state[i];
            state[i] = ((z << q[i] ^ z) >> (64 - unused[i] - s[i])) ^ (z & UINT64_MAX << unused[i])
                                                                          << s[i];
        }
}

tp_key tp_key_of_luajit(const void *state)
{
    uint64_t now[4], fresh[4];
    memcpy(now, state, sizeof now);
    seed_luajit(fresh, 0);
    tp_key key = tp_key_of_seed(0);
    for (int i = 0; i < 4 && memcmp(now, fresh, sizeof now); i++)
        key = tp_key_of(key, now[i]);
    return key;
}

tp_source tp_source_new(tp_key key)
{
    return (tp_source){ .key = { { key.half[0] ^ SOURCE, key.half[1] } } };
}

tp_key tp_source_next(tp_source *source, bool is_stray)
{
    if (!is_stray)
        return tp_key_of(source->key, ++source->started);
    tp_key apart = { { source->key.half[0] ^ STRAY, source->key.half[1] } };
    return tp_key_of(apart, ++source->stray);
}

void tp_draws_open(tp_draws *draws, tp_key map, uint64_t first)
{
    *draws = (tp_draws){
        .map = map, .first = (double)first, .at = -1, .seeded_at = -1, .started_at = -1
    };
}

tp_source *tp_draws_source(tp_draws *draws, int32_t at)
{
    if (draws->started_at != at) {
        draws->started_at = at;
        draws->source = tp_source_new(tp_key_of(draws->map, (uint64_t)(draws->first + at)));
    }
    return &draws->source;
}

void tp_draws_seed(tp_draws *draws, int32_t at, double seed)
{
    uint64_t state[4];
    seed_luajit(state, seed);
    memcpy(draws->luajit, state, sizeof state);
    draws->seeded_at = at;
    draws->at = -1;
    draws->started_at = at;
    draws->source = tp_source_new(tp_key_of_seed(seed));
}
