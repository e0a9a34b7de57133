# SPDX-License-Identifier: MIT
"""Tars made of bytes, by the format's own rules and against them, and mutants of them by a seed.

Nothing here goes through `tarfile`: it is what is tested.
"""

from __future__ import annotations

import gzip
import lzma
import random
from collections.abc import Callable

import zstandard
from tarmaker import EPOCH

BLOCK = 512
END = bytes(2 * BLOCK)
USTAR = b"ustar\x0000"
GNU = b"ustar  \0"
V7 = bytes(8)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


def number(value: int, width: int) -> bytes:
    """Octal where it fits, else base 256, as GNU tar has it."""
    if 0 <= value < 8 ** (width - 1):
        return b"%0*o\0" % (width - 1, value)
    return (b"\x80" if value >= 0 else b"\xff") + (value % (1 << 8 * (width - 1))).to_bytes(width - 1, "big")


def sealed(block: bytes) -> bytes:
    """A header with its checksum made right."""
    total = sum(block[:148]) + sum(block[156:512]) + 8 * 32
    return block[:148] + b"%06o\0 " % (total & 0o777777) + block[156:]


def header(
    name: bytes,
    type: bytes = b"0",  # noqa: A002 -- as tarmaker's Row
    *,
    mode: int = 0o644,
    uid: int = 0,
    gid: int = 0,
    size: int = 0,
    mtime: int = EPOCH - 100,
    link: bytes = b"",
    dev: tuple[int, int] = (0, 0),
    magic: bytes = USTAR,
    prefix: bytes = b"",
    tail: bytes = b"",
) -> bytes:
    """One header block; `tail` is what the old GNU format has in place of the prefix."""
    block = name[:100].ljust(100, b"\0") + number(mode, 8) + number(uid, 8) + number(gid, 8)
    block += number(size, 12) + number(mtime, 12) + b" " * 8 + type + link[:100].ljust(100, b"\0") + magic
    block += bytes(64) + number(dev[0], 8) + number(dev[1], 8) + (prefix or tail)
    return sealed(block.ljust(BLOCK, b"\0"))


def record(key: bytes, value: bytes) -> bytes:
    """A PAX record, which counts its own length's digits."""
    length = len(key) + len(value) + 3
    while len(b"%d" % length) + len(key) + len(value) + 3 != length:
        length = len(b"%d" % length) + len(key) + len(value) + 3
    return b"%d %s=%s\n" % (length, key, value)


def pax(*records: tuple[bytes, bytes], type: bytes = b"x") -> bytes:  # noqa: A002
    """A PAX header of these records; type g is for all members to come."""
    body = b"".join(record(key, value) for key, value in records)
    return header(b"PaxHeaders/x", type, size=len(body)) + padded(body)


def long_name(name: bytes, type: bytes = b"L") -> bytes:  # noqa: A002
    """GNU's long name, or with K its long link."""
    return header(b"././@LongLink", type, size=len(name) + 1, magic=GNU) + padded(name + b"\0")


def member(name: bytes, content: bytes = b"", **fields: object) -> bytes:
    """A file."""
    return header(name, size=len(content), **fields) + padded(content)  # type: ignore[arg-type]


def folder(name: bytes, **fields: object) -> bytes:
    return header(name, b"5", **{"mode": 0o755, **fields})  # type: ignore[arg-type]


def symlink(name: bytes, target: bytes, **fields: object) -> bytes:
    return header(name, b"2", link=target, mode=0o777, **fields)  # type: ignore[arg-type]


def hardlink(name: bytes, target: bytes, **fields: object) -> bytes:
    return header(name, b"1", link=target, **fields)  # type: ignore[arg-type]


def tar(*members: bytes) -> bytes:
    return b"".join(members) + END


Pieces = list[tuple[int, bytes]]
"""What a file with holes holds: (offset, data) in order."""


