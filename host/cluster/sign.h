/* sign.h: signatures (Ed25519) and tokens: who may send work, and whose work a worker runs.
 *
 * Libsodium (libsodium.so.23) is loaded at its first use and never linked, as the NATS client.
 *
 * A token is what one side of a cluster needs: its password for the server, and a key. A
 * coordinator's has the secret key with which it signs; a worker's the public key of the
 * coordinators that it takes work from. As text, which is a secret:
 *
 *     tpc1.PASSWORD.SEED      tpw1.PASSWORD.PUBLIC      (64 hexadecimal digits each)
 *
 * An engine may have several tokens for workers, each with a password of its own. A token's user
 * name on the server, and the prefix of subjects on which it gets answers and no other user may
 * listen, follow from its password. */
#ifndef TP_SIGN_H
#define TP_SIGN_H

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    TP_KEY_BYTES = 32,
    TP_USER_TEXT = 32,
    TP_SIGNATURE_BYTES = 64,
    TP_TOKEN_TEXT = 5 + 2 * (2 * TP_KEY_BYTES) + 2 /* characters, with the NUL */
};

#define TP_SODIUM_FUNCTIONS(X)                                                                  \
    X(int, sodium_init, (void))                                                                 \
    X(void, randombytes_buf, (void *, size_t))                                                  \
    X(int, crypto_sign_seed_keypair, (unsigned char *, unsigned char *, const unsigned char *)) \
    X(int, crypto_sign_detached,                                                                \
      (unsigned char *, unsigned long long *, const unsigned char *, unsigned long long,        \
       const unsigned char *))                                                                  \
    X(int, crypto_sign_verify_detached,                                                         \
      (const unsigned char *, const unsigned char *, unsigned long long, const unsigned char *))

typedef struct tp_signer {
    void *library;
    bool is_coordinator;
    char password[2 * TP_KEY_BYTES + 1];
    char user[TP_USER_TEXT], inbox[TP_USER_TEXT]; /* a prefix of subjects */
    uint8_t public_key[TP_KEY_BYTES];
    uint8_t secret[2 * TP_KEY_BYTES]; /* only of a coordinator */
#define TP_SODIUM_FIELD(result, name, arguments) result (*name) arguments;
    TP_SODIUM_FUNCTIONS(TP_SODIUM_FIELD)
#undef TP_SODIUM_FIELD
} tp_signer;

/* Loads libsodium. */
int tp_signer_load(tp_signer *s, tp_error *err);

/* Reads a token of that role, loading libsodium. -1 with err set, which does not quote it. */
int tp_signer_open(tp_signer *s, const char *token, bool is_coordinator, tp_error *err);

/* Makes the coordinator's token of a new engine, loading libsodium. */
int tp_signer_make(tp_signer *s, char coordinator[TP_TOKEN_TEXT], tp_error *err);

/* Makes a token for workers; `s` is the coordinator's. */
void tp_signer_make_worker(const tp_signer *s, char worker[TP_TOKEN_TEXT]);

/* Fills with bytes that nobody can guess. */
void tp_signer_random(const tp_signer *s, void *bytes, size_t n);

void tp_signer_sign(const tp_signer *s, uint8_t signature[TP_SIGNATURE_BYTES], const void *bytes,
                    size_t n);
bool tp_signer_verify(const tp_signer *s, const uint8_t signature[TP_SIGNATURE_BYTES],
                      const void *bytes, size_t n);

/* Writes n bytes as 2 n hexadecimal digits and a NUL. */
void tp_to_hex(char *to, const uint8_t *bytes, size_t n);

/* Reads 2 n hexadecimal digits. False when they are none. */
bool tp_from_hex(uint8_t *to, const char *text, size_t n);

#endif
