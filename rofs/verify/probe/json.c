// SPDX-License-Identifier: MIT
/* Values -> JSON text in ASCII. A comma is due whenever the last byte closes a value. */
#include "probe.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void add(struct json *j, const char *bytes, size_t length)
{
    if (j->length + length + 1 > j->capacity) {
        size_t wanted = (j->length + length + 1) * 2;
        char *grown = realloc(j->text, wanted);
        if (!grown)
            abort();
        j->text = grown;
        j->capacity = wanted;
    }
    memcpy(j->text + j->length, bytes, length);
    j->length += length;
    j->text[j->length] = '\0';
}

static void add_char(struct json *j, char c)
{
    add(j, &c, 1);
}

static void separate(struct json *j)
{
    if (j->length && !strchr("{[:\n", j->text[j->length - 1]))
        add_char(j, ',');
}

void json_open(struct json *j, char bracket)
{
    separate(j);
    add_char(j, bracket);
}

void json_close(struct json *j, char bracket)
{
    add_char(j, bracket);
}

void json_string(struct json *j, const char *value)
{
    separate(j);
    add_char(j, '"');
    for (const unsigned char *c = (const unsigned char *)value; *c; c++) {
        char escaped[8];
        if (*c == '"' || *c == '\\')
            snprintf(escaped, sizeof escaped, "\\%c", *c);
        else if (*c < 0x20 || *c > 0x7e)
            snprintf(escaped, sizeof escaped, "\\u%04x", *c);
        else
            snprintf(escaped, sizeof escaped, "%c", *c);
        add(j, escaped, strlen(escaped));
    }
    add_char(j, '"');
}

void json_key(struct json *j, const char *key)
{
    json_string(j, key);
    add_char(j, ':');
}

void percent_encode(const char *path, char *out, size_t size)
{
    size_t used = 0;
    for (const unsigned char *c = (const unsigned char *)path; *c && used + 4 <= size; c++) {
        if (*c < 0x21 || *c > 0x7e || *c == '%')
            used += (size_t)snprintf(out + used, size - used, "%%%02X", *c);
        else
            out[used++] = (char)*c;
    }
    if (size)
        out[used] = '\0';
}

void json_path(struct json *j, const char *value)
{
    size_t size = strlen(value) * 3 + 4;
    char *encoded = malloc(size);
    if (!encoded)
        abort();
    percent_encode(value, encoded, size);
    json_string(j, encoded);
    free(encoded);
}

void json_base64(struct json *j, const void *data, size_t length)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const unsigned char *bytes = data;
    separate(j);
    add_char(j, '"');
    for (size_t i = 0; i < length; i += 3) {
        size_t left = length - i;
        uint32_t group = (uint32_t)bytes[i] << 16;
        if (left > 1)
            group |= (uint32_t)bytes[i + 1] << 8;
        if (left > 2)
            group |= bytes[i + 2];
        char four[4] = {digits[group >> 18], digits[group >> 12 & 63],
                        left > 1 ? digits[group >> 6 & 63] : '=', left > 2 ? digits[group & 63] : '='};
        add(j, four, sizeof four);
    }
    add_char(j, '"');
}

void json_number(struct json *j, long long value)
{
    char text[32];
    separate(j);
    add(j, text, (size_t)snprintf(text, sizeof text, "%lld", value));
}

void json_seconds(struct json *j, double seconds)
{
    char text[64];
    long long ms = (long long)(seconds * 1000);
    separate(j);
    add(j, text, (size_t)snprintf(text, sizeof text, "%lld.%03lld", ms / 1000, ms % 1000));
}

void json_bool(struct json *j, bool value)
{
    separate(j);
    add(j, value ? "true" : "false", value ? 4 : 5);
}

void json_errno(struct json *j, int err)
{
    if (err) {
        json_string(j, errno_name(err));
        return;
    }
    separate(j);
    add(j, "null", 4);
}

void json_end_line(struct json *j)
{
    add_char(j, '\n');
}

void json_free(struct json *j)
{
    free(j->text);
    *j = (struct json){0};
}

void json_put_string(struct json *j, const char *key, const char *value)
{
    json_key(j, key);
    json_string(j, value);
}

void json_put_number(struct json *j, const char *key, long long value)
{
    json_key(j, key);
    json_number(j, value);
}

void json_put_bool(struct json *j, const char *key, bool value)
{
    json_key(j, key);
    json_bool(j, value);
}

void json_put_errno(struct json *j, const char *key, int err)
{
    json_key(j, key);
    json_errno(j, err);
}
