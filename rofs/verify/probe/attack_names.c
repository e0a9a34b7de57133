// SPDX-License-Identifier: MIT
/* Attacks on names: making, linking, renaming and removing them. */
#include "attack.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define RUN_DIR "/run"

/* a fresh name that now exists is the effect; removing it is the undoing */
static void judge_new(const char *path, int result, bool dir, struct outcome *o)
{
    o->err = result < 0 ? errno : 0;
    o->effect = exists(path);
    if (o->effect)
        o->restored = (dir ? rmdir(path) : unlink(path)) == 0;
}

void attack_create(const struct target *t, const char *victim, struct outcome *o)
{
    (void)t;
    int fd = open(victim, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    judge_new(victim, fd, false, o);
    if (fd >= 0)
        close(fd);
}

void attack_mkdir(const struct target *t, const char *victim, struct outcome *o)
{
    (void)t;
    judge_new(victim, mkdir(victim, 0700), true, o);
}

void attack_symlink(const struct target *t, const char *victim, struct outcome *o)
{
    (void)t;
    judge_new(victim, symlink("rofs-probe", victim), false, o);
}

void attack_mknod(const struct target *t, const char *victim, struct outcome *o)
{
    (void)t;
    judge_new(victim, mknod(victim, S_IFIFO | 0600, 0), false, o);
}

void attack_link(const struct target *t, const char *victim, struct outcome *o)
{
    char other[PATH_MAX];
    (void)t;
    sibling_of(victim, ".link", other);
    judge_new(other, link(victim, other), false, o);
}

/* a file without a name: seen again through its descriptor */
void attack_tmpfile(const struct target *t, const char *victim, struct outcome *o)
{
    char back = 0;
    (void)victim;
    int fd = open(t->where, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    o->err = fd < 0 ? errno : 0;
    if (fd < 0)
        return;
    o->effect = pwrite(fd, "x", 1, 0) == 1 && pread(fd, &back, 1, 0) == 1 && back == 'x';
    o->restored = close(fd) == 0;
}

void attack_rename(const struct target *t, const char *victim, struct outcome *o)
{
    char other[PATH_MAX];
    (void)t;
    sibling_of(victim, "", other);
    o->err = rename(victim, other) < 0 ? errno : 0;
    o->effect = exists(other);
    if (o->effect)
        o->restored = rename(other, victim) == 0 && exists(victim);
}

static void note(struct outcome *o, const char *path, int err)
{
    size_t used = strlen(o->detail);
    char encoded[512];
    percent_encode(path, encoded, sizeof encoded);
    snprintf(o->detail + used, sizeof o->detail - used, "%s%s: %s", used ? ", " : "", encoded,
             err ? errno_name(err) : "renamed");
}

/*
 * A read-only bind is no use when the directory above can be moved away and made anew, so each
 * directory between the path and the root is renamed, and back.
 */
void attack_rename_parents(const struct target *t, const char *victim, struct outcome *o)
{
    char parent[PATH_MAX];
    (void)t;
    snprintf(parent, sizeof parent, "%s", victim);
    o->restored = true;
    for (char *slash; (slash = strrchr(parent, '/')) && slash != parent;) {
        struct outcome one = {0};
        *slash = '\0';
        attack_rename(t, parent, &one);
        note(o, parent, one.effect ? 0 : one.err);
        if (!o->err)
            o->err = one.err;
        o->effect |= one.effect;
        o->restored &= !one.effect || one.restored;
    }
    if (!o->detail[0])
        o->skipped = "no parent but the root";
}

/* what is needed to bring a name back: a second link where one can be had, else the content */
struct spare {
    char link[PATH_MAX];
    bool linked;
    struct saved saved;
};

/*
 * False when the file could be lost: no second link can be had, for another reason than that this is
 * read-only, and it is too large to keep.
 */
static bool keep_spare(const char *victim, struct spare *spare)
{
    save_file(victim, &spare->saved);
    sibling_of(victim, ".spare", spare->link);
    spare->linked = link(victim, spare->link) == 0;
    return spare->linked || errno == EROFS || spare->saved.whole;
}

static bool bring_back(const char *victim, struct spare *spare)
{
    if (spare->linked)
        return rename(spare->link, victim) == 0 && exists(victim);
    return restore_file(victim, &spare->saved);
}

static void drop_spare(struct spare *spare)
{
    if (spare->linked)
        unlink(spare->link);
    forget_file(&spare->saved);
}

static bool same_file(const char *path, const struct stat *before)
{
    struct stat now;
    return lstat(path, &now) == 0 && now.st_ino == before->st_ino && now.st_dev == before->st_dev;
}

static void attack_name(const char *victim, const char *over, struct outcome *o)
{
    struct spare spare = {0};
    if (!keep_spare(victim, &spare)) {
        o->skipped = "no way to bring the file back";
        forget_file(&spare.saved);
        return;
    }
    o->err = (over ? rename(over, victim) : unlink(victim)) < 0 ? errno : 0;
    o->effect = !same_file(victim, &spare.saved.st);
    if (o->effect)
        o->restored = bring_back(victim, &spare);
    drop_spare(&spare);
}

void attack_unlink(const struct target *t, const char *victim, struct outcome *o)
{
    (void)t;
    attack_name(victim, NULL, o);
}

void attack_rename_over(const struct target *t, const char *victim, struct outcome *o)
{
    char source[64];
    (void)t;
    snprintf(source, sizeof source, RUN_DIR "/.rofs-probe-%d.source", (int)getpid());
    int fd = open(source, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0) {
        o->err = errno;
        o->skipped = "nothing can be made in " RUN_DIR;
        return;
    }
    close(fd);
    attack_name(victim, source, o);
    unlink(source);
}

void attack_rmdir(const struct target *t, const char *victim, struct outcome *o)
{
    struct stat st;
    (void)t;
    if (lstat(victim, &st) < 0) {
        o->err = errno;
        return;
    }
    o->err = rmdir(victim) < 0 ? errno : 0;
    o->effect = !same_file(victim, &st);
    if (o->effect) {
        struct timespec times[2] = {st.st_atim, st.st_mtim};
        o->restored = mkdir(victim, 0700) == 0 && lchown(victim, st.st_uid, st.st_gid) == 0 &&
                      chmod(victim, st.st_mode & 07777) == 0;
        (void)!utimensat(AT_FDCWD, victim, times, AT_SYMLINK_NOFOLLOW);
    }
}
