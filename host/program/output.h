/* output.h: standard output and error, and the progress line. */
#ifndef TP_OUTPUT_H
#define TP_OUTPUT_H

#include <stdbool.h>
#include <stddef.h>

struct lua_State;

/* Makes sure that descriptors 0 to 2 are open, and opens the terminal (term.h). Must be called
 * before anything else. */
void tp_output_open(void);

/* tp_config.write. Any thread. */
void tp_output_write(void *user, int fd, const char *bytes, size_t len);

/* Flushes stdout. Returns code, or the exit code for lost output. When the reader has gone away,
 * ends the process as SIGPIPE would have. */
int tp_output_flush(int code);

/* Gives the main state a print that writes in one piece. Where a progress line (`progress`, from
 * tp_output_choose_progress) or a line that is being typed may be on the terminal, makes the state
 * write above it. Must come before the host is opened in the state, which registers these functions
 * as builtins. */
void tp_output_guard(struct lua_State *L, const char *progress);

/* How progress is shown: "line", "plain", "json" or "off". `given` is the option's value, or
 * NULL. */
const char *tp_output_choose_progress(const char *given, bool is_quiet);

/* Starts showing progress in that mode. Raises. */
void tp_output_open_progress(struct lua_State *L, const char *mode);

#endif
