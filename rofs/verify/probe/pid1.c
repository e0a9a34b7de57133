// SPDX-License-Identifier: MIT
#include "pid1.h"

#include "probe.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define SOCKET "/run/systemd/private"
#define MOST_BYTES (16u << 20)
#define ANSWER_WITHIN_S 25.0

enum { CALL = 1, RETURN = 2, ERROR = 3 };
enum { PATH = 1, INTERFACE = 2, MEMBER = 3, ERROR_NAME = 4, REPLY_SERIAL = 5, SIGNATURE = 8 };

struct message {
    char *bytes;
    size_t size, capacity;
};

static uint32_t last_serial;

/* ---- writing ---- */

static void put(struct message *m, const void *bytes, size_t size)
{
    if (m->size + size > m->capacity) {
        m->capacity = (m->size + size) * 2;
        m->bytes = realloc(m->bytes, m->capacity);
        if (!m->bytes)
            abort();
    }
    memcpy(m->bytes + m->size, bytes, size);
    m->size += size;
}

static void put_align(struct message *m, size_t to)
{
    while (m->size % to)
        put(m, "", 1);
}

static void put_u32(struct message *m, uint32_t value)
{
    put_align(m, 4);
    put(m, &value, sizeof value);
}

static void put_string(struct message *m, const char *text)
{
    put_u32(m, (uint32_t)strlen(text));
    put(m, text, strlen(text) + 1);
}

static void put_signature(struct message *m, const char *signature)
{
    put(m, &(unsigned char){(unsigned char)strlen(signature)}, 1);
    put(m, signature, strlen(signature) + 1);
}

static void put_field(struct message *m, int code, const char *type, const char *value)
{
    put_align(m, 8);
    put(m, &(unsigned char){(unsigned char)code}, 1);
    put_signature(m, type);
    if (*type == 'g')
        put_signature(m, value);
    else
        put_string(m, value);
}

static void make_call(struct message *m, const char *path, const char *interface, const char *method,
                      const char *const *strings)
{
    struct message body = {0}, fields = {0};
    char signature[16] = "";
    for (; *strings; strings++) {
        put_string(&body, *strings);
        strcat(signature, "s");
    }
    put_field(&fields, PATH, "o", path);
    put_field(&fields, INTERFACE, "s", interface);
    put_field(&fields, MEMBER, "s", method);
    if (*signature)
        put_field(&fields, SIGNATURE, "g", signature);
    uint16_t order = 1;
    char head[4] = {*(char *)&order ? 'l' : 'B', CALL, 0, 1};
    put(m, head, sizeof head);
    put_u32(m, (uint32_t)body.size);
    put_u32(m, ++last_serial);
    put_u32(m, (uint32_t)fields.size);
    put(m, fields.bytes, fields.size);
    put_align(m, 8);
    if (body.size)
        put(m, body.bytes, body.size);
    free(body.bytes);
    free(fields.bytes);
}

/* ---- reading ---- */

static bool reply_align(struct reply *reply, size_t to)
{
    size_t at = (reply->at + to - 1) / to * to;
    if (at > reply->size)
        reply->bad = true;
    else
        reply->at = at;
    return !reply->bad;
}

uint32_t reply_u32(struct reply *reply)
{
    uint32_t value;
    if (!reply_align(reply, 4) || reply->size - reply->at < sizeof value) {
        reply->bad = true;
        return 0;
    }
    memcpy(&value, reply->body + reply->at, sizeof value);
    reply->at += sizeof value;
    return value;
}

static const char *take_text(struct reply *reply, size_t length)
{
    if (reply->bad || length >= reply->size - reply->at || reply->body[reply->at + length]) {
        reply->bad = true;
        return "";
    }
    const char *text = reply->body + reply->at;
    reply->at += length + 1;
    return text;
}

const char *reply_string(struct reply *reply)
{
    uint32_t length = reply_u32(reply);
    return take_text(reply, length);
}

static const char *reply_signature(struct reply *reply)
{
    if (reply->bad || reply->at >= reply->size) {
        reply->bad = true;
        return "";
    }
    size_t length = (unsigned char)reply->body[reply->at++];
    return take_text(reply, length);
}

char reply_variant(struct reply *reply)
{
    return *reply_signature(reply);
}

bool reply_array(struct reply *reply, size_t *end)
{
    uint32_t size = reply_u32(reply);
    if (!reply_align(reply, 8) || size > reply->size - reply->at) {
        reply->bad = true;
        return false;
    }
    *end = reply->at + size;
    return true;
}

bool reply_struct(struct reply *reply, size_t end)
{
    return reply->at < end && reply_align(reply, 8) && reply->at < end;
}

void reply_free(struct reply *reply)
{
    free(reply->body);
    *reply = (struct reply){0};
}

/* ---- the socket ---- */

static int read_exactly(int fd, void *data, size_t wanted, double deadline)
{
    for (size_t have = 0; have < wanted;) {
        double left = deadline - now_s();
        if (left <= 0)
            return ETIMEDOUT;
        if (poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, (int)(left * 1000) + 1) <= 0)
            continue;
        ssize_t got = read(fd, (char *)data + have, wanted - have);
        if (got < 0 && (errno == EINTR || errno == EAGAIN))
            continue;
        if (got <= 0)
            return got ? errno : ECONNRESET;
        have += (size_t)got;
    }
    return 0;
}

