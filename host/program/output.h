/* output.h: standard output and error, and the progress line. */
#ifndef TP_OUTPUT_H
#define TP_OUTPUT_H

#include <stdbool.h>
#include <stddef.h>

struct lua_State;

/* Sees to it that descriptors 0 to 2 are open. Before anything else. */
void tp_output_open(void);

/* tp_config.write. Any thread. */
void tp_output_write(void *user, int fd, const char *bytes, size_t len);

/* Writes out what stdout holds. Returns code, or what it has to be when the output is lost; a reader that went away ends us as SIGPIPE would have. */
int tp_output_flush(int code);

/* Gives the main state a print that writes in one piece; where a progress line (that mode, from tp_output_choose_progress) or a line that is typed may be
 * on the terminal, what the state writes goes above it. Before the host is opened in the state, which takes these functions for builtins. */
void tp_output_guard(struct lua_State *L, const char *progress);

/* How progress is shown: "line", "plain", "json" or "off". `given` is the option's word, NULL without one. */
const char *tp_output_choose_progress(const char *given, bool is_quiet);

/* Starts that. Raises. */
void tp_output_open_progress(struct lua_State *L, const char *mode);

#endif
