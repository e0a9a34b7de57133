// SPDX-License-Identifier: MIT
/* A file opened by its handle: no name is looked up, so nothing that lies over the name is in the way. */
#include "attack.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

int open_by_handle(const char *victim, int mount_fd, struct outcome *o)
{
    union {
        struct file_handle handle;
        char room[sizeof(struct file_handle) + MAX_HANDLE_SZ];
    } whole = {.handle.handle_bytes = MAX_HANDLE_SZ};
    int mount_id;
    if (name_to_handle_at(AT_FDCWD, victim, &whole.handle, &mount_id, 0) < 0) {
        o->err = errno;
        if (errno == ENOTSUP || errno == ENOSYS)
            o->skipped = "no file handles";
        return -1;
    }
    int fd = open_by_handle_at(mount_fd, &whole.handle, O_RDWR | O_CLOEXEC);
    o->err = fd < 0 ? errno : 0;
    return fd;
}

void attack_handle(const struct target *t, const char *victim, struct outcome *o)
{
    struct saved saved;
    (void)t;
    save_attributes(victim, &saved);
    int mount_fd = open(victim, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (mount_fd < 0) {
        o->err = errno;
        return;
    }
    int fd = open_by_handle(victim, mount_fd, o);
    if (fd >= 0) {
        write_first_byte(fd, victim, &saved, o);
        close(fd);
    }
    close(mount_fd);
}
