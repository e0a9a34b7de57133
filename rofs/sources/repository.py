# SPDX-License-Identifier: MIT
"""Some .deb files -> a directory that apt reads as a repository of exactly these (a flat one, sources.list(5)).

Its index holds what the packages say of themselves, so it is the same whatever mirror they came from.
"""

from __future__ import annotations

import hashlib
import io
import lzma
import tarfile
import zlib
from collections.abc import Iterable
from pathlib import Path

from rofs.errors import SourceError
from rofs.packages import Deb
from rofs.store import link_or_copy

_MAGIC, _HEADER_BYTES = b"!<arch>\n", 60  # ar(5)
_MAX_CONTROL_BYTES = 64 << 20


def write_repository(directory: Path, debs: Iterable[Deb], suite: str) -> None:
    """Fill the empty `directory`: the packages, Packages and Release. SourceError for a file that is no .deb.

    Files are linked where that is possible; the file system may be another one.
    """
    paragraphs = []
    for package, path in debs:
        name = f"{package.sha256}.deb"
        link_or_copy(path, directory / name)
        about = f"Filename: ./{name}\nSize: {package.size}\nSHA256: {package.sha256}\n"
        paragraphs.append(f"{read_control(path)}\n{about}".encode())
    index = b"\n".join(paragraphs)
    (directory / "Packages").write_bytes(index)
    sha256 = hashlib.sha256(index).hexdigest()
    release = f"Suite: {suite}\nCodename: {suite}\nSHA256:\n {sha256} {len(index)} Packages\n"
    (directory / "Release").write_text(release, encoding="utf-8")
    directory.chmod(0o755)  # whatever the umask: apt reads it as another user
    for name in ("Packages", "Release"):
        (directory / name).chmod(0o644)


def read_control(deb: Path) -> str:
    """The control paragraph of a .deb (deb(5)), without the newline at its end."""
    try:
        name, data = _control_archive(deb)
        plain = _plain(name, data)
        with tarfile.open(fileobj=io.BytesIO(plain), mode="r:") as tar:
            for member in tar:
                if member.name.removeprefix("./") == "control" and (file := tar.extractfile(member)):
                    return file.read().decode().rstrip("\n")
        raise ValueError("it has no control file")
    except (ValueError, OSError, tarfile.TarError, lzma.LZMAError, zlib.error) as error:
        raise SourceError(f"{deb}: not a Debian package: {error}") from error


def _control_archive(deb: Path) -> tuple[str, bytes]:
    """Name and content of the control archive, which stands before the data."""
    with deb.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise ValueError("no ar archive")
        while header := file.read(_HEADER_BYTES):
            name, size = header[:16].decode().strip().rstrip("/"), int(header[48:58])
            if not 0 <= size <= _MAX_CONTROL_BYTES:
                break
            data = file.read(size + size % 2)[:size]
            if name.startswith("control.tar"):
                return name, data
    raise ValueError("it has no control archive")


def _plain(name: str, data: bytes) -> bytes:
    """A control archive without its compression; the control files of a package are small."""
    match name.removeprefix("control.tar"):
        case "":
            return data
        case ".gz":
            return zlib.decompress(data, wbits=31)
        case ".xz":
            return lzma.decompress(data)
        case ".zst":
            import zstandard

            return zstandard.ZstdDecompressor().decompressobj().decompress(data)
        case suffix:
            raise ValueError(f"compression {suffix}")
