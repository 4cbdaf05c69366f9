"""Helsinki-NLP/opus-mt-en-fr from packages: ``python -m hunmin.hub.opus`` prints its folder.

Five packages each carry one numbered piece, of equal size, of one zip file of 16. The pieces here hold the model and, in the last one, the
zip's directory; the others are not needed.
"""

from __future__ import annotations

import io
import os
import shutil
import tempfile
import zipfile
from pathlib import Path

from hunmin.hub import pypi
from hunmin.hub.files import remove

PIECES = (9, 10, 11, 12, 16)  # of which 16 is the last
MEMBERS = "aait_store/Models/NLP/helsinki_en_fr/"


class Pieces(io.RawIOBase):
    """A file of which only some pieces are at hand; reading in a gap is an error."""

    def __init__(self, paths: dict[int, Path]) -> None:
        self.size = paths[min(paths)].stat().st_size
        self.files = {number: open(path, "rb") for number, path in paths.items()}  # noqa: SIM115
        self.end = (max(paths) - 1) * self.size + paths[max(paths)].stat().st_size
        self.at = 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = 0) -> int:
        self.at = max(0, offset + (0, self.at, self.end)[whence])
        return self.at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if self.at >= self.end:
            return 0
        number, offset = self.at // self.size + 1, self.at % self.size
        if number not in self.files:
            raise OSError(f"piece {number} is not at hand")
        self.files[number].seek(offset)
        data = self.files[number].read(min(len(buffer), self.size - offset))
        buffer[: len(data)] = data
        self.at += len(data)
        return len(data)

    def close(self) -> None:
        for file in self.files.values():
            file.close()
        super().close()


def opus_mt_en_fr() -> Path:
    """The model's folder in the cache, made when it is not there (375 MB to fetch). Raises SourceError when the packages cannot be reached."""
    folder = pypi.cache_root().parent / "opus-mt-en-fr"
    if folder.is_dir():
        return folder
    packages = {number: f"pypi:aait-store-cut-part-{number:03}==0.0.1" for number in PIECES}
    pieces = {number: next(pypi.package(name).rglob(f"*.zip.{number:03}")) for number, name in packages.items()}
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=folder.parent))
    with Pieces(pieces) as raw, zipfile.ZipFile(io.BufferedReader(raw, 1 << 20)) as archive:
        for member in archive.infolist():
            name = member.filename.removeprefix(MEMBERS)
            if member.filename.startswith(MEMBERS) and name and name != "desktop.ini" and "/" not in name:
                with archive.open(member) as packed, open(work / name, "wb") as file:
                    shutil.copyfileobj(packed, file, 1 << 20)
    os.replace(work, folder)
    for name in packages.values():
        remove(name)
    return folder


if __name__ == "__main__":
    print(opus_mt_en_fr())
