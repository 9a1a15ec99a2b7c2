"""What a stage of a base is trained on, as packed rows; and what its tokenizer is."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from router.cases import Case
from router.tokenizer import RouterTokenizer
from router.toolset import DEFAULT_INSTRUCTION, Toolset
from router.wire import render_completion, render_prompt
from runtimes.errors import UserError
from train.copying import copied_places
from train.data.corpus import Corpus, realise
from train.data.mixture import Block, Mixture
from train.data.recipe import load_recipe
from train.data.sources import read_all
from train.data.texts import Texts
from train.data.words import Words
from train.data_cli import training_cases
from train.held_out import HELD_OUT, withhold, withhold_texts
from train.packing import Row, pack

if TYPE_CHECKING:
    from train.base import BaseConfig, Stage
    from train.vectors import WordVectors

RECIPE_CASES = 60_000
"""Training requests that are drawn of each recipe."""
COMMON_WORDS = 12_000
"""Words of `WordVectors` that the tokenizer sees beside the data."""
_WINDOW = 240
"""Tokens of a document of text, at most."""


def stage_rows(
    config: BaseConfig, stage: Stage, data: Path, tokenizer: RouterTokenizer, against: Sequence[Case]
) -> tuple[Callable[[int], list[Row]], list[list[Row]]]:
    """The rows of a step, and batches of validation rows, one row each. Raises `UserError` where a row has no
    room for a request."""
    if stage.text:
        whole = Texts(stage.text, data)
        train, held = withhold_texts(whole) if stage.validation == HELD_OUT else (whole, whole)

        def document(texts: Texts, number: str) -> Row:
            return encode_text(tokenizer, texts, random.Random(f"{stage.seed}/{number}"), limit=stage.row_tokens)

        def drawn(step: int) -> list[Row]:
            first = step * stage.rows_per_step
            return [document(train, str(first + i)) for i in range(stage.rows_per_step)]

        return drawn, [[document(held, f"validation/{n}")] for n in range(24)]
    mixture = make_mixture(config, stage, data, against=against)
    dev = make_mixture(config, stage, data, dev=True, against=against)

    def block(source: Mixture, number: int, count: int) -> Row:
        """Block `number`; where its declarations leave no room for a request, one further on."""
        for again in range(20):
            row = encode_block(tokenizer, source.block(number + again * 10_000_019, rows=count), limit=stage.row_tokens)
            if row.loss.any():
                return row
        raise UserError(
            f"stage {stage.name}: row_tokens {stage.row_tokens} leaves no room behind the declarations; raise it"
        )

    def rows(step: int) -> list[Row]:
        first = step * stage.rows_per_step
        return [block(mixture, first + i, stage.requests) for i in range(stage.rows_per_step)]

    return rows, [[block(dev, n, 20)] for n in range(24)]


def tokenizer_lines(mixture: Mixture, vectors: WordVectors | None = None, *, blocks: int = 1500) -> Iterator[str]:
    """What the tokenizer is trained on: real requests, prompts and completions of the first blocks, and the frequent
    words of `vectors`, so that they become pieces of their own."""
    rng = random.Random(mixture.seed)
    for corpus in mixture.corpora:
        for request in corpus.requests:
            yield realise(corpus, request, rng, swap=0.0)[0]
    for number in range(blocks):
        block = mixture.block(number, rows=10)
        yield render_prompt(block.toolset, "")
        for text, calls in block.rows:
            yield text
            yield render_completion(calls)
    if vectors is not None:
        for row, word in enumerate(vectors.words[:COMMON_WORDS]):
            yield from [word] * (1 + 80_000 // (row + 100))


def encode_block(tokenizer: RouterTokenizer, block: Block, *, limit: int) -> Row:
    """One packed row of a block."""
    rows = [(text, calls) for text, calls in block.rows if text.strip()]
    requests = [(tokenizer.request_ids(text), tokenizer.completion_ids(calls)) for text, calls in rows]
    prefix = tokenizer.prefix_ids(block.toolset)
    size = [len(tokenizer.encode_text(tool.name)) for tool in block.toolset.tools]
    order = {tool.name: i for i, tool in enumerate(block.toolset.tools)}

    def places(ids: Sequence[int], control: str, lead: str) -> list[int]:
        """Where the names begin that follow a control token and some text."""
        token, before = tokenizer.control_id(control), 1 + len(tokenizer.encode_text(lead))
        return [i + before for i, found in enumerate(ids) if found == token]

    end = tokenizer.control_id("end_declaration")
    declared = places(prefix, "start_declaration", "declaration:")
    return pack(
        prefix,
        requests,
        limit=limit,
        ends=[i for i, found in enumerate(prefix) if found == end],
        names=[(first + k, tool) for tool, first in enumerate(declared) for k in range(size[tool])],
        choices=[
            [
                (first - 1 + k, order[call.name])
                for first, call in zip(places(ids, "start_call", "call:"), calls, strict=True)
                for k in range(size[order[call.name]])
            ]
            for (_, calls), (_, ids) in zip(rows, requests, strict=True)
        ],
        copies=[copied_places(tokenizer, text, *ids) for (text, _), ids in zip(rows, requests, strict=True)],
    )


def encode_text(tokenizer: RouterTokenizer, texts: Texts, rng: random.Random, *, limit: int) -> Row:
    """One packed row of documents that do not see each other, each behind a bos; loss on every token."""
    (bos,) = tokenizer.encode("<bos>")
    documents: list[tuple[list[int], list[int]]] = []
    room = limit
    while room > _WINDOW:
        ids = tokenizer.encode_text(texts.draw(rng, characters=4 * _WINDOW).replace("\u2581", " "))[:_WINDOW]
        if ids:
            documents.append(([bos], ids))
            room -= len(ids) + 1
    return pack([], documents, limit=limit + 1)


def make_mixture(
    config: BaseConfig, stage: Stage, data: Path, *, dev: bool = False, against: Sequence[Case] = ()
) -> Mixture:
    """A stage's mixture over the training side of the corpora under `data`; with `dev` over what validates (see
    `Stage.validation`), in words of the training side.

    Requests that repeat one of `against` are left out of what the recipes give.
    """
    train = training_side(stage, read_all(data))
    texts = [r.text for c in train for r in c.requests]
    # The technical words are the vocabulary of the requests that routers for engineers see: weigh them up.
    words = Words([*texts, *[" ".join(config.words)] * 2])
    words.vocabulary += list(config.words) * 12
    corpora = _validating(stage, data) if dev else train
    made = ("synthetic", "invented", "matching", *(("recipes",) if stage.recipes else ()))
    weights = {
        k: v for k, v in (stage.weights or {}).items() if k in made or any(c.name == k and c.requests for c in corpora)
    }
    recipes = [load_recipe(config.folder / path, data) for path in stage.recipes]
    split = "dev" if dev else "train"
    return Mixture(
        corpora,
        words,
        weights,
        seed=stage.seed + (1_000_003 if dev else 0),
        swap=0.0 if dev else stage.swap,
        vectors=config.vectors,
        recipes=[
            (_without_context(r.toolset), list(islice(training_cases(r, split, against), RECIPE_CASES)))
            for r in recipes
        ],  # type: ignore[arg-type]
    )


def training_side(stage: Stage, corpora: Sequence[Corpus]) -> list[Corpus]:
    """What a stage may train on, of the training rows of `corpora`."""
    return [withhold(corpus)[0] for corpus in corpora] if stage.validation == HELD_OUT else list(corpora)


def _validating(stage: Stage, data: Path) -> list[Corpus]:
    if stage.validation != HELD_OUT:
        return read_all(data, dev=True)
    return [held for corpus in read_all(data) if (held := withhold(corpus)[1]).requests]


def _without_context(toolset: Toolset) -> Toolset:
    """A toolset whose declarations many requests can share: what its instruction shows goes into the user's turn."""
    return replace(toolset, instruction=DEFAULT_INSTRUCTION) if toolset.placed else toolset
