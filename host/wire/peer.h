/* peer.h: a worker process as its host sees it: started, watched, ended.
 *
 * The process is the program `tidepool --worker`. It has no descriptors but its own (TP_PEER_*):
 * /dev/null, two pipes for what native code writes, a socket, the link's memory (three pieces), the
 * file of the host's arrays, if there is one, and a pipe that ends with the host. It dies with the
 * thread that started it, and the commands that it has started with the host, so the host leaves
 * none behind, however it ends. What the process does is not known here. */
#ifndef TP_PEER_H
#define TP_PEER_H

#include "base/error.h"

#include <spawn.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum {
    TP_PEER_SOCKET = 3,
    TP_PEER_IN,
    TP_PEER_OUT,
    TP_PEER_ARRAYS,
    TP_PEER_ASKS,
    TP_PEER_LIFE,
    TP_PEER_FDS /* descriptors of a worker process */
};
enum { TP_PEER_SHARED = 4 /* how many, from TP_PEER_IN on */ };
enum { TP_PEER_TAIL = 4096 }; /* so much of the end of its standard error is kept */

typedef struct tp_peer {
    pid_t pid;      /* 0: there is none */
    /* readable once the process has ended; -1: the kernel has no pidfd, and the end of the socket
     * tells */
    int pidfd;
    int socket;     /* a stream of wake-up bytes and of what the process prints; does not block */
    int output[2];  /* where its descriptors 1 and 2 can be read; they do not block */
    /* the end of a pipe to which nothing is ever written. When it is closed, which the host's death
     * does, the system kills the process's group: the process asks for that (child.c) */
    int life;
    char tail[TP_PEER_TAIL]; /* the end of what came out of output[1] */
    size_t tail_len;
    bool has_ended; /* the process has ended and been reaped: */
    int status;     /* as waitpid gives it; -1: somebody else has reaped the process */
} tp_peer;

/* Starts the program at `path` with the memory that is shared with it: the descriptors from
 * TP_PEER_IN on, that of the arrays may be -1. Leaves nothing open when it fails. */
int tp_peer_start(tp_peer *p, const char *path, const int shared[TP_PEER_SHARED], tp_error *err);

/* Finds the program `tidepool` near the file that has this code (a library, a module or a program),
 * where `make` or `make install` puts it. False when there is none. */
bool tp_peer_find(char *path, size_t size);

/* Has the process ended? Does not wait. */
bool tp_peer_has_ended(tp_peer *p);

/* Has a signal stopped the process? Does not wait. */
bool tp_peer_is_stopped(const tp_peer *p);

/* Kills the process and its process group, and waits for it. Its descriptors stay open, since
 * something may still be in them. */
void tp_peer_kill(tp_peer *p);

/* Closes its descriptors. The process must have ended, or be about to. Does nothing when zeroed, or
 * closed already. */
void tp_peer_close(tp_peer *p);

/* Keeps the end of what the process has written to descriptor 2. */
void tp_peer_keep_tail(tp_peer *p, const char *bytes, size_t len);

/* How many processes the system has killed so far because memory ran out, of our control group if
 * it says that, else of all; 0 when it does not say. If this grew, a process that died of SIGKILL
 * is taken for one of them. */
uint64_t tp_peer_oom_kills(void);

/* How the process ended, in words that follow its name: "was killed by SIGSEGV", "exited with code
 * 3". *signal is the signal's name, or NULL; *code is its exit code, or -1. */
void tp_peer_describe(const tp_peer *p, char *text, size_t size, const char **signal, int *code);

/* "SIGSEGV" and so on; NULL for a signal that nobody meets. */
const char *tp_peer_signal_name(int signal);

/* For posix_spawn: what else starts processes that it looks after starts them in the same way. Each
 * returns 0 or an errno.
 * - A process group of its own, so that its starter decides what Ctrl-C means, and all signals as
 *   they are by default.
 * - No descriptors from `first` on. Ours are closed in a new program anyhow; where the C library
 *   cannot do this, which is musl, those that others have opened without O_CLOEXEC go along. */
int tp_peer_set_attributes(posix_spawnattr_t *attributes);
int tp_peer_close_from(posix_spawn_file_actions_t *actions, int first);

#endif
