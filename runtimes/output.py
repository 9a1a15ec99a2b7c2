"""Artifacts whose output matrix has rows for some token ids alone: reading which (`runtimes.base.Spread` goes on)."""

from __future__ import annotations

import json

import numpy as np

from runtimes.artifact import Artifact
from runtimes.base import Ids
from runtimes.errors import ArtifactError


def read_output_ids(artifact: Artifact) -> Ids | None:
    """The ids that the output matrix has rows for, ascending; None where it has one for each.

    Raises `ArtifactError` for a file that is not a list of such ids.
    """
    path = artifact.output_ids
    if path is None:
        return None
    try:
        found = np.array(json.loads(path.read_text(encoding="utf-8")), dtype=np.int64)
    except (OSError, ValueError, TypeError, OverflowError) as error:
        raise ArtifactError(f"{path}: not a list of token ids ({error}); export again") from None
    if found.ndim != 1 or not len(found) or found[0] < 0 or found[-1] >= artifact.vocab_size:
        raise ArtifactError(f"{path}: not token ids of a vocabulary of {artifact.vocab_size}; export again")
    if (np.diff(found) <= 0).any() or len(found) != artifact.output_rows:
        raise ArtifactError(f"{path}: {len(found)} ids, the manifest says {artifact.output_rows} rising ones")
    return found
