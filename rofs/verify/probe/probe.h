// SPDX-License-Identifier: MIT
/*
 * The guest probe: a plan of operations becomes one JSON object per line. Facts only, Python judges.
 *
 *   main.c        arguments, the output port, the supervisor
 *   enter.c       in place of an init: it is executed, and the probe is its child
 *   poweroff.c    the end of the machine
 *   runner.c      each operation in a child of its own, with a time limit
 *   plan.c        plan file -> struct plan
 *   json.c        values -> text
 *   names.c       errno, file types, mount flags -> names
 *   ops_*.c       the operations
 *   pid1.c        systemd's manager on its private socket
 *   attack*.c     attempts to change what must not change, each judged by looking again, each undone
 *
 * README.md beside this file is the protocol.
 */
#ifndef ROFS_PROBE_H
#define ROFS_PROBE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

#define WIRE_VERSION 1
#define DEFAULT_TIMEOUT_S 30

/* ---- json.c: a growing text; running out of memory aborts, which the runner reports as a signal ---- */

struct json {
    char *text;
    size_t length;
    size_t capacity;
};

void json_open(struct json *j, char bracket);        /* '{' or '[' */
void json_close(struct json *j, char bracket);       /* '}' or ']' */
void json_key(struct json *j, const char *key);
void json_string(struct json *j, const char *value); /* bytes outside ASCII become \u00XX */
void json_path(struct json *j, const char *value);   /* percent-encoded, as in the plan */
void json_base64(struct json *j, const void *data, size_t length);
void json_number(struct json *j, long long value);
void json_seconds(struct json *j, double seconds);   /* three decimals */
void json_bool(struct json *j, bool value);
void json_errno(struct json *j, int err);            /* null for 0, else a name: "EROFS" */
void json_end_line(struct json *j);
void json_free(struct json *j);

/* key and value at once */
void json_put_string(struct json *j, const char *key, const char *value);
void json_put_number(struct json *j, const char *key, long long value);
void json_put_bool(struct json *j, const char *key, bool value);
void json_put_errno(struct json *j, const char *key, int err);

/* path -> percent-encoded text in `out`, cut at `size` */
void percent_encode(const char *path, char *out, size_t size);

/* ---- names.c ---- */

const char *errno_name(int err);     /* "EROFS"; "E123" (static) for a number it does not know */
const char *type_name(mode_t mode);  /* "file", "dir", "link", "fifo", "socket", "char", "block" */

/* ---- plan.c ---- */

struct op {
    long id;            /* line number in the plan, from 1 */
    unsigned timeout_s; /* 0: the operation's own */
    char *name;
    int argc;
    char **argv;        /* decoded, may hold any byte but NUL */
    const char *error;  /* what is wrong with the line, or NULL */
};

struct plan {
    struct op *ops;
    size_t count;
    char *text;
};

int plan_open(const char *path);                            /* a descriptor above 2, or a negative errno */
int plan_read(int fd, struct plan *plan);                   /* 0 or an errno; `fd` is closed */
bool parse_number(const char *text, uint64_t *value);       /* decimal digits only */

/* ---- runner.c ---- */

enum ending { ENDED_PLAIN = 0, ENDED_CLEAN_POWEROFF = 10, ENDED_CUT = 11 };

struct run_options {
    int output;            /* descriptor of the port */
    bool may_power_off;    /* --poweroff-on-exit */
};

enum ending run_plan(const struct plan *plan, const struct run_options *options);
void emit(int output, struct json *line);                   /* writes all, then empties `line` */
void emit_event(int output, const char *event, const char *key, long long number);
double now_s(void);                                         /* monotonic */

/* ---- enter.c ---- */

/*
 * Executes `init`. True in the child, as soon as the init runs; false when it cannot, or may not.
 * The parent does not return.
 */
bool enter_init(const char *init, char *const argv[]);
void on_ending_signals(void (*what)(int));                  /* SIG_IGN or SIG_DFL */

/* ---- poweroff.c ---- */

void power_off(enum ending ending, int output);             /* returns when the kernel refuses */

/* ---- ops_*.c: each adds its fields to an open object ---- */

void op_read(const struct op *op, struct json *j);
void op_list(const struct op *op, struct json *j);
void op_lstat(const struct op *op, struct json *j);
void op_statvfs(const struct op *op, struct json *j);
void op_exists(const struct op *op, struct json *j);
void op_canary(const struct op *op, struct json *j);
void op_write(const struct op *op, struct json *j);
void op_fillinodes(const struct op *op, struct json *j);
void op_blkwrite(const struct op *op, struct json *j);
void op_sync(const struct op *op, struct json *j);
void op_exec(const struct op *op, struct json *j);
void op_run(const struct op *op, struct json *j);
void op_attack(const struct op *op, struct json *j);
void op_compare(const struct op *op, struct json *j);
void op_settle(const struct op *op, struct json *j);
void op_files(const struct op *op, struct json *j);
void op_sift(const struct op *op, struct json *j);
void op_klog(const struct op *op, struct json *j);
void op_listeners(const struct op *op, struct json *j);
void op_marked(const struct op *op, struct json *j);
void op_brim(const struct op *op, struct json *j);
void op_running(const struct op *op, struct json *j);
void op_units(const struct op *op, struct json *j);
void op_timers(const struct op *op, struct json *j);

int write_all(int fd, const void *data, size_t length);     /* 0 or an errno */
/* until the end or `wanted` bytes, since files of /proc have no size; 0 or an errno */
int read_up_to(int fd, char *data, size_t wanted, size_t *have);
int clean_environment(void);                                /* 0 or an errno */
bool time_of(const struct op *op, uint64_t *timeout_s, struct json *j); /* the first argument; false: said so */
bool has_word(const char *line, char *const words[], int count);        /* in any case of letters */

#endif