/*
 * Says who we are and begins, in one piece, as systemctl does: a call that PID 1 reads together with BEGIN stays in
 * its buffer until something else comes.
 */
static int authenticate(int fd)
{
    char hello[128], line[256] = "", uid[32], hex[80] = "";
    snprintf(uid, sizeof uid, "%lu", (unsigned long)geteuid());
    for (size_t i = 0; uid[i]; i++)
        snprintf(hex + 2 * i, 3, "%02x", (unsigned char)uid[i]);
    int length = snprintf(hello, sizeof hello, "%cAUTH EXTERNAL %.64s\r\nBEGIN\r\n", '\0', hex);
    int err = write_all(fd, hello, (size_t)length);
    double deadline = now_s() + ANSWER_WITHIN_S;
    for (size_t at = 0; !err && at < sizeof line - 1 && !strchr(line, '\n'); at++)
        err = read_exactly(fd, line + at, 1, deadline);
    return !err && strncmp(line, "OK ", 3) ? EACCES : err;
}

int pid1_connect(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const char *root = "";
#ifdef ROFS_PROBE_REHEARSAL
    root = getenv("ROFS_REHEARSAL_ROOT");
    if (!root)
        return -ENOENT;
#endif
    if (snprintf(address.sun_path, sizeof address.sun_path, "%s%s", root, SOCKET) >= (int)sizeof address.sun_path)
        return -ENAMETOOLONG;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    int err = connect(fd, (struct sockaddr *)&address, sizeof address) < 0 ? errno : authenticate(fd);
    if (!err)
        return fd;
    close(fd);
    return -err;
}

void pid1_close(int fd)
{
    if (fd >= 0)
        close(fd);
}

/* one message of any kind; `serial` is what it answers */
static int read_message(int fd, double deadline, struct reply *reply, unsigned char *type, uint32_t *serial)
{
    unsigned char head[16];
    uint32_t body, fields;
    int err = read_exactly(fd, head, sizeof head, deadline);
    if (err)
        return err;
    *type = head[1];
    memcpy(&body, head + 4, 4);
    memcpy(&fields, head + 12, 4);
    if (fields > MOST_BYTES || body > MOST_BYTES)
        return EMSGSIZE;
    /* fields begin at offset 16, which is aligned as they want it */
    struct reply header = {.size = (fields + 7u) / 8 * 8};
    header.body = malloc(header.size + 1);
    reply->body = malloc(body + 1u);
    if (!header.body || !reply->body)
        abort();
    reply->size = body;
    err = read_exactly(fd, header.body, header.size, deadline);
    header.size = fields;
    while (!err && reply_struct(&header, fields)) {
        unsigned char code = (unsigned char)header.body[header.at++];
        char kind = reply_variant(&header);
        if (kind == 'u') {
            uint32_t value = reply_u32(&header);
            if (code == REPLY_SERIAL)
                *serial = value;
        } else if (kind == 'g') {
            (void)reply_signature(&header);
        } else {
            const char *text = reply_string(&header);
            if (code == ERROR_NAME)
                snprintf(reply->error, sizeof reply->error, "%s", text);
        }
        if (header.bad)
            break;
    }
    free(header.body);
    return err ? err : read_exactly(fd, reply->body, body, deadline);
}

int pid1_call(int fd, const char *path, const char *interface, const char *method, const char *const *strings,
              struct reply *reply)
{
    struct message call = {0};
    double deadline = now_s() + ANSWER_WITHIN_S;
    *reply = (struct reply){0};
    make_call(&call, path, interface, method, strings);
    int err = write_all(fd, call.bytes, call.size);
    free(call.bytes);
    while (!err) {
        unsigned char type = 0;
        uint32_t serial = 0;
        err = read_message(fd, deadline, reply, &type, &serial);
        if (!err && serial == last_serial && (type == RETURN || type == ERROR))
            break;
        reply_free(reply); /* a signal: PID 1 sends them to all who are connected */
    }
    if (!err && *reply->error)
        err = ENOMSG;
    return err;
}

int pid1_get(int fd, const char *path, const char *interface, const char *property, struct reply *reply)
{
    return pid1_call(fd, path, "org.freedesktop.DBus.Properties", "Get",
                     (const char *const[]){interface, property, NULL}, reply);
}

/* what may not stand in an object path, and a digit at the beginning, becomes _xx (bus_label_escape) */
void unit_path(const char *name, char *out, size_t size)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    size_t at = (size_t)snprintf(out, size, "%s/unit/", MANAGER_PATH);
    for (const char *c = name; *c && at + 4 < size; c++) {
        bool plain = strchr(letters, *c) || (c > name && *c >= '0' && *c <= '9');
        at += (size_t)snprintf(out + at, size - at, plain ? "%c" : "_%02x", (unsigned char)*c);
    }
}
