/* sign.c: loads libsodium, reads and makes tokens, signs and verifies. See sign.h. */
#include "cluster/sign.h"

#include "base/blake2b.h"
#include "cluster/protocol.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

static const char library[] = "libsodium.so.23";

int tp_signer_load(tp_signer *s, tp_error *err)
{
    s->library = dlopen(library, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (!s->library)
        return tp_error_set(err, TP_ESYS,
                            "a cluster needs libsodium (%s), which is not installed: on Debian, "
                            "apt install libsodium23",
                            library);
#define LOAD(result, name, arguments)                                                     \
    *(void **)&s->name = dlsym(s->library, #name);                                        \
    if (!s->name)                                                                         \
        return tp_error_set(err, TP_ESYS, "%s is too old: it has no " #name, library);
    TP_SODIUM_FUNCTIONS(LOAD)
#undef LOAD
    if (s->sodium_init() < 0)
        return tp_error_set(err, TP_ESYS, "libsodium cannot be initialised");
    return 0;
}

void tp_to_hex(char *to, const uint8_t *bytes, size_t n)
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < n; i++) {
        *to++ = digits[bytes[i] >> 4];
        *to++ = digits[bytes[i] & 15];
    }
    *to = '\0';
}

bool tp_from_hex(uint8_t *to, const char *text, size_t n)
{
    for (size_t i = 0; i < 2 * n; i++) {
        char c = text[i];
        int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
        if (digit < 0)
            return false;
        to[i / 2] = (uint8_t)(i % 2 ? to[i / 2] | digit : digit << 4);
    }
    return true;
}

static void name_user(tp_signer *s, const uint8_t password[TP_KEY_BYTES])
{
    enum { BYTES = 6 };
    uint8_t hash[BYTES];
    char hex[2 * BYTES + 1];
    tp_blake2b_hash(hash, sizeof hash, password, TP_KEY_BYTES);
    tp_to_hex(hex, hash, sizeof hash);
    if (s->is_coordinator) {
        snprintf(s->user, sizeof s->user, "%s", TP_USER_COORDINATOR);
        snprintf(s->inbox, sizeof s->inbox, "%s", TP_INBOX_COORDINATOR);
    } else {
        snprintf(s->user, sizeof s->user, TP_USER_WORKER "-%s", hex);
        snprintf(s->inbox, sizeof s->inbox, TP_INBOX_WORKER ".%s", hex);
    }
}

int tp_signer_open(tp_signer *s, const char *token, bool is_coordinator, tp_error *err)
{
    enum { HEX = 2 * TP_KEY_BYTES };
    const char *prefix = is_coordinator ? "tpc1." : "tpw1.";
    const char *other = is_coordinator ? "tpw1." : "tpc1.";
    uint8_t password[TP_KEY_BYTES], key[TP_KEY_BYTES];
    *s = (tp_signer){ .is_coordinator = is_coordinator };
    if (strncmp(token, other, 5) == 0)
        return tp_error_set(err, TP_EUSAGE, "the token is %s, and this needs %s",
                            is_coordinator ? "a worker's" : "a coordinator's",
                            is_coordinator ? "a coordinator's" : "a worker's");
    if (strlen(token) != TP_TOKEN_TEXT - 1 || strncmp(token, prefix, 5) != 0 ||
        token[5 + HEX] != '.' || !tp_from_hex(password, token + 5, TP_KEY_BYTES) ||
        !tp_from_hex(key, token + 5 + HEX + 1, TP_KEY_BYTES))
        return tp_error_set(err, TP_EUSAGE,
                            "the token is none that `tidepool engine token` has shown");
    if (tp_signer_load(s, err))
        return -1;
    memcpy(s->password, token + 5, HEX);
    name_user(s, password);
    if (is_coordinator)
        s->crypto_sign_seed_keypair(s->public_key, s->secret, key);
    else
        memcpy(s->public_key, key, sizeof key);
    return 0;
}

int tp_signer_make(tp_signer *s, char coordinator[TP_TOKEN_TEXT], tp_error *err)
{
    uint8_t bytes[2][TP_KEY_BYTES];
    char hex[2][2 * TP_KEY_BYTES + 1];
    if (tp_signer_load(s, err))
        return -1;
    for (int i = 0; i < 2; i++) {
        s->randombytes_buf(bytes[i], TP_KEY_BYTES);
        tp_to_hex(hex[i], bytes[i], TP_KEY_BYTES);
    }
    snprintf(coordinator, TP_TOKEN_TEXT, "tpc1.%s.%s", hex[0], hex[1]);
    return tp_signer_open(s, coordinator, true, err);
}

void tp_signer_make_worker(const tp_signer *s, char worker[TP_TOKEN_TEXT])
{
    uint8_t password[TP_KEY_BYTES];
    char hex[2][2 * TP_KEY_BYTES + 1];
    s->randombytes_buf(password, sizeof password);
    tp_to_hex(hex[0], password, sizeof password);
    tp_to_hex(hex[1], s->public_key, TP_KEY_BYTES);
    snprintf(worker, TP_TOKEN_TEXT, "tpw1.%s.%s", hex[0], hex[1]);
}

void tp_signer_random(const tp_signer *s, void *bytes, size_t n)
{
    s->randombytes_buf(bytes, n);
}

void tp_signer_sign(const tp_signer *s, uint8_t signature[TP_SIGNATURE_BYTES], const void *bytes,
                    size_t n)
{
    s->crypto_sign_detached(signature, NULL, bytes, n, s->secret);
}

bool tp_signer_verify(const tp_signer *s, const uint8_t signature[TP_SIGNATURE_BYTES],
                      const void *bytes, size_t n)
{
    return s->crypto_sign_verify_detached(signature, bytes, n, s->public_key) == 0;
}
