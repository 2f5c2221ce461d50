/* glance.h: values as short texts for people to read, made of messages and blocks without a Lua
 * state. What does not fit ends in "...", and so does what cannot be told without decoding it. */
#ifndef TP_GLANCE_H
#define TP_GLANCE_H

#include "codec/block.h"

/* The values of a message of ours, with commas between them, as a string of less than `size` bytes,
 * which is at least 8. */
void tp_glance_message(const uint8_t *bytes, size_t len, char *to, size_t size);

/* The same for the item at that offset of a block of inputs or results. Of a failure: its message.
 * Empty where there is nothing to tell. */
void tp_glance_item(const tp_block *b, uint32_t at, char *to, size_t size);

#endif
