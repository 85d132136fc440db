"""What travels with the package beside its code: the small model, a few pictures and clips, the lessons.

In a clone these are folders of the repository. An installation carries them inside the package, laid out in the same
way: setup.py puts them there.

    minqwen.example("three_shapes.png")                 # the path of a picture to show to the model
    unpack("minqwen-lessons")                           # as `minqwen lab` does, where there is no clone
"""

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile

from safetensors import SafetensorError

from . import __version__
from .errors import QwenError, read_json, short

__all__ = [
    "INSTALLED", "SHIPPED", "check_file", "check_place", "example", "unpack", "write_csv", "write_whole", "writing",
]

PACKAGE = Path(__file__).resolve().parent
INSTALLED = (PACKAGE / "shipped").is_dir()              # else this is a clone
SHIPPED = PACKAGE / "shipped" if INSTALLED else PACKAGE.parent          # holds data/nano, data/media, notebooks
LESSONS = ("notebooks/[0-9]*.ipynb", "notebooks/solutions/*.py", "docs/glossary.md", "data/media/[!.]*")
RECORD = ".minqwen.json"                                # in a folder of lessons: the digest of each file, as we put it


def example(name: str | None = None) -> Path:
    """The path of a picture or clip that is shipped, such as "three_shapes.png"; without a name, their folder.

    Raises:
        QwenError: there is none of that name; says which there are.
    """
    folder = SHIPPED / "data" / "media"
    if name is None:
        return folder
    there = sorted(path.name for path in folder.glob("[!.]*"))
    if name not in there:
        raise QwenError(f"There is no example {name!r}; there are {', '.join(there)}.")
    return folder / name


def unpack(folder: str | Path) -> list[str]:
    """Copy the lessons, their solutions and their pictures into a folder, and leave alone what is the reader's.

    What nobody changed since it was put there is renewed. What was changed stays; and if this version's file is not
    the one it was made from, that is put beside it, with the version in its name.

    Returns:
        A sentence for each file that was put beside the reader's.
    Raises:
        QwenError: the folder cannot be written, or its record is broken.
    """
    folder, said = Path(folder), []
    if folder.resolve() == SHIPPED:                     # the clone itself
        return said
    try:
        record = read_json(folder / RECORD) if (folder / RECORD).exists() else {}
        for source in sorted(path for pattern in LESSONS for path in SHIPPED.glob(pattern)):
            name, new = source.relative_to(SHIPPED), source.read_bytes()
            digest = _digest(new)
            for place in (name, name.with_stem(f"{name.stem}_{__version__}")):
                target, before = folder / place, record.get(place.as_posix())
                here = _digest(target.read_bytes()) if target.exists() else None
                if here in (None, before, digest):      # not there, as it was put there, or just this
                    if here != digest:
                        write_whole(target, new)
                        if place != name:
                            said.append(f"You have changed {name.as_posix()}, so it stays as it is; "
                                        f"{place.name} beside it is this version's.")
                    record[place.as_posix()] = digest
                    break
                if before == digest:                    # the reader's work on what this version has, too
                    break
        write_whole(folder / RECORD, json.dumps(record, indent=1).encode())
    except OSError as error:
        raise QwenError(f"The lessons cannot be copied to {folder} ({error.strerror}): "
                        "name a folder that you may write to.") from None
    return said


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def check_place(folder: Path, option: str = "--out") -> None:
    """Find out before a long work whether its result can be written to a folder, which may be still to be made.

    Raises:
        QwenError: it cannot. `option` is how the user names another one.
    """
    there = Path(os.path.abspath(folder))
    try:
        while True:
            try:
                there.lstat()
                break
            except FileNotFoundError:
                there = there.parent
        TemporaryFile(dir=there).close()                # permissions alone do not tell of a read-only disk
    except OSError as error:
        raise QwenError(f"Nothing can be written to {short(folder)} ({error.strerror}): name another folder ({option})."
                        ) from None


def check_file(path: Path) -> None:
    """The same of a file, which --out names. Raises QwenError if it cannot be written, or is a folder."""
    if path.is_dir():
        raise QwenError(f"{short(path)} is a folder: name a file (--out), such as {short(path / 'result')}.")
    check_place(path.parent)


@contextmanager
def writing(place: Path, kept: bool = True, faults: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Around the end of a long work, where its result is written: a full disk is told in a sentence.

    Args:
        kept: whether the same command goes on from what was kept of the work.
        faults: what else than an OSError says that a file cannot be written.
    """
    try:
        yield
    except (OSError, SafetensorError, *faults) as error:
        why = getattr(error, "strerror", None) or short(error)
        then = ", which goes on from what was kept" if kept else ""
        raise QwenError(f"The result cannot be written to {short(place)} ({why}): make room, and give the same command "
                        f"again{then}.") from None


def write_whole(path: Path, content: bytes) -> None:
    """A file at one stroke: whoever reads meanwhile, or after a failure, finds the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_bytes(content)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def write_csv(path: Path, rows: list[dict]) -> None:
    """A line for each row, a column for each name; numbers to five digits."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: f"{x:.5g}" if isinstance(x, float) else x for name, x in row.items()} for row in rows)
    write_whole(path, text.getvalue().encode())
