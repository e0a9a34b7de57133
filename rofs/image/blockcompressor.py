# SPDX-License-Identifier: MIT
"""A compressor for libsquashfs that asks the cache of blocks before it compresses: sqfs_compressor_t in Python.

Given to the library by its address. The library copies it for each of its threads and calls `do_block` there, which
must answer the same for the same block, and always. What fails is kept in `failure` and answered by 0, "store it raw":
after an error libsquashfs 1.2 lets its threads go and waits for the blocks that are still queued, for ever. So an image
is whole only where there is no `failure` at its end. The threads that call may not be the main one, whose signal
handlers could raise before the answer is guarded.
"""

from __future__ import annotations

import hashlib
from ctypes import addressof, byref, c_ubyte, c_void_p

from rofs.image.blockcache import Blocks
from rofs.image.libsquashfs import (
    CONFIGURATION,
    COPY,
    DESTROY,
    DO_BLOCK,
    ERROR_INTERNAL,
    LZ4_HC,
    OPTIONS,
    UNCOMPRESS,
    Compressor,
    CompressorConfig,
    Library,
    LibraryError,
    check,
    destroy,
)
from rofs.profile import ImageOptions

MAX_BLOCK_BYTES = 1 << 20
_Window = c_ubyte * MAX_BLOCK_BYTES


def make_config(library: Library, options: ImageOptions) -> CompressorConfig:
    """The library's configuration for what tar2sqfs's command line says."""
    config = CompressorConfig()
    flags = LZ4_HC if options.compression == "lz4" and options.level is not None else 0
    check(library.c.sqfs_compressor_config_init(byref(config), library.codec, options.block_size, flags), "configure")
    if options.level is not None and options.compression != "lz4":
        config.level = options.level
    return config


def shape_of(library: Library, config: CompressorConfig) -> bytes:
    """All that makes the compressed bytes but the block itself."""
    return hashlib.sha256(library.fingerprint + bytes(config)).digest()


def create(library: Library, config: CompressorConfig, *, uncompress: bool = False) -> int:
    """A compressor of the library's own -> its address."""
    wanted = CompressorConfig.from_buffer_copy(config)
    wanted.flags |= UNCOMPRESS if uncompress else 0
    made = c_void_p()
    check(library.c.sqfs_compressor_create(byref(wanted), byref(made)), "make the compressor")
    if not made.value:
        raise LibraryError("libsquashfs: no compressor")
    return made.value


class CachingCompressor:
    """`address` is what the library takes; it holds until `close`, which comes after all that uses it is gone."""

    def __init__(self, library: Library, config: CompressorConfig, blocks: Blocks) -> None:
        self.failure: BaseException | None = None
        self._blocks = blocks
        self._real: dict[int, int] = {}
        self._tables: dict[int, Compressor] = {}
        self._destroy = DESTROY(self._on_destroy)
        self._copy = COPY(self._on_copy)
        self._configuration = CONFIGURATION(lambda _, __: None)
        self._no_options = OPTIONS(lambda _, __: ERROR_INTERNAL)
        self._do_block = DO_BLOCK(self._on_block)
        self.address = self._wrap(create(library, config))

    def write_options(self, file: int) -> int:
        """Write what the image says of its compressor -> how many bytes."""
        real = self._real[self.address]
        return int(Compressor.from_address(real).write_options(real, file))

    def close(self) -> None:
        """Let go of the compressors that are left."""
        for address in list(self._real):
            self._on_destroy(address)

    def _wrap(self, real: int) -> int:
        table = Compressor()
        table.base.destroy, table.base.copy = self._destroy, self._copy
        table.get_configuration = self._configuration
        table.write_options = table.read_options = self._no_options
        table.do_block = self._do_block
        address = addressof(table)
        self._tables[address], self._real[address] = table, real
        return address

    def _on_destroy(self, address: int) -> None:
        destroy(self._real.pop(address, None))
        self._tables.pop(address, None)

    def _on_copy(self, address: int) -> int | None:
        """Copy the library's compressor and wrap the copy; None is "no memory" to the library."""
        try:
            real = self._real[address]
            copied = Compressor.from_address(real).base.copy(real)
            return self._wrap(copied) if copied else None
        except BaseException as error:  # noqa: BLE001 -- raised again by the caller
            self.failure = self.failure or error
            return None

    def _on_block(self, address: int, data: int, size: int, out: int, room: int) -> int:
        """Compress a block -> the size of what is in `out`, 0 to store the block raw."""
        try:
            key = _key(data, size, room)
            value = self._blocks.find(key)
            if value is not None and len(value) <= room:
                _view(out, len(value))[:] = value
                return len(value)
            real = self._real[address]
            done = int(Compressor.from_address(real).do_block(real, data, size, out, room))
            check(done, "compress a block")
            self._blocks.add(key, bytes(_view(out, done)))
            return done
        except BaseException as error:  # noqa: BLE001 -- raised again by the caller
            self.failure = self.failure or error
            return 0


def _view(address: int, size: int) -> memoryview:
    """Memory of the library's. One type for all sizes: ctypes keeps each that is made."""
    return memoryview(_Window.from_address(address)).cast("B")[:size]


def _key(data: int, size: int, room: int) -> bytes:
    """Of a block, and the room for its answer: what does not fit is stored raw."""
    state = hashlib.sha256(room.to_bytes(4, "little"))
    state.update(_view(data, size))
    return state.digest()
