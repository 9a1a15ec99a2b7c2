"""States of a run on the disk: ``last.pt``, from which an interrupted run goes on, and ``best.pt``, which is kept."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from runtimes.errors import UserError

if TYPE_CHECKING:
    import torch

LAST: Final = "last.pt"
BEST: Final = "best.pt"


def load_state(model: Any, state: dict[str, torch.Tensor]) -> None:
    """Put saved tensors into `model`; those that it lacks are a bug."""
    missing, unexpected = model.load_state_dict(state, strict=False)
    if unexpected:
        raise RuntimeError(f"checkpoint holds tensors that the model lacks: {unexpected[:3]}")


def read_state(path: Path, *, lazy: bool = False) -> dict[str, Any]:
    """A state that `save_state` wrote, its tensors on the CPU; with `lazy` they stay in the file until they are used.

    Raises `UserError` naming `path` where it cannot be read.
    """
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=False, mmap=lazy)
        if not isinstance(state, dict):
            raise TypeError("not a mapping")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    except Exception as error:  # a damaged file fails wherever its bytes happen to lead the unpickler
        reason = " ".join(str(error).split())[:80] or type(error).__name__
        raise UserError(
            f"{path}: damaged ({reason}); delete it (the run then begins anew), or put back a copy of it"
        ) from None
    return state


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write through a temporary sibling, so that a kill leaves the old file or the new one.

    Raises `OSError` naming `path` where it cannot be written (a full disk); then the old file is as it was.
    """
    import torch

    temporary = path.with_name(f".tmp-{path.name}")
    try:
        with temporary.open("wb") as file:
            written = _Told(file)
            try:
                torch.save(state, written)
            except RuntimeError:
                if written.fault is not None:  # torch only says that its archive is not as long as expected
                    raise written.fault from None
                raise
        temporary.replace(path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)
        raise


class _Told:
    """A file for `torch.save` that remembers what went wrong."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.fault: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.fault = error
            raise

    def flush(self) -> None:
        self._file.flush()
