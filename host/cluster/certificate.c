/* certificate.c: writes certificates (X.509) and keys (PKCS 8) for Ed25519. See certificate.h. */
#include "cluster/certificate.h"

#include <stdio.h>
#include <string.h>

/* Tags of DER (X.690), as far as they are used here; the others are context-specific tags of X.509
 * (RFC 5280). */
enum {
    BOOLEAN = 0x01,
    INTEGER = 0x02,
    BIT_STRING = 0x03,
    OCTET_STRING = 0x04,
    OID = 0x06,
    UTF8_STRING = 0x0c,
    UTC_TIME = 0x17,
    SEQUENCE = 0x30,
    SET = 0x31,
    NAME_DNS = 0x82, /* a DNS name in subjectAltName */
    VERSION = 0xa0,
    EXTENSIONS = 0xa3
};

static const uint8_t ed25519[] = { 0x2b, 0x65, 0x70 };
static const uint8_t common_name[] = { 0x55, 0x04, 0x03 };
static const uint8_t alternative_name[] = { 0x55, 0x1d, 0x11 };
static const uint8_t constraints[] = { 0x55, 0x1d, 0x13 };
static const uint8_t yes[] = { 0xff }, zero[] = { 0 }, version_3[] = { 2 };
static const char signers_name[] = "tidepool";

/* DER that is written from its end to its beginning: so an element's contents are there, and its
 * length is known, when its tag and length are written. */
typedef struct der {
    uint8_t bytes[600];
    size_t at;
} der;

static void put(der *d, const void *bytes, size_t n)
{
    d->at -= n;
    memcpy(d->bytes + d->at, bytes, n);
}

/* Puts the tag `kind` and the length before what was written since `end`. */
static void wrap(der *d, uint8_t kind, size_t end)
{
    size_t len = end - d->at;
    uint8_t head[4] = { kind, (uint8_t)len };
    size_t n = 2;
    if (len >= 0x100) {
        head[1] = 0x82;
        head[n++] = (uint8_t)(len >> 8);
    } else if (len >= 0x80) {
        head[1] = 0x81;
    }
    if (len >= 0x80)
        head[n++] = (uint8_t)len;
    put(d, head, n);
}

static void put_one(der *d, uint8_t kind, const void *bytes, size_t n)
{
    size_t end = d->at;
    put(d, bytes, n);
    wrap(d, kind, end);
}

static void put_bits(der *d, const void *bytes, size_t n)
{
    size_t end = d->at;
    put(d, bytes, n);
    put(d, zero, 1); /* a bit string begins with the number of unused bits in its last byte */
    wrap(d, BIT_STRING, end);
}

static void put_algorithm(der *d)
{
    size_t end = d->at;
    put_one(d, OID, ed25519, sizeof ed25519);
    wrap(d, SEQUENCE, end);
}

static void put_name(der *d, const char *name)
{
    size_t end = d->at;
    put_one(d, UTF8_STRING, name, strlen(name));
    put_one(d, OID, common_name, sizeof common_name);
    wrap(d, SEQUENCE, end);
    wrap(d, SET, end);
    wrap(d, SEQUENCE, end);
}

/* The extensions: the certificate may sign others (is_signers), or it is an engine's. */
static void put_extensions(der *d, bool is_signers)
{
    size_t end = d->at;
    if (is_signers) {
        put_one(d, BOOLEAN, yes, sizeof yes);
        wrap(d, SEQUENCE, end);
        wrap(d, OCTET_STRING, end);
        put_one(d, BOOLEAN, yes, sizeof yes); /* critical */
        put_one(d, OID, constraints, sizeof constraints);
    } else {
        put_one(d, NAME_DNS, TP_ENGINE_NAME, strlen(TP_ENGINE_NAME));
        wrap(d, SEQUENCE, end);
        wrap(d, OCTET_STRING, end);
        put_one(d, OID, alternative_name, sizeof alternative_name);
    }
    wrap(d, SEQUENCE, end);
    wrap(d, SEQUENCE, end);
    wrap(d, EXTENSIONS, end);
}

