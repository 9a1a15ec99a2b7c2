"""Break a Core ML package at random, and see whether ``edgecall verify`` notices::

    python -m tests.stress.coreml_mutations out/coreml-fp32 --n 200 --cases configs/cases/kiwi/handwritten_dev.jsonl \\
        --out mutations.jsonl

What a mutation is, `tests.stress.mutate` says. The manifest is made right again, so that only the proof can notice.
What a mutation does is measured apart from the proof, before and after, in the reference interpreter: the logits of
every token of requests from `--cases`, and of random tokens up to the package's capacity; of a package of fixed shapes
also those of each of its functions. Mutation i depends on the seed and i alone; what stands in `--out` already is not
done again.

Exit code 0 if at least `--share` (0.95) of the mutations that move a logit by more than the export's tolerance are
noticed. Survivors are listed with what they moved. Mutations that leave a program that cannot be run are counted apart.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from export.proof import verify
from export.proof_file import read_header
from router.cases import Case, load_cases
from router.tokenizer import RouterTokenizer
from router.toolset_load import load_json
from router.wire import wire_format
from runtimes.artifact import Artifact, open_artifact, sha256_file, write_manifest
from runtimes.base import Logits
from runtimes.coreml_package import Fixed
from runtimes.coreml_reference import ReferenceSession, open_model
from runtimes.errors import UserError
from tests.stress.mutate import KINDS, Package

PASS = 128
"""Tokens that are appended at once where logits are measured; all of their rows are kept."""


@dataclass(frozen=True)
class Outcome:
    """One mutation: what was done, how far it moved a logit, and whether `verify` failed and by which check."""

    number: int
    kind: str
    what: str
    moved: float | None
    """Largest difference of a logit; None where the mutated program cannot be run."""
    noticed: bool
    by: str


class Study:
    """The artifact, what its logits are, and where mutated copies of it are made."""

    def __init__(self, artifact: Artifact, cases: Sequence[Case], folder: Path, seed: int) -> None:
        self.artifact, self.folder, self.seed = artifact, folder, seed
        self.tolerance = read_header(artifact).tolerance
        self.sequences = [*_prompts(artifact, cases)]
        model = open_model(artifact, threads=1)
        vocab, room = model.vocab_size, model.context_length
        self.sequences.append(random.Random(seed).choices(range(vocab), k=room))
        model.close()
        self.before = self._logits(artifact)

    def outcome(self, index: int) -> Outcome:
        """Mutation `index`: made, measured and put to `verify`."""
        chance = random.Random(f"{self.seed} {index}")
        kind = list(KINDS)[index % len(KINDS)]
        copy = self.folder / self.artifact.folder.name
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.artifact.folder, copy)
        mutated = Artifact(copy, self.artifact.manifest)
        package = Package(mutated.weights)
        what = KINDS[kind](package, chance)
        package.save()
        seal(mutated)
        result = verify(copy, threads=1)
        failed = [check for check in result.checks if check.ok is False]
        return Outcome(index, kind, what, self._moved(mutated), bool(failed), ", ".join(c.name for c in failed))

    def _moved(self, artifact: Artifact) -> float | None:
        """None where the program cannot be run."""
        try:
            after = self._logits(artifact)
        except (UserError, ValueError, IndexError, TypeError, ArithmeticError):
            return None
        worst = max(float(np.abs(a - b).max()) for a, b in zip(self.before, after, strict=True))
        return worst if worst == worst else float("inf")

    def _logits(self, artifact: Artifact) -> list[Logits]:
        """Of every sequence, the logits of all its rows; of fixed shapes also what their other functions say of it."""
        model = open_model(artifact, threads=1)
        try:
            found = []
            for tokens in self.sequences:
                session = model.session()
                parts = [tokens[at : at + PASS] for at in range(0, len(tokens), PASS)]
                found.append(np.concatenate([session.append(part, rows="all").copy() for part in parts]))
                if isinstance(model.interface, Fixed):
                    found.append(np.stack(list(_last_rows(session, tokens, sorted(model.interface.last)))))
                    best, logit = session.choose(tokens[-1:], np.arange(model.vocab_size))
                    found.append(np.array([logit, found[-2][-1][best]]))
            return found
        finally:
            model.close()


def _last_rows(session: ReferenceSession, tokens: Sequence[int], sizes: Sequence[int]) -> Iterator[Logits]:
    """The last row of passes of these sizes in turn, over all but the last of `tokens`, from an empty cache on."""
    session.rewind(0)
    while session.position < len(tokens) - 1:
        for size in sizes:
            part = tokens[session.position : len(tokens) - 1][:size]
            if part:
                yield session.append(part).copy()


def seal(artifact: Artifact) -> None:
    """Make the manifest's hashes those of the files as they now are."""
    manifest = dict(artifact.manifest)
    files = [artifact.folder / entry["path"] for entry in manifest["files"]]
    manifest["files"] = [
        {
            "path": path.relative_to(artifact.folder).as_posix(),
            "bytes": path.stat().st_size,
            "sha256": sha256_file(path),
        }
        for path in files
    ]
    write_manifest(artifact.folder, manifest)


