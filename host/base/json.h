/* json.h: text in strings of JSON. */
#ifndef TP_JSON_H
#define TP_JSON_H

#include <stddef.h>

/* Writes the text as it stands between the quotes of a string of JSON, up to 6 bytes for each of
 * its own; returns where it ends. What is not UTF-8 becomes U+FFFD. "<" is escaped, so that the
 * string can stand in a page of HTML. */
char *tp_json_escape(char *to, const char *text, size_t len);

#endif
