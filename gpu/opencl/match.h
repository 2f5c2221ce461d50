/* match.h: which devices the words of an option `gpu` mean, and which device is the better one. For
 * the devices of this machine, and for those that the workers of a cluster tell of. */
#ifndef TP_MATCH_H
#define TP_MATCH_H

#include <stdbool.h>

/* A device as users see it. */
typedef struct tp_seen_device {
    const char *name, *platform, *vendor;
    const char *type; /* "gpu", "accelerator" or "cpu" */
    unsigned units;
    bool is_unified;
    unsigned number; /* the caller's; the last thing that decides which one is first */
} tp_seen_device;

/* One word of an option `gpu`: "any", a type, a maker, or a part of a name; with ":2" behind it so
 * many of them are wanted. */
typedef struct tp_device_word {
    char text[100]; /* in lower case, without the number */
    unsigned wanted;
} tp_device_word;

/* Reads a word of `len` bytes; one that is too long is cut. */
tp_device_word tp_device_word_read(const char *text, unsigned len);

/* Is a before b: a graphics card with its own memory before other devices, those before processors,
 * larger ones before smaller ones? */
bool tp_device_is_before(const tp_seen_device *a, const tp_seen_device *b);

/* Graphics cards have rank 1, then come accelerators and processors. */
int tp_device_rank(const char *type);

/* Does one of the n devices have the word, a part of a name, as a whole word of its name? "A10" is
 * one of "NVIDIA A10", but not of "NVIDIA A100". Then only those are meant that have it so. */
bool tp_device_word_is_whole(const tp_device_word *word, const tp_seen_device *devices, unsigned n);

/* Finds the devices that the word selects, in their order, up to as many as are wanted: their
 * indices, in `found`, which has room for n. `is_whole`: as tp_device_word_is_whole says of all
 * devices that there are, of which these are some. Gives their number. */
unsigned tp_device_match(const tp_device_word *word, bool is_whole, const tp_seen_device *devices,
                         unsigned n, unsigned *found);

#endif
