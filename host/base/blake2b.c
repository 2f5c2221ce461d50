/* blake2b.c: BLAKE2b, written from RFC 7693 (https://www.rfc-editor.org/rfc/rfc7693), sections 2
 * and 3; its names are used here. */
#include "base/blake2b.h"

#include <string.h>

enum { ROUNDS = 12, BLOCK = 128 };

static const uint64_t iv[8] = {
    0x6a09e667f3bcc908, 0xbb67ae8584caa73b, 0x3c6ef372fe94f82b, 0xa54ff53a5f1d36f1,
    0x510e527fade682d1, 0x9b05688c2b3e6c1f, 0x1f83d9abfb41bd6b, 0x5be0cd19137e2179,
};

static const uint8_t sigma[10][16] = {
    { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 },
    { 14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3 },
    { 11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4 },
    { 7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8 },
    { 9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13 },
    { 2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9 },
    { 12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11 },
    { 13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10 },
    { 6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5 },
    { 10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0 },
};

static uint64_t rotate(uint64_t x, unsigned right)
{
    return x >> right | x << (64 - right);
}

static uint64_t load(const uint8_t *p)
{
    uint64_t x = 0;
    for (int i = 7; i >= 0; i--)
        x = x << 8 | p[i];
    return x;
}

/* The RFC's G. */
static void mix(uint64_t *v, int a, int b, int c, int d, uint64_t x, uint64_t y)
{
    v[a] += v[b] + x;
    v[d] = rotate(v[d] ^ v[a], 32);
    v[c] += v[d];
    v[b] = rotate(v[b] ^ v[c], 24);
    v[a] += v[b] + y;
    v[d] = rotate(v[d] ^ v[a], 16);
    v[c] += v[d];
    v[b] = rotate(v[b] ^ v[c], 63);
}

/* The RFC's F: mixes the full block into the state. */
static void compress(tp_blake2b *b, int is_last)
{
    uint64_t v[16], m[16];
    for (int i = 0; i < 8; i++)
        v[i] = b->h[i], v[i + 8] = iv[i];
    v[12] ^= b->bytes; /* the counter's upper half is always 0: nobody hashes 2^64 bytes */
    if (is_last)
        v[14] = ~v[14];
    for (int i = 0; i < 16; i++)
        m[i] = load(b->block + 8 * i);
    for (int round = 0; round < ROUNDS; round++) {
        const uint8_t *s = sigma[round % 10];
        for (int i = 0; i < 4; i++)
            mix(v, i, i + 4, i + 8, i + 12, m[s[2 * i]], m[s[2 * i + 1]]);
        for (int i = 0; i < 4; i++)
            mix(v, i, (i + 1) % 4 + 4, (i + 2) % 4 + 8, (i + 3) % 4 + 12, m[s[2 * i + 8]],
                m[s[2 * i + 9]]);
    }
    for (int i = 0; i < 8; i++)
        b->h[i] ^= v[i] ^ v[i + 8];
}

void tp_blake2b_begin(tp_blake2b *b, size_t size, const void *key, size_t key_size)
{
    *b = (tp_blake2b){ .size = size };
    memcpy(b->h, iv, sizeof b->h);
    b->h[0] ^= 0x01010000 ^ key_size << 8 ^ size;
    if (key_size) { /* a key is hashed as the first block */
        memcpy(b->block, key, key_size);
        b->used = BLOCK;
    }
}

void tp_blake2b_add(tp_blake2b *b, const void *bytes, size_t n)
{
    const uint8_t *p = bytes;
    while (n > 0) {
        if (b->used == BLOCK) { /* more bytes follow, so this block is not the last */
            b->bytes += BLOCK;
            compress(b, 0);
            b->used = 0;
        }
        size_t part = BLOCK - b->used < n ? BLOCK - b->used : n;
        memcpy(b->block + b->used, p, part);
        b->used += part;
        p += part;
        n -= part;
    }
}

void tp_blake2b_end(tp_blake2b *b, uint8_t *out)
{
    b->bytes += b->used;
    memset(b->block + b->used, 0, BLOCK - b->used);
    compress(b, 1);
    for (size_t i = 0; i < b->size; i++)
        out[i] = (uint8_t)(b->h[i / 8] >> 8 * (i % 8));
}

void tp_blake2b_hash(uint8_t *out, size_t size, const void *bytes, size_t n)
{
    tp_blake2b b;
    tp_blake2b_begin(&b, size, NULL, 0);
    tp_blake2b_add(&b, bytes, n);
    tp_blake2b_end(&b, out);
}
