// SPDX-License-Identifier: MIT
/* A regular file -> a copy in memory -> the file again. */
#include "attack.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

#define KEEP_LIMIT (16 << 20)
#define CAPABILITY "security.capability"

static bool read_whole(int fd, char *data, size_t size)
{
    size_t have = 0;
    while (have < size) {
        ssize_t got = read(fd, data + have, size - have);
        if (got <= 0)
            return false;
        have += (size_t)got;
    }
    return true;
}

/* a descriptor for reading it, or -1 when there is no regular file */
static int open_and_look(const char *path, struct saved *saved)
{
    *saved = (struct saved){.capability_length = -1};
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd >= 0 && (fstat(fd, &saved->st) < 0 || !S_ISREG(saved->st.st_mode))) {
        close(fd);
        return -1;
    }
    if (fd >= 0)
        saved->capability_length = fgetxattr(fd, CAPABILITY, saved->capability, sizeof saved->capability);
    return fd;
}

bool save_attributes(const char *path, struct saved *saved)
{
    int fd = open_and_look(path, saved);
    if (fd >= 0)
        close(fd);
    return fd >= 0;
}

bool save_file(const char *path, struct saved *saved)
{
    int fd = open_and_look(path, saved);
    if (fd < 0)
        return false;
    if (saved->st.st_size <= KEEP_LIMIT) {
        saved->data = malloc((size_t)saved->st.st_size + 1);
        saved->whole = saved->data && read_whole(fd, saved->data, (size_t)saved->st.st_size);
    }
    close(fd);
    return true;
}

/* chown first, it clears setuid bits and capabilities; the times last */
void restore_by_descriptor(int fd, const struct saved *saved)
{
    struct timespec times[2] = {saved->st.st_atim, saved->st.st_mtim};
    (void)!fchown(fd, saved->st.st_uid, saved->st.st_gid);
    (void)!fchmod(fd, saved->st.st_mode & 07777);
    if (saved->capability_length > 0)
        (void)!fsetxattr(fd, CAPABILITY, saved->capability, (size_t)saved->capability_length, 0);
    (void)!futimens(fd, times);
}

void restore_attributes(const char *path, const struct saved *saved)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0)
        return;
    restore_by_descriptor(fd, saved);
    close(fd);
}

bool restore_file(const char *path, const struct saved *saved)
{
    struct saved now;
    if (!saved->whole)
        return false;
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return false;
    (void)write_all(fd, saved->data, (size_t)saved->st.st_size);
    close(fd);
    restore_attributes(path, saved);
    bool same = save_file(path, &now) && now.whole && now.st.st_size == saved->st.st_size &&
                now.st.st_mode == saved->st.st_mode && now.st.st_uid == saved->st.st_uid &&
                now.st.st_gid == saved->st.st_gid && !memcmp(now.data, saved->data, (size_t)saved->st.st_size);
    forget_file(&now);
    return same;
}

void forget_file(struct saved *saved)
{
    free(saved->data);
    saved->data = NULL;
    saved->whole = false;
}
