/* folder.h: folders in which something is kept for one user, and into which nobody else can have
 * put anything. */
#ifndef TP_FOLDER_H
#define TP_FOLDER_H

#include "base/error.h"

#include <stdbool.h>
#include <sys/stat.h>

/* Does the file belong to us, with none of the mode bits in `forbidden`? If not, err says what is
 * wrong with the path. */
bool tp_file_is_ours(const struct stat *s, mode_t forbidden, const char *path, tp_error *err);

/* Makes a folder, and the missing ones above it, for this user alone. -1 with errno set. */
int tp_folder_make(const char *path);

/* Opens a folder that belongs to us, is no symbolic link and that nobody else may write. `is_made`:
 * it is made when it is missing, with those above it. 0 with *fd = -1 when it is missing; -1 with
 * err set. */
int tp_folder_open(int *fd, const char *path, bool is_made, tp_error *err);

#endif