def summary(outcomes: Sequence[Outcome], tolerance: float) -> tuple[float, list[str]]:
    """The share that is noticed of those that move a logit beyond `tolerance`, and lines that tell it all."""
    moving = [one for one in outcomes if one.moved is not None and one.moved > tolerance]
    broken = [one for one in outcomes if one.moved is None]
    noticed = [one for one in moving if one.noticed]
    share = len(noticed) / len(moving) if moving else 1.0
    by = Counter(one.by for one in noticed)
    lines = [
        f"{len(outcomes)} mutations: {len(moving)} move a logit by more than {tolerance:g}, {len(broken)} leave a "
        f"program that cannot be run ({sum(one.noticed for one in broken)} noticed), the rest move less",
        f"noticed: {len(noticed)} of {len(moving)} ({share:.1%}), by "
        + ", ".join(f"{k} {n}" for k, n in by.most_common()),
        *(f"survivor {one.number}: {one.what}: moved {one.moved:.3g}" for one in moving if not one.noticed),
        *(f"not run, not noticed {one.number}: {one.what}" for one in broken if not one.noticed),
    ]
    return share, lines


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path, help="an exported Core ML artifact")
    parser.add_argument("--n", type=int, default=200, help="mutations (default: 200)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=Path, required=True, help="requests of the artifact's toolset")
    parser.add_argument("--requests", type=int, default=6, help="so many of them are measured with (default: 6)")
    parser.add_argument("--share", type=float, default=0.95, help="what has to be noticed (default: 0.95)")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines, one a mutation; goes on where it ended")
    options = parser.parse_args(argv)
    artifact = open_artifact(options.artifact)
    done = (
        [Outcome(**json.loads(line)) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    )
    known = {one.number for one in done}
    with tempfile.TemporaryDirectory() as folder:
        study = Study(artifact, load_cases(options.cases)[: options.requests], Path(folder), options.seed)
        with options.out.open("a", encoding="utf-8") as file:
            for index in range(options.n):
                if index in known:
                    continue
                done.append(study.outcome(index))
                file.write(json.dumps(asdict(done[-1])) + "\n")
                file.flush()
                print(done[-1], flush=True)
    share, lines = summary(done, study.tolerance)
    print("\n".join(lines))
    return 0 if share >= options.share else 1


def _prompts(artifact: Artifact, cases: Sequence[Case]) -> list[list[int]]:
    tokenizer = RouterTokenizer.load(artifact.tokenizer, wire_format(artifact.wire))
    toolset = load_json(artifact.toolset)
    prefix = tokenizer.prefix_ids(toolset)
    return [prefix + tokenizer.behind_prefix(toolset, case.user, case.context) for case in cases]


if __name__ == "__main__":
    sys.exit(main())
