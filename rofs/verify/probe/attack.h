// SPDX-License-Identifier: MIT
/*
 * Attacks: what root tries against a path that must not change.
 *
 * Every attack looks before and after; `effect` is what the second look shows, whatever the call said.
 * What took effect is undone, so that the operations that follow find the system as it was.
 */
#ifndef ROFS_ATTACK_H
#define ROFS_ATTACK_H

#include "probe.h"

#include <limits.h>

/* a line of mountinfo */
struct mount_row {
    int id;
    unsigned major, minor;
    char root[PATH_MAX];  /* what of the file system is at the point */
    char point[PATH_MAX];
    char options[256];
    char fstype[64];
    char super[512];
    bool read_only;       /* the mount's own flag */
    bool super_read_only; /* the file system's, as mountinfo has it: squashfs may say rw and be ro */
    unsigned long flags;  /* the mount's MS_ flags without MS_RDONLY */
};

/* what is attacked; an empty string where there is no such thing */
struct target {
    char path[PATH_MAX];
    mode_t mode;
    bool is_dir;
    char where[PATH_MAX]; /* the directory that gets new names: the path or its parent */
    char fresh[PATH_MAX]; /* a name in `where` that does not exist */
    char file[PATH_MAX];  /* the path if it is a regular file, else one below it in the same mount */
    char dir[PATH_MAX];   /* a directory below the path in the same mount, an empty one if there is any */
    struct mount_row mount;
};

struct outcome {
    int err;             /* of the call that matters most */
    bool effect;
    bool restored;       /* means something only with `effect` */
    const char *skipped; /* why nothing was tried */
    char detail[1024];   /* percent-encoded words */
};

/* attacks `victim`, which is the path, a file, a directory or a fresh name, as the table says */
typedef void attack_fn(const struct target *target, const char *victim, struct outcome *outcome);

attack_fn attack_create, attack_tmpfile, attack_mkdir, attack_symlink, attack_mknod, attack_link;    /* new */
attack_fn attack_rename, attack_rename_parents, attack_rename_over, attack_unlink, attack_rmdir;     /* names */
attack_fn attack_open_write, attack_open_trunc, attack_open_append, attack_truncate;                 /* data */
attack_fn attack_fallocate, attack_copy_range, attack_sendfile, attack_splice, attack_mmap;
attack_fn attack_ftruncate_ro, attack_fallocate_ro, attack_mprotect;
attack_fn attack_io_uring;                                                                           /* uring */
attack_fn attack_handle;                                                                             /* handle */
attack_fn attack_chmod, attack_chown, attack_utimes, attack_access, attack_setflags;                 /* meta */
attack_fn attack_set_user_xattr, attack_set_trusted_xattr, attack_remove_xattr;
attack_fn attack_remount, attack_remount_super;                                                      /* mount */
attack_fn attack_ns_remount, attack_ns_bind, attack_ns_device, attack_ns_handle;                     /* namespace */

/* victim.c */
int find_target(const char *path, struct target *target);   /* 0 or the errno of looking at `path` */
int mount_id_of(const char *path);                          /* -1 when unknown */
bool find_mount(int id, struct mount_row *row);
bool exists(const char *path);
void sibling_of(const char *path, const char *suffix, char *out);  /* PATH.rofs-probe-PID<suffix> */

/* a regular file's content and attributes, to put it back */
struct saved {
    struct stat st;
    char *data;
    bool whole;          /* false: too large to keep, so its content must not be lost */
    char capability[64];
    ssize_t capability_length;
};

/* false: no regular file */
bool save_attributes(const char *path, struct saved *saved);
bool save_file(const char *path, struct saved *saved);           /* the content too, to be forgotten */
bool restore_file(const char *path, const struct saved *saved);  /* true when content and attributes are back */
void restore_attributes(const char *path, const struct saved *saved);
void restore_by_descriptor(int fd, const struct saved *saved);   /* one open for reading will do */
void forget_file(struct saved *saved);

/* attack_data.c: the first byte as a fresh reader of `path` sees it, -1 when there is none */
int first_byte(const char *path);
unsigned char other_byte(int before);
/* a look at `victim`, and the old byte again through `fd`, or what was not there cut off */
void judge_first_byte(int fd, const char *victim, int before, const struct saved *saved, struct outcome *o);
/* another first byte through `fd`, judged */
void write_first_byte(int fd, const char *victim, const struct saved *saved, struct outcome *o);

/* attack_handle.c: opens the file itself by its handle, on the mount of `mount_fd`; -1: the outcome says why */
int open_by_handle(const char *victim, int mount_fd, struct outcome *o);

#endif
