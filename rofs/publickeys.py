# SPDX-License-Identifier: MIT
"""A file of ssh public keys -> its lines, each checked by shape: sshd(8) "AUTHORIZED_KEYS FILE FORMAT".

A key that sshd would pass over in silence locks somebody out of a device in the field.
"""

from __future__ import annotations

import base64
import binascii
import re

from rofs.values import BadValue

KEY_TYPES = frozenset(
    {
        "ssh-ed25519",
        "ssh-rsa",
        "ecdsa-sha2-nistp256",
        "ecdsa-sha2-nistp384",
        "ecdsa-sha2-nistp521",
        "sk-ssh-ed25519@openssh.com",
        "sk-ecdsa-sha2-nistp256@openssh.com",
    }
)
_PRIVATE = re.compile(rb"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----|^PuTTY-User-Key-File", re.MULTILINE)
_OPTIONS = re.compile(r'(?:[^\s"]|"(?:[^"\\]|\\.)*")+')


def parse_public_keys(raw: bytes) -> tuple[str, ...]:
    """The key lines of a file, without blank lines and comments; BadValue says which line is wrong."""
    if _PRIVATE.search(raw):
        raise BadValue("is a private key", "name its public half, NAME.pub, and keep this one secret", "bad-key-file")
    if b"BEGIN SSH2 PUBLIC KEY" in raw:
        raise BadValue("is in SSH2 format", "convert it with `ssh-keygen -i -f FILE`", "bad-key-file")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise BadValue("is not text", "", "bad-key-file") from None
    keys = []
    for number, line in enumerate(text.split("\n"), start=1):
        plain = line.strip()
        if plain and not plain.startswith("#"):
            _check_line(plain, number)
            keys.append(plain)
    if not keys:
        raise BadValue("holds no public key", "", "bad-key-file")
    return tuple(keys)


def _check_line(line: str, number: int) -> None:
    """TYPE BASE64 [COMMENT], perhaps with options before it."""

    def wrong(message: str, hint: str = "") -> BadValue:
        return BadValue(f"line {number}: {message}", hint, "bad-key-file")

    if not line.replace("\t", " ").isprintable():
        raise wrong("holds a control character")
    words = line.split(None, 2)
    if words[0] not in KEY_TYPES and (options := _OPTIONS.match(line)):
        words = line[options.end() :].split(None, 2)
        if not words or words[0] not in KEY_TYPES:
            raise wrong("is not an ssh public key", f"one of {', '.join(sorted(KEY_TYPES))}, then its base64")
    if len(words) < 2:
        raise wrong("the key ends after its type")
    try:
        blob = base64.b64decode(words[1], validate=True)
    except binascii.Error:
        raise wrong("the key is not whole base64", "copy the line again") from None
    fields = _fields(blob)
    if not fields or fields[0] != words[0].encode() or len(fields) < 2:
        raise wrong(f"the key is not of the type {words[0]} that stands before it", "copy the line again")


def _fields(blob: bytes) -> list[bytes]:
    """The strings of a key, RFC 4251 section 5; empty where they do not fill it exactly."""
    fields = []
    while blob:
        size = int.from_bytes(blob[:4], "big")
        if len(blob) < 4 + size:
            return []
        fields.append(blob[4 : 4 + size])
        blob = blob[4 + size :]
    return fields
