// SPDX-License-Identifier: MIT
/* Attacks on what a regular file holds: its first byte, its length, all of it. */
#include "attack.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

static off_t size_of(const char *path)
{
    struct stat st;
    return lstat(path, &st) < 0 ? -1 : st.st_size;
}

/* the first byte as a fresh reader sees it, -1 when there is none */
static int first_byte(const char *path)
{
    unsigned char byte;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    ssize_t got = read(fd, &byte, 1);
    close(fd);
    return got == 1 ? byte : -1;
}

/* writes another first byte and looks; writes the old one back, or cuts off what was not there */
void attack_open_write(const struct target *t, const char *victim, struct outcome *o)
{
    struct saved saved;
    (void)t;
    save_file(victim, &saved);
    int before = first_byte(victim);
    int fd = open(victim, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
    o->err = fd < 0 ? errno : 0;
    if (fd >= 0) {
        unsigned char other = (unsigned char)(before < 0 ? 'x' : before ^ 1), old = (unsigned char)before;
        if (pwrite(fd, &other, 1, 0) < 0)
            o->err = errno;
        o->effect = first_byte(victim) != before;
        if (o->effect)
            o->restored = (before < 0 ? ftruncate(fd, 0) == 0 : pwrite(fd, &old, 1, 0) == 1) &&
                          first_byte(victim) == before;
        close(fd);
    }
    if (o->effect)
        restore_attributes(victim, &saved);
    forget_file(&saved);
}

void attack_open_append(const struct target *t, const char *victim, struct outcome *o)
{
    struct saved saved;
    (void)t;
    save_file(victim, &saved);
    int fd = open(victim, O_WRONLY | O_APPEND | O_CLOEXEC | O_NOFOLLOW);
    o->err = fd < 0 ? errno : 0;
    if (fd >= 0) {
        if (write(fd, "x", 1) < 0)
            o->err = errno;
        close(fd);
    }
    o->effect = size_of(victim) != saved.st.st_size;
    if (o->effect) {
        o->restored = truncate(victim, saved.st.st_size) == 0;
        restore_attributes(victim, &saved);
    }
    forget_file(&saved);
}

void attack_open_trunc(const struct target *t, const char *victim, struct outcome *o)
{
    struct saved saved;
    (void)t;
    if (!save_file(victim, &saved) || !saved.whole) {
        o->skipped = "too large to put back";
        forget_file(&saved);
        return;
    }
    int fd = open(victim, O_WRONLY | O_TRUNC | O_CLOEXEC | O_NOFOLLOW);
    o->err = fd < 0 ? errno : 0;
    if (fd >= 0)
        close(fd);
    /* of an empty file only the leave to write can be seen */
    o->effect = size_of(victim) != saved.st.st_size || (saved.st.st_size == 0 && fd >= 0);
    if (o->effect)
        o->restored = restore_file(victim, &saved);
    forget_file(&saved);
}

/* one byte longer, not shorter: the same call and the same check in the kernel, and nothing to lose */
static void judge_length(const char *victim, const struct saved *saved, int result, struct outcome *o)
{
    o->err = result < 0 ? errno : 0;
    o->effect = size_of(victim) != saved->st.st_size;
    if (o->effect) {
        o->restored = truncate(victim, saved->st.st_size) == 0;
        restore_attributes(victim, saved);
    }
}

void attack_truncate(const struct target *t, const char *victim, struct outcome *o)
{
    struct saved saved;
    (void)t;
    save_file(victim, &saved);
    judge_length(victim, &saved, truncate(victim, saved.st.st_size + 1), o);
    forget_file(&saved);
}

enum by_descriptor { BY_FTRUNCATE, BY_FALLOCATE };

/* through a descriptor that is open for reading only, which the kernel must refuse anywhere */
static void attack_descriptor(const char *victim, enum by_descriptor how, struct outcome *o)
{
    struct saved saved;
    save_file(victim, &saved);
    int fd = open(victim, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) {
        o->err = errno;
    } else {
        int result = how == BY_FTRUNCATE ? ftruncate(fd, saved.st.st_size + 1)
                                         : fallocate(fd, 0, 0, saved.st.st_size + 4096);
        judge_length(victim, &saved, result, o);
        close(fd);
    }
    forget_file(&saved);
}

void attack_ftruncate(const struct target *t, const char *victim, struct outcome *o)
{
    (void)t;
    attack_descriptor(victim, BY_FTRUNCATE, o);
}

void attack_fallocate(const struct target *t, const char *victim, struct outcome *o)
{
    (void)t;
    attack_descriptor(victim, BY_FALLOCATE, o);
}
