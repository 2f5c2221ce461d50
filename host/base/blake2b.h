/* blake2b.h: the hash BLAKE2b of RFC 7693, with or without a key. With a key it is a MAC: only who
 * has the key can make or check it. */
#ifndef TP_BLAKE2B_H
#define TP_BLAKE2B_H

#include <stddef.h>
#include <stdint.h>

enum { TP_HASH_MAX = 64 /* bytes of a hash and of a key */ };

/* A hash in the making. Not shared between threads while it is. */
typedef struct tp_blake2b {
    uint64_t h[8], bytes;
    uint8_t block[128];
    size_t used, size;
} tp_blake2b;

/* Begins a hash of `size` bytes, 1 to TP_HASH_MAX. key_size 0: without a key. */
void tp_blake2b_begin(tp_blake2b *b, size_t size, const void *key, size_t key_size);
void tp_blake2b_add(tp_blake2b *b, const void *bytes, size_t n);

/* Writes the hash, `size` bytes. */
void tp_blake2b_end(tp_blake2b *b, uint8_t *out);

/* Begin, add and end in one call, without a key. */
void tp_blake2b_hash(uint8_t *out, size_t size, const void *bytes, size_t n);

#endif
