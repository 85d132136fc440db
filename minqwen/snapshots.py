"""Where a run stands, in one file that is whole at any time: whoever was interrupted goes on from it.

    keep(folder, {"seed": 0, "lr": 1e-3}, {"model": model.state_dict(), "step": 10})
    state = kept(folder, {"seed": 0, "lr": 3e-4}, may_change=("lr",))
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from .errors import QwenError, remark, short

__all__ = ["SNAPSHOT", "begun", "damaged", "forget", "keep", "kept", "may_diverge", "put", "read"]

SNAPSHOT = "snapshot.pt"


def keep(folder: Path, run: dict, state: dict) -> None:
    """Write a snapshot at one stroke. If it cannot be written, as on a full disk, the one before stays, and a line
    says so.

    Args:
        run: what the run is, in numbers, texts, lists and dicts: another one does not go on from here.
        state: how far it is: these, and tensors.
    """
    path = folder / SNAPSHOT
    if error := put(path, {"run": run, "state": state}):
        stays = "and the one before stays" if path.exists() else "and nothing is kept of it yet"
        remark(f"{path} cannot be written ({error.strerror}): the run goes on, {stays}.")


def begun(folder: Path) -> dict | None:
    """What run has a snapshot here; None if there is none. Raises QwenError if it is damaged."""
    saved = _read(folder)
    return saved and saved["run"]


def kept(folder: Path, run: dict, may_change: tuple[str, ...] = ()) -> dict | None:
    """The state that this run has kept; None if there is none.

    Raises:
        QwenError: another run is here, in something other than what `may_change`; or the file is damaged.
    """
    if (saved := _read(folder)) is None:
        return None
    if other := [name for name in run if name not in may_change and saved["run"].get(name) != run[name]]:
        raise QwenError(f"{folder} holds a run with another {' and another '.join(other)}: go on with the same, name "
                        f"another folder, or add --restart.")
    return saved["state"]


@contextmanager
def may_diverge(folder: Path, lr: float, where: str) -> Iterator[None]:
    """Around a step: what it says that makes no sense of going on is told with its place, and with what to do."""
    try:
        yield
    except QwenError as error:
        advice = "start again with"
        if (folder / SNAPSHOT).exists():
            advice = "the last good state is kept: the same command goes on from it with"
        raise QwenError(f"{str(error).rstrip('.')}, in {where}; {advice} a lower --lr, such as {lr / 3:.0e}.") from None


def forget(folder: Path) -> None:
    """Remove the snapshot, and what is left of one that was not finished."""
    for name in (SNAPSHOT, f"{SNAPSHOT}.part"):
        (folder / name).unlink(missing_ok=True)


def put(path: Path, content: dict) -> OSError | None:
    """`torch.save` at one stroke -> why it could not be, as on a full disk: then what was there before still is."""
    aside = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(aside, "wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except (OSError, RuntimeError) as error:            # torch, closing what could not be written, raises the second
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        with suppress(OSError):                         # what cannot be written may be what cannot be removed
            aside.unlink(missing_ok=True)
        return cause
    return None


def read(path: Path) -> dict:
    """What was put there. Raises QwenError if it is damaged."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:                          # whatever torch makes of what somebody else has put there
        raise damaged(path, error) from None


def damaged(path: Path, error: Exception) -> QwenError:
    return QwenError(f"{path} is damaged ({short(error) or type(error).__name__}): add --restart.")


def _read(folder: Path) -> dict | None:
    path = folder / SNAPSHOT
    if not path.exists():
        return None
    saved = read(path)
    try:
        return {name: dict(saved[name]) for name in ("run", "state")}
    except Exception as error:                          # it holds something else
        raise damaged(path, error) from None
