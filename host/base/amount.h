/* amount.h: amounts as people read them. */
#ifndef TP_AMOUNT_H
#define TP_AMOUNT_H

#include <stdint.h>

enum { TP_AMOUNT_TEXT = 32 };

/* So many bytes, with a tenth of the unit below 100 of it: "10 bytes", "1.5 KiB", "256 MiB". Gives
 * `text`. page.html writes them in the same way. */
const char *tp_amount_of_bytes(char text[TP_AMOUNT_TEXT], uint64_t bytes);

#endif
