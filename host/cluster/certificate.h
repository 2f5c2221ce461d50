/* certificate.h: certificates by which scripts and workers recognise their cluster's engine (its
 * NATS server) over TLS.
 *
 * The key that signs work signs the engine's certificate, too, and every token has that key or its
 * public part: so a client needs nothing else to trust the engine, and trusts nobody else's. So the
 * address of an engine need not be checked, and all engines have the same name in their
 * certificates. Certificates do not expire; new tokens make old ones worthless. */
#ifndef TP_CERTIFICATE_H
#define TP_CERTIFICATE_H

#include "cluster/sign.h"

/* The name in the certificate of every engine. */
#define TP_ENGINE_NAME "engine.tidepool"

enum { TP_PEM_MAX = 1024 };

/* Writes the root certificate with that key for a client, which trusts it as it is; so its
 * signature is not a true one. */
void tp_certificate_trusted(char pem[TP_PEM_MAX], const uint8_t public_key[TP_KEY_BYTES]);

/* Makes a key for an engine, and a certificate signed by `s`, a coordinator's. */
void tp_certificate_make(const tp_signer *s, char pem[TP_PEM_MAX], char key[TP_PEM_MAX]);

#endif
