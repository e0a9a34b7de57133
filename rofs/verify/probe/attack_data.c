// SPDX-License-Identifier: MIT
/* Attacks on what a regular file holds: its first byte, its length, all of it, by every call that can change it. */
#include "attack.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <unistd.h>

static off_t size_of(const char *path)
{
    struct stat st;
    return lstat(path, &st) < 0 ? -1 : st.st_size;
}

int first_byte(const char *path)
{
    unsigned char byte;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    ssize_t got = read(fd, &byte, 1);
    close(fd);
    return got == 1 ? byte : -1;
}

unsigned char other_byte(int before)
{
    return (unsigned char)(before < 0 ? 'x' : before ^ 1);
}

void judge_first_byte(int fd, const char *victim, int before, const struct saved *saved, struct outcome *o)
{
    unsigned char old = (unsigned char)before;
    o->effect = first_byte(victim) != before;
    if (o->effect) {
        bool undone = before < 0 ? ftruncate(fd, 0) == 0 : pwrite(fd, &old, 1, 0) == 1;
        o->restored = undone && first_byte(victim) == before;
        restore_by_descriptor(fd, saved);
    }
}

void write_first_byte(int fd, const char *victim, const struct saved *saved, struct outcome *o)
{
    int before = first_byte(victim);
    unsigned char other = other_byte(before);
    o->err = pwrite(fd, &other, 1, 0) < 0 ? errno : 0;
    judge_first_byte(fd, victim, before, saved, o);
}

void attack_open_write(const struct target *t, const char *victim, struct outcome *o)
{
    struct saved saved;
    (void)t;
    save_attributes(victim, &saved);
    int fd = open(victim, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) {
        o->err = errno;
        return;
    }
    write_first_byte(fd, victim, &saved, o);
    close(fd);
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

/* longer, never shorter: the same call and the same check in the kernel, and nothing to lose */
static void judge_length(const char *victim, const struct saved *saved, ssize_t result, struct outcome *o)
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
    save_attributes(victim, &saved);
    judge_length(victim, &saved, truncate(victim, saved.st.st_size + 1), o);
}

/* makes the file longer than `end`, or fails */
typedef ssize_t lengthen_fn(int fd, off_t end);

static void lengthen(const char *victim, int flags, lengthen_fn *way, struct outcome *o)
{
    struct saved saved;
    save_attributes(victim, &saved);
    int fd = open(victim, flags | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) {
        o->err = errno;
        return;
    }
    judge_length(victim, &saved, way(fd, saved.st.st_size), o);
    close(fd);
}

static ssize_t by_write(int fd, off_t end)
{
    (void)end;
    return write(fd, "x", 1);
}

static ssize_t by_ftruncate(int fd, off_t end)
{
    return ftruncate(fd, end + 1);
}

static ssize_t by_fallocate(int fd, off_t end)
{
    return fallocate(fd, 0, 0, end + 4096);
}

static ssize_t by_copy(int fd, off_t end)
{
    off_t from = 0;
    return copy_file_range(fd, &from, fd, &end, 1, 0);
}

static ssize_t by_sendfile(int fd, off_t end)
{
    int source = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    ssize_t sent = lseek(fd, end, SEEK_SET) < 0 ? -1 : sendfile(fd, source, NULL, 1);
    close(source);
    return sent;
}

static ssize_t by_splice(int fd, off_t end)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0)
        return -1;
    ssize_t moved = write(ends[1], "x", 1) < 0 ? -1 : splice(ends[0], NULL, fd, &end, 1, 0);
    close(ends[0]);
    close(ends[1]);
    return moved;
}

void attack_open_append(const struct target *t, const char *victim, struct outcome *o)
{
    (void)t;
    lengthen(victim, O_WRONLY | O_APPEND, by_write, o);
}

void attack_fallocate(const struct target *t, const char *victim, struct outcome *o)
{
    (void)t;
    lengthen(victim, O_WRONLY, by_fallocate, o);
}

void attack_copy_range(const struct target *t, const char *victim, struct outcome *o)
{
    (void)t;
    lengthen(victim, O_RDWR, by_copy, o);
}

void attack_sendfile(const struct target *t, const char *victim, struct outcome *o)
{
    (void)t;
    lengthen(victim, O_WRONLY, by_sendfile, o);
}

void attack_splice(const struct target *t, const char *victim, struct outcome *o)
{
    (void)t;
    lengthen(victim, O_WRONLY, by_splice, o);
}

/* through a descriptor that is open for reading only, which the kernel must refuse anywhere */
void attack_ftruncate_ro(const struct target *t, const char *victim, struct outcome *o)
{
    (void)t;
    lengthen(victim, O_RDONLY, by_ftruncate, o);
}

void attack_fallocate_ro(const struct target *t, const char *victim, struct outcome *o)
{
    (void)t;
    lengthen(victim, O_RDONLY, by_fallocate, o);
}

/* a shared mapping that may be written to: of an empty file only the leave can be seen */
static void write_mapped(const char *victim, int flags, struct outcome *o)
{
    struct saved saved;
    save_attributes(victim, &saved);
    int before = first_byte(victim), access = flags == O_RDWR ? PROT_READ | PROT_WRITE : PROT_READ;
    int fd = open(victim, flags | O_CLOEXEC | O_NOFOLLOW);
    unsigned char *map = fd < 0 ? MAP_FAILED : mmap(NULL, 1, access, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED || mprotect(map, 1, PROT_READ | PROT_WRITE) < 0) {
        o->err = errno;
    } else if (before < 0) {
        o->effect = o->restored = true;
    } else {
        *map ^= 1;
        o->effect = first_byte(victim) != before;
        *map ^= 1;
        o->restored = msync(map, 1, MS_SYNC) == 0 && first_byte(victim) == before;
        restore_by_descriptor(fd, &saved);
    }
    if (map != MAP_FAILED)
        munmap(map, 1);
    if (fd >= 0)
        close(fd);
}

void attack_mmap(const struct target *t, const char *victim, struct outcome *o)
{
    (void)t;
    write_mapped(victim, O_RDWR, o);
}

void attack_mprotect(const struct target *t, const char *victim, struct outcome *o)
{
    (void)t;
    write_mapped(victim, O_RDONLY, o);
}
