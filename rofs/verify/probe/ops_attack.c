// SPDX-License-Identifier: MIT
/* attack PATH [only=NAME] -> the table of attacks, or one of them, each with its outcome, in one event. */
#include "attack.h"

#include <string.h>

enum victim { THE_PATH, A_FRESH_NAME, A_FILE, A_DIR };
enum kind { DIRS = 1, FILES = 2, OTHERS = 4, ALL = DIRS | FILES | OTHERS };

static const struct row {
    const char *name;
    attack_fn *attack;
    enum victim victim;
    unsigned kinds;
    const char *fstype; /* tried on such file systems only, unless asked for by name */
} rows[] = {
    {"create", attack_create, A_FRESH_NAME, DIRS, NULL},
    {"tmpfile", attack_tmpfile, A_FRESH_NAME, DIRS, NULL},
    {"mkdir", attack_mkdir, A_FRESH_NAME, DIRS, NULL},
    {"symlink", attack_symlink, A_FRESH_NAME, DIRS, NULL},
    {"mknod", attack_mknod, A_FRESH_NAME, DIRS, NULL},
    {"link", attack_link, A_FILE, DIRS | FILES, NULL},
    {"rename", attack_rename, A_FILE, DIRS | FILES, NULL},
    {"rename-dir", attack_rename, A_DIR, DIRS, NULL},
    {"rename-over", attack_rename_over, A_FILE, DIRS | FILES, NULL},
    {"unlink", attack_unlink, A_FILE, DIRS | FILES, NULL},
    {"rmdir", attack_rmdir, A_DIR, DIRS, NULL},
    {"open-write", attack_open_write, A_FILE, DIRS | FILES, NULL},
    {"open-trunc", attack_open_trunc, A_FILE, DIRS | FILES, NULL},
    {"open-append", attack_open_append, A_FILE, DIRS | FILES, NULL},
    {"truncate", attack_truncate, A_FILE, DIRS | FILES, NULL},
    {"fallocate", attack_fallocate, A_FILE, DIRS | FILES, NULL},
    {"mmap", attack_mmap, A_FILE, DIRS | FILES, NULL},
    {"copy-range", attack_copy_range, A_FILE, DIRS | FILES, NULL},
    {"sendfile", attack_sendfile, A_FILE, DIRS | FILES, NULL},
    {"splice", attack_splice, A_FILE, DIRS | FILES, NULL},
    {"io-uring", attack_io_uring, A_FILE, DIRS | FILES, NULL},
    {"handle", attack_handle, A_FILE, DIRS | FILES, NULL},
    {"ftruncate-ro", attack_ftruncate_ro, A_FILE, DIRS | FILES, NULL},
    {"fallocate-ro", attack_fallocate_ro, A_FILE, DIRS | FILES, NULL},
    {"mprotect", attack_mprotect, A_FILE, DIRS | FILES, NULL},
    {"access", attack_access, THE_PATH, DIRS | FILES, NULL},
    {"chmod", attack_chmod, THE_PATH, DIRS | FILES, NULL},
    {"chown", attack_chown, THE_PATH, ALL, NULL},
    {"utimes", attack_utimes, THE_PATH, ALL, NULL},
    {"setxattr-user", attack_set_user_xattr, THE_PATH, DIRS | FILES, NULL},
    {"setxattr-trusted", attack_set_trusted_xattr, THE_PATH, ALL, NULL},
    {"removexattr", attack_remove_xattr, THE_PATH, ALL, NULL},
    {"setflags", attack_setflags, THE_PATH, DIRS | FILES, NULL},
    {"chmod-file", attack_chmod, A_FILE, DIRS, NULL},
    {"chown-file", attack_chown, A_FILE, DIRS, NULL},
    {"utimes-file", attack_utimes, A_FILE, DIRS, NULL},
    {"setxattr-file", attack_set_user_xattr, A_FILE, DIRS, NULL},
    {"rename-self", attack_rename, THE_PATH, DIRS | OTHERS, NULL},
    {"rename-parents", attack_rename_parents, THE_PATH, ALL, NULL},
    {"remount", attack_remount, THE_PATH, ALL, NULL},
    {"remount-super", attack_remount_super, THE_PATH, ALL, "squashfs"},
    {"ns-remount", attack_ns_remount, THE_PATH, DIRS | FILES, NULL},
    {"ns-bind", attack_ns_bind, THE_PATH, DIRS | FILES, NULL},
    {"ns-device", attack_ns_device, THE_PATH, DIRS | FILES, NULL},
    {"ns-handle", attack_ns_handle, A_FILE, DIRS | FILES, NULL},
};