/* The part of a certificate that is signed (TBSCertificate). */
static void put_claims(der *d, const uint8_t *public_key, const uint8_t *number, size_t n,
                       bool is_signers)
{
    static const char from[] = "000101000000Z", to[] = "491231235959Z";
    size_t end = d->at, key, times, version;
    put_extensions(d, is_signers);
    key = d->at;
    put_bits(d, public_key, TP_KEY_BYTES);
    put_algorithm(d);
    wrap(d, SEQUENCE, key);
    put_name(d, is_signers ? signers_name : TP_ENGINE_NAME);
    times = d->at;
    put_one(d, UTC_TIME, to, strlen(to));
    put_one(d, UTC_TIME, from, strlen(from));
    wrap(d, SEQUENCE, times);
    put_name(d, signers_name);
    put_algorithm(d);
    put_one(d, INTEGER, number, n);
    version = d->at;
    put_one(d, INTEGER, version_3, sizeof version_3);
    wrap(d, VERSION, version);
    wrap(d, SEQUENCE, end);
}

/* The signature, and around all of it what makes it a certificate. `d` has the claims. */
static void put_signature(der *d, const uint8_t signature[TP_SIGNATURE_BYTES])
{
    der all = { .at = sizeof all.bytes };
    put_bits(&all, signature, TP_SIGNATURE_BYTES);
    put_algorithm(&all);
    put(&all, d->bytes + d->at, sizeof d->bytes - d->at);
    wrap(&all, SEQUENCE, sizeof all.bytes);
    *d = all;
}

static void write_pem(char pem[TP_PEM_MAX], const char *what, const der *d)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    enum { LINE = 48 }; /* bytes in a line: base64 makes four characters of three bytes */
    char *to = pem + snprintf(pem, TP_PEM_MAX, "-----BEGIN %s-----", what);
    size_t len = sizeof d->bytes - d->at;
    const uint8_t *from = d->bytes + d->at;
    for (size_t i = 0; i < len; i += 3) {
        uint32_t three = (uint32_t)from[i] << 16;
        three |= i + 1 < len ? (uint32_t)from[i + 1] << 8 : 0;
        three |= i + 2 < len ? from[i + 2] : 0;
        if (i % LINE == 0)
            *to++ = '\n';
        *to++ = digits[three >> 18];
        *to++ = digits[three >> 12 & 63];
        *to++ = i + 1 < len ? digits[three >> 6 & 63] : '=';
        *to++ = i + 2 < len ? digits[three & 63] : '=';
    }
    snprintf(to, TP_PEM_MAX - (size_t)(to - pem), "\n-----END %s-----\n", what);
}

void tp_certificate_trusted(char pem[TP_PEM_MAX], const uint8_t public_key[TP_KEY_BYTES])
{
    static const uint8_t none[TP_SIGNATURE_BYTES] = { 0 };
    static const uint8_t number[] = { 1 };
    der d = { .at = sizeof d.bytes };
    put_claims(&d, public_key, number, sizeof number, true);
    put_signature(&d, none);
    write_pem(pem, "CERTIFICATE", &d);
}

void tp_certificate_make(const tp_signer *s, char pem[TP_PEM_MAX], char key[TP_PEM_MAX])
{
    uint8_t seed[TP_KEY_BYTES], public_key[TP_KEY_BYTES], secret[2 * TP_KEY_BYTES];
    uint8_t number[16], signature[TP_SIGNATURE_BYTES];
    der d = { .at = sizeof d.bytes };
    tp_signer_random(s, seed, sizeof seed);
    tp_signer_random(s, number, sizeof number);
    /* positive, and without leading zeros, as DER demands of a serial number */
    number[0] = (uint8_t)(number[0] % 127 + 1);
    s->crypto_sign_seed_keypair(public_key, secret, seed);
    put_claims(&d, public_key, number, sizeof number, false);
    tp_signer_sign(s, signature, d.bytes + d.at, sizeof d.bytes - d.at);
    put_signature(&d, signature);
    write_pem(pem, "CERTIFICATE", &d);

    d = (der){ .at = sizeof d.bytes };
    put_one(&d, OCTET_STRING, seed, sizeof seed);
    wrap(&d, OCTET_STRING, sizeof d.bytes);
    put_algorithm(&d);
    put_one(&d, INTEGER, zero, sizeof zero);
    wrap(&d, SEQUENCE, sizeof d.bytes);
    write_pem(key, "PRIVATE KEY", &d);
}