def sparse_gnu(name: bytes, size: int, pieces: Pieces, **fields: object) -> bytes:
    """The old GNU form: four pieces in the header, 21 in each block after it."""
    pairs = [number(at, 12) + number(len(data), 12) for at, data in [*pieces, (size, b"")]]
    first, more = pairs[:4], pairs[4:]
    tail = bytes(41) + b"".join(first).ljust(96, b"\0") + (b"\1" if more else b"\0") + number(size, 12)
    stored = b"".join(data for _, data in pieces)
    block = header(name, b"S", size=len(stored), magic=GNU, tail=tail, **fields)  # type: ignore[arg-type]
    for at in range(0, len(more), 21):
        block += (b"".join(more[at : at + 21]).ljust(504, b"\0") + (b"\1" if at + 21 < len(more) else b"\0")).ljust(
            512, b"\0"
        )
    return block + padded(stored)


def sparse_pax(
    name: bytes, size: int, pieces: Pieces, version: str, *records: tuple[bytes, bytes], **fields: object
) -> bytes:
    """GNU's forms for PAX: 0.0 and 0.1 with the map in records, 1.0 with the map before the data."""
    ends = [*pieces, (size, b"")]
    stored, map_block = b"".join(data for _, data in pieces), b""
    if version == "0.0":
        own = [(b"GNU.sparse.size", b"%d" % size), (b"GNU.sparse.numblocks", b"%d" % len(ends))]
        for at, data in ends:
            own += [(b"GNU.sparse.offset", b"%d" % at), (b"GNU.sparse.numbytes", b"%d" % len(data))]
    elif version == "0.1":
        text = b",".join(b"%d,%d" % (at, len(data)) for at, data in ends)
        own = [(b"GNU.sparse.size", b"%d" % size), (b"GNU.sparse.numblocks", b"%d" % len(ends))]
        own += [(b"GNU.sparse.map", text), (b"GNU.sparse.name", name)]
    else:
        own = [(b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.name", name)]
        own += [(b"GNU.sparse.realsize", b"%d" % size)]
        map_block = padded(b"%d\n" % len(ends) + b"".join(b"%d\n%d\n" % (at, len(data)) for at, data in ends))
    short = name if version == "0.0" else b"GNUSparseFile.0/x"
    body = map_block + stored
    return pax(*own, *records) + header(short, size=len(body), **fields) + padded(body)  # type: ignore[arg-type]


CAPS = bytes.fromhex("0100000200200000000000000000000000000000")
PIECES: Pieces = [(4096, b"a" * 512), (10_240, b"b" * 1024), (51_200, b"c" * 1500)]
MANY: Pieces = [(n * 8192, bytes([65 + n]) * 512) for n in range(30)]


def seeds() -> dict[str, bytes]:
    """Good small tars of every form."""
    base = [folder(b"./", mode=0o711), folder(b"./etc", gid=3), member(b"./etc/a", b"abc" * 200, mode=0o4755, uid=1)]
    base += [symlink(b"./etc/l", b"../etc/a"), hardlink(b"./h", b"./etc/a"), header(b"./null", b"3", dev=(1, 3))]
    base += [header(b"./fifo", b"6"), header(b"./sda", b"4", dev=(8, 0)), symlink(b"./bin", b"/usr/bin")]
    long = b"./" + b"deep/" * 30 + b"name"
    return {
        "ustar": tar(*base, header(b"name", prefix=b"./" + b"p" * 120)),
        "gnu": tar(
            folder(b"./", magic=GNU),
            long_name(long) + member(long, b"x" * 700, magic=GNU),
            long_name(long + b"2", b"K") + symlink(b"./to", long, magic=GNU),
            member(b"./caf\xe9", b"y", magic=GNU, uid=4_000_000_000, mtime=2**32 - 1),
            sparse_gnu(b"./hole", 60_000, PIECES),
            sparse_gnu(b"./holes", 300_000, MANY),
        ),
        "pax": tar(
            pax((b"comment", b"a tar"), (b"uid", b"7"), type=b"g"),
            folder(b"./"),
            pax((b"path", long), (b"mtime", b"1700000000.999999999")) + member(long[:100], b"z" * 20),
            pax((b"SCHILY.xattr.security.capability", CAPS), (b"SCHILY.xattr.user.eq", b"a=b\n"))
            + member(b"./ping", b"p", mode=0o755),
            pax((b"LIBARCHIVE.xattr.user.a%25b", b"AP8")) + folder(b"./attr"),
            pax((b"hdrcharset", b"BINARY"), (b"path", b"./caf\xe9"), (b"uid", b"4294967294")) + member(b"x", b"n"),
        ),
        "sparse": tar(*[sparse_pax(b"./" + v.encode(), 60_000, PIECES, v) for v in ("0.0", "0.1", "1.0")]),
        "v7": tar(folder(b"etc/", magic=V7), member(b"etc/a", b"1", magic=V7), hardlink(b"b", b"etc/a", magic=V7)),
    }


COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "xz": lzma.compress,
    "zstd": lambda data: zstandard.ZstdCompressor(write_checksum=True).compress(data),
}


def _block_of(data: bytearray, rng: random.Random) -> int:
    """Where a header stands, or may."""
    headers = [at for at in range(0, len(data) - BLOCK + 1, BLOCK) if data[at + 257 : at + 262] == b"ustar"]
    return rng.choice(headers or [0])


def _flip(data: bytearray, rng: random.Random) -> None:
    at = _block_of(data, rng) + rng.randrange(BLOCK)
    data[min(at, len(data) - 1)] ^= 1 << rng.randrange(8)


def _flip_sealed(data: bytearray, rng: random.Random) -> None:
    at = _block_of(data, rng)
    for _ in range(rng.randint(1, 3)):
        data[at + rng.choice([rng.randrange(345), rng.randrange(BLOCK)])] ^= 1 << rng.randrange(8)
    data[at : at + BLOCK] = sealed(bytes(data[at : at + BLOCK]))


def _flip_anywhere(data: bytearray, rng: random.Random) -> None:
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def _append(data: bytearray, rng: random.Random) -> None:
    data += rng.randbytes(rng.randint(1, 50))


def _cut_blocks(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(0, len(data), BLOCK)
    del data[at : at + BLOCK * rng.randint(1, 4)]


def _splice(data: bytearray, rng: random.Random) -> None:
    other = rng.choice(list(seeds().values()))
    data[rng.randrange(0, len(data), BLOCK) :] = other[rng.randrange(0, len(other), BLOCK) :]


def _swap(data: bytearray, rng: random.Random) -> None:
    one, other = (rng.randrange(0, len(data) // BLOCK) * BLOCK for _ in "ab")
    data[one : one + BLOCK], data[other : other + BLOCK] = data[other : other + BLOCK], data[one : one + BLOCK]


def _repeat(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(0, len(data), BLOCK)
    data[at:at] = data[at : at + BLOCK * rng.randint(1, 3)]


def _set_number(data: bytearray, rng: random.Random) -> None:
    at = _block_of(data, rng)
    start, end = rng.choice([(100, 108), (108, 116), (116, 124), (124, 136), (124, 136), (136, 148), (329, 337)])
    width = end - start
    value = rng.choice([
        number(rng.choice([-1, -512, -(2**40), 2**31, 2**32, 2**40, 1, 511, 513, 2**55]), width),
        b"-%0*o\0" % (width - 2, rng.randrange(600)),
        b" " * width,
        b"0x1_".ljust(width, b"7"),
        bytes(width),
        rng.randbytes(width),
    ])  # fmt: skip
    data[at + start : at + end] = value[:width].ljust(width, b"\0")
    data[at : at + BLOCK] = sealed(bytes(data[at : at + BLOCK]))


def _change(data: bytearray, rng: random.Random) -> None:
    """Something else that a tar may say."""
    at = _block_of(data, rng)
    start, value = rng.choice([
        (100, number(rng.randrange(0o10000), 8)), (108, number(rng.randrange(2**32 - 1), 8)),
        (116, number(rng.randrange(2**21), 8)), (136, number(rng.randrange(2**32), 12)), (60, rng.randbytes(1)),
    ])  # fmt: skip
    data[at + start : at + start + len(value)] = value
    data[at : at + BLOCK] = sealed(bytes(data[at : at + BLOCK]))


def _set_type(data: bytearray, rng: random.Random) -> None:
    at = _block_of(data, rng)
    data[at + 156] = rng.choice(b"0123456789gxXKLSDMNVA\0")
    data[at : at + BLOCK] = sealed(bytes(data[at : at + BLOCK]))


def _set_name(data: bytearray, rng: random.Random) -> None:
    at = _block_of(data, rng)
    names = [
        b"../x",
        b"/etc/x",
        b".",
        b"",
        b"./etc/../y",
        b"a//b",
        b"\xff\xfe",
        b"new\nline",
        b"./etc",
        b"./h",
        b"etc/a/",
    ]
    start, width = rng.choice([(0, 100), (157, 100), (345, 155)])
    data[at + start : at + start + width] = rng.choice(names).ljust(width, b"\0")
    data[at : at + BLOCK] = sealed(bytes(data[at : at + BLOCK]))


PAX_VALUES = (
    b"-1", b"", b"x", b"1e9", b"nan", b"inf", b"1_0", b" 5", b"9" * 30, b"4294967295", b"../x", b"/x", b"a\0b", b"\xff",
    b"18446744073709551616", b"-0.5", b"1.5", b"./etc", b"0,0,0", b"5,-5", b"1,2,3,4", b"999999999999,1", b"0",
)  # fmt: skip
PAX_KEYS = (
    b"size", b"path", b"linkpath", b"uid", b"gid", b"mtime", b"GNU.sparse.map", b"GNU.sparse.size", b"GNU.sparse.major",
    b"GNU.sparse.realsize", b"GNU.sparse.name", b"GNU.sparse.offset", b"GNU.sparse.numbytes", b"hdrcharset", b"",
    b"SCHILY.xattr.user.x", b"SCHILY.xattr.", b"LIBARCHIVE.xattr.user.%ff", b"LIBARCHIVE.xattr.user.y",
    b"SCHILY.acl.access", b"SCHILY.xattr.system.x", b"SCHILY.xattr.user.\xff", b"uname", b"comment",
)  # fmt: skip


def _add_pax(data: bytearray, rng: random.Random) -> None:
    at = _block_of(data, rng)
    records = [(rng.choice(PAX_KEYS), rng.choice(PAX_VALUES)) for _ in range(rng.randint(1, 3))]
    data[at:at] = pax(*records, type=rng.choice([b"x", b"x", b"x", b"g", b"X"]))


def _damage_pax(data: bytearray, rng: random.Random) -> None:
    spots = [at for at in range(0, len(data) - 2 * BLOCK, BLOCK) if chr(data[at + 156]) in "xg"]
    if not spots:
        _add_pax(data, rng)
        return
    at = rng.choice(spots) + BLOCK + rng.randrange(60)
    data[at : at + 1] = rng.choice([b"9", b"0", b" ", b"=", b"\n", b"\0", b"\xff", b"-"])


MUTATIONS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    _change, _change, _change, _change, _flip, _flip_sealed,
    _flip_sealed, _flip_anywhere, _cut, _cut_blocks, _splice, _swap, _repeat, _set_number,
    _set_number, _set_type, _set_name, _add_pax, _add_pax, _damage_pax,
)  # fmt: skip


def mutant(seed: int) -> bytes:
    """A damaged tar, one of four compressed and a few of those damaged after that; the same for the same seed."""
    rng = random.Random(seed)
    data = bytearray(rng.choice(list(seeds().values())))
    compress = rng.choice([*COMPRESSORS.values(), *[COMPRESSORS["plain"]] * 9])
    damage_stream = compress is not COMPRESSORS["plain"] and rng.random() < 0.7
    if not damage_stream:
        for _ in range(rng.choice([1, 1, 1, 2, 3])):
            data += bytes(-len(data) % BLOCK) or (b"" if data else bytes(BLOCK))
            rng.choice(MUTATIONS)(data, rng)
        return compress(bytes(data))
    stream = bytearray(compress(bytes(data)))
    rng.choice([_flip_anywhere, _cut, _append])(stream, rng)
    return bytes(stream)