static void put_outcome(const struct row *row, const struct outcome *outcome, struct json *j)
{
    json_open(j, '{');
    json_put_string(j, "name", row->name);
    json_put_errno(j, "errno", outcome->err);
    json_put_bool(j, "effect", outcome->effect);
    if (outcome->effect)
        json_put_bool(j, "restored", outcome->restored);
    if (outcome->detail[0])
        json_put_string(j, "detail", outcome->detail);
    if (outcome->skipped)
        json_put_string(j, "skipped", outcome->skipped);
    json_close(j, '}');
}

static const char *victim_of(const struct target *target, enum victim victim, const char **missing)
{
    const char *path = target->path;
    if (victim == A_FRESH_NAME)
        path = target->fresh, *missing = "the name would be too long";
    else if (victim == A_FILE)
        path = target->file, *missing = "no regular file below";
    else if (victim == A_DIR)
        path = target->dir, *missing = "no directory below";
    return path;
}

static void try_row(const struct row *row, const struct target *target, bool by_name, struct json *j)
{
    struct outcome outcome = {0};
    const char *missing = NULL;
    unsigned kind = target->is_dir ? DIRS : S_ISREG(target->mode) ? FILES : OTHERS;
    if (!(row->kinds & kind))
        return;
    const char *victim = victim_of(target, row->victim, &missing);
    if (row->fstype && !by_name && strcmp(row->fstype, target->mount.fstype))
        outcome.skipped = "not the image";
    else if (*victim)
        row->attack(target, victim, &outcome);
    else
        outcome.skipped = missing;
    put_outcome(row, &outcome, j);
}

static void put_path(struct json *j, const char *key, const char *path)
{
    json_key(j, key);
    json_path(j, path);
}

static void put_mount(const struct mount_row *mount, struct json *j)
{
    json_key(j, "mount");
    json_open(j, '{');
    json_put_number(j, "id", mount->id);
    put_path(j, "point", mount->point);
    json_put_string(j, "fstype", mount->fstype);
    json_put_string(j, "options", mount->options);
    json_put_string(j, "super", mount->super);
    json_close(j, '}');
}

static bool is_known(const char *name)
{
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (!strcmp(rows[i].name, name))
            return true;
    return false;
}

static void try_rows(const struct target *target, const char *only, struct json *j)
{
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (!only || !strcmp(rows[i].name, only))
            try_row(&rows[i], target, only != NULL, j);
}

void op_attack(const struct op *op, struct json *j)
{
    static struct target target;
    const char *only = NULL;
    if (op->argc > 1) {
        bool named = !strncmp(op->argv[1], "only=", strlen("only="));
        only = op->argv[1] + strlen("only=");
        if (!named || !is_known(only)) {
            json_put_string(j, "error", named ? "unknown attack" : "unknown option");
            return;
        }
    }
    int err = find_target(op->argv[0], &target);
    json_put_errno(j, "errno", err);
    if (err)
        return;
    json_put_string(j, "type", type_name(target.mode));
    put_path(j, "file", target.file);
    put_path(j, "dir", target.dir);
    put_mount(&target.mount, j);
    json_key(j, "attacks");
    json_open(j, '[');
    try_rows(&target, only, j);
    json_close(j, ']');
}
