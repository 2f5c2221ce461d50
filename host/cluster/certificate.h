/* certificate.h: how scripts and workers know the engine that they connect to over TLS.
 *
 * The key that signs work signs the engine's certificate, too, and every token has that key or its
 * public part: so a client needs nothing else to trust the engine, and trusts nobody else's. Which
 * address an engine is reached at says nothing then, and all have the same name. Certificates do
 * not end: what was signed is worth nothing any more once there are new tokens. */
#ifndef TP_CERTIFICATE_H
#define TP_CERTIFICATE_H

#include "cluster/sign.h"

/* The name in the certificate of every engine. */
#define TP_ENGINE_NAME "engine.tidepool"

enum { TP_PEM_MAX = 1024 };

/* The certificate of the owner of that key, for a client, which trusts it as it is: there is no
 * true signature in it. */
void tp_certificate_trusted(char pem[TP_PEM_MAX], const uint8_t public_key[TP_KEY_BYTES]);

/* Makes a key for an engine, and a certificate signed by `s`, a coordinator's. */
void tp_certificate_make(const tp_signer *s, char pem[TP_PEM_MAX], char key[TP_PEM_MAX]);

#endif
