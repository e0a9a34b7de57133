// SPDX-License-Identifier: MIT
/* Numbers -> names. errno differs between architectures in number, never in name. */
#include "probe.h"

#include <errno.h>
#include <stdio.h>

#define ROW(name) {name, #name}

static const struct {
    int number;
    const char *name;
} errnos[] = {
    ROW(E2BIG),     ROW(EACCES),      ROW(EAGAIN),    ROW(EBADF),     ROW(EBUSY),     ROW(ECHILD),
    ROW(EDEADLK),   ROW(EDQUOT),      ROW(EEXIST),    ROW(EFAULT),    ROW(EFBIG),     ROW(EINTR),
    ROW(EINVAL),    ROW(EIO),         ROW(EISDIR),    ROW(ELOOP),     ROW(EMFILE),    ROW(EMLINK),
    ROW(ENAMETOOLONG), ROW(ENFILE),   ROW(ENODATA),   ROW(ENODEV),    ROW(ENOENT),    ROW(ENOEXEC),
    ROW(ENOMEM),    ROW(ENOMEDIUM),   ROW(ENOSPC),    ROW(ENOSYS),    ROW(ENOTBLK),   ROW(ENOTDIR),
    ROW(ENOTEMPTY), ROW(ENOTSUP),     ROW(ENOTTY),    ROW(ENXIO),     ROW(EOVERFLOW), ROW(EPERM),
    ROW(EPIPE),     ROW(ERANGE),      ROW(EROFS),     ROW(ESPIPE),    ROW(ESRCH),     ROW(ESTALE),
    ROW(ETIMEDOUT), ROW(ETXTBSY),     ROW(EUCLEAN),   ROW(EXDEV),     ROW(EKEYREJECTED),
    ROW(ECONNREFUSED), ROW(ECONNRESET), ROW(EMSGSIZE), ROW(ENOMSG),   ROW(EPROTO),
};

const char *errno_name(int err)
{
    static char unknown[16];
    for (size_t i = 0; i < sizeof errnos / sizeof *errnos; i++)
        if (errnos[i].number == err)
            return errnos[i].name;
    snprintf(unknown, sizeof unknown, "E%d", err);
    return unknown;
}

const char *type_name(mode_t mode)
{
    switch (mode & S_IFMT) {
    case S_IFREG: return "file";
    case S_IFDIR: return "dir";
    case S_IFLNK: return "link";
    case S_IFIFO: return "fifo";
    case S_IFSOCK: return "socket";
    case S_IFCHR: return "char";
    case S_IFBLK: return "block";
    default: return "unknown";
    }
}
