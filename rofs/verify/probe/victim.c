// SPDX-License-Identifier: MIT
/* A path -> what can be attacked there: a file and a directory of the same mount, and the mount itself. */
#include "attack.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#define WALK_DEPTH 8
#define WALK_ENTRIES 4000
#define ENOUGH_ENTRIES 500          /* with a file in hand, look no longer than this for an empty directory */
#define HANDY_FILE (256 << 10)

struct walk {
    struct target *target;
    int mount_id;
    int entries;
    bool good_file;                 /* not empty and small: every attack can be tried and undone */
    bool empty_dir;
};

bool exists(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0;
}

void sibling_of(const char *path, const char *suffix, char *out)
{
    snprintf(out, PATH_MAX, "%s.rofs-probe-%d%s", path, (int)getpid(), suffix);
}

/*
 * The mount, not st_dev: an overlay shows its files under other device numbers than its directories,
 * and a bind of the same file system has the same number as the mount around it.
 */
int mount_id_of(const char *path)
{
    char info[64], text[256];
    int id = -1;
    int fd = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return -1;
    snprintf(info, sizeof info, "/proc/self/fdinfo/%d", fd);
    int info_fd = open(info, O_RDONLY | O_CLOEXEC);
    ssize_t length = info_fd < 0 ? -1 : read(info_fd, text, sizeof text - 1);
    if (length > 0) {
        text[length] = '\0';
        const char *line = strstr(text, "mnt_id:");
        if (line)
            id = atoi(line + strlen("mnt_id:"));
    }
    if (info_fd >= 0)
        close(info_fd);
    close(fd);
    return id;
}

static bool has_option(const char *options, const char *name)
{
    size_t length = strlen(name);
    for (const char *at = options; at && *at; at = strchr(at, ',')) {
        at += *at == ',';
        if (!strncmp(at, name, length) && (at[length] == ',' || !at[length]))
            return true;
    }
    return false;
}

static unsigned long flags_of(const char *options)
{
    static const struct {
        const char *name;
        unsigned long flag;
    } rows[] = {
        {"nosuid", MS_NOSUID},   {"nodev", MS_NODEV},           {"noexec", MS_NOEXEC},
        {"noatime", MS_NOATIME}, {"nodiratime", MS_NODIRATIME}, {"relatime", MS_RELATIME},
        {"nosymfollow", MS_NOSYMFOLLOW},
    };
    unsigned long flags = 0;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (has_option(options, rows[i].name))
            flags |= rows[i].flag;
    return flags & (MS_NOATIME | MS_RELATIME) ? flags : flags | MS_STRICTATIME;
}

/* mountinfo writes space, tab, newline and backslash as \ooo */
static void unescape(char *text)
{
    char *out = text;
    for (const char *in = text; *in; in++) {
        unsigned byte;
        if (*in == '\\' && sscanf(in + 1, "%3o", &byte) == 1) {
            *out++ = (char)byte;
            in += 3;
        } else {
            *out++ = *in;
        }
    }
    *out = '\0';
}

/* the fields before " - " are counted, those behind it begin with the type */
static bool parse_mount(char *line, int id, struct mount_row *row)
{
    char *rest = strstr(line, " - ");
    if (!rest || atoi(line) != id)
        return false;
    *rest = '\0';
    if (sscanf(line, "%*d %*d %u:%u %4095s %4095s %255s", &row->major, &row->minor, row->root, row->point,
               row->options) != 5)
        return false;
    if (sscanf(rest + 3, "%63s %*s %511s", row->fstype, row->super) < 1)
        return false;
    unescape(row->root);
    unescape(row->point);
    row->id = id;
    row->flags = flags_of(row->options);
    row->read_only = has_option(row->options, "ro");
    row->super_read_only = has_option(row->super, "ro");
    return true;
}

bool find_mount(int id, struct mount_row *row)
{
    char *line = NULL;
    size_t size = 0;
    bool found = false;
    FILE *table = fopen("/proc/self/mountinfo", "re");
    if (!table)
        return false;
    while (!found && getline(&line, &size, table) > 0)
        found = parse_mount(line, id, row);
    free(line);
    fclose(table);
    return found;
}

static void consider_file(struct walk *walk, const char *path, const struct stat *st)
{
    bool good = st->st_size > 0 && st->st_size <= HANDY_FILE;
    if (walk->good_file || (!good && walk->target->file[0]) || mount_id_of(path) != walk->mount_id)
        return;
    snprintf(walk->target->file, PATH_MAX, "%s", path);
    walk->good_file = good;
}

static void consider_dir(struct walk *walk, const char *path, bool empty)
{
    if (walk->empty_dir || (!empty && walk->target->dir[0]))
        return;
    snprintf(walk->target->dir, PATH_MAX, "%s", path);
    walk->empty_dir = empty;
}

static bool walked_enough(const struct walk *walk)
{
    if (walk->entries >= WALK_ENTRIES || (walk->good_file && walk->empty_dir))
        return true;
    return walk->good_file && walk->target->dir[0] && walk->entries >= ENOUGH_ENTRIES;
}

/* depth first; true when the directory is empty */
static bool look_into(struct walk *walk, const char *dir, int depth)
{
    bool empty = true;
    DIR *stream = opendir(dir);
    if (!stream)
        return false;
    for (struct dirent *entry; !walked_enough(walk) && (entry = readdir(stream));) {
        char path[PATH_MAX];
        struct stat st;
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
            continue;
        empty = false;
        walk->entries++;
        int length = snprintf(path, sizeof path, "%s/%s", strcmp(dir, "/") ? dir : "", entry->d_name);
        if (length >= (int)sizeof path || lstat(path, &st) < 0)
            continue;
        if (S_ISREG(st.st_mode))
            consider_file(walk, path, &st);
        else if (S_ISDIR(st.st_mode) && depth < WALK_DEPTH && mount_id_of(path) == walk->mount_id)
            consider_dir(walk, path, look_into(walk, path, depth + 1));
    }
    closedir(stream);
    return empty;
}

static void set_where(struct target *target)
{
    snprintf(target->where, PATH_MAX, "%s", target->path);
    if (!target->is_dir) {
        char *slash = strrchr(target->where, '/');
        if (!slash)
            snprintf(target->where, PATH_MAX, ".");
        else if (slash == target->where)
            slash[1] = '\0';
        else
            *slash = '\0';
    }
    const char *base = strcmp(target->where, "/") ? target->where : "";
    if (snprintf(target->fresh, PATH_MAX, "%s/.rofs-probe-%d", base, (int)getpid()) >= PATH_MAX)
        target->fresh[0] = '\0';
}

int find_target(const char *path, struct target *target)
{
    struct stat st;
    if (snprintf(target->path, PATH_MAX, "%s", path) >= PATH_MAX)
        return ENAMETOOLONG;
    for (size_t last = strlen(path); last > 1 && target->path[last - 1] == '/'; last--)
        target->path[last - 1] = '\0';
    if (lstat(target->path, &st) < 0)
        return errno;
    target->mode = st.st_mode;
    target->is_dir = S_ISDIR(st.st_mode);
    set_where(target);
    find_mount(mount_id_of(target->path), &target->mount);
    if (S_ISREG(st.st_mode))
        snprintf(target->file, PATH_MAX, "%s", target->path);
    struct walk walk = {.target = target, .mount_id = mount_id_of(target->path)};
    if (target->is_dir)
        look_into(&walk, target->path, 0);
    return 0;
}
