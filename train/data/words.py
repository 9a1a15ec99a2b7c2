"""Random topics, names, identifiers and values out of the words of a corpus."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

KEYS = [
    "file",
    "limit",
    "path",
    "mode",
    "env",
    "target",
    "count",
    "name",
    "verbose",
    "dry_run",
    "region",
    "retries",
    "format",
    "output",
    "input",
    "user",
    "timeout",
    "branch",
    "version",
    "tag",
    "force",
    "size",
    "level",
    "url",
    "days",
    "lang",
]
PAIR_HEADS = [
    " with ",
    " with ",
    " using ",
    ", ",
    " ",
    " and set ",
    " where ",
    " having ",
    " given ",
    " passing ",
    ", parameters ",
    ": ",
    " for ",
]


class Words:
    """Random topics, names and identifiers out of the words of a corpus."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.sentences = [s for s in (t.split() for t in texts) if len(s) > 2]
        self.vocabulary = sorted(
            {w.strip(".,!?'\"").lower() for s in self.sentences for w in s if w.strip(".,!?'\"").isalpha()}
        )

    def phrase(self, rng: random.Random, low: int, high: int) -> str:
        count = rng.randint(low, high)
        if rng.random() < 0.5:
            sentence = rng.choice(self.sentences)
            start = rng.randrange(max(1, len(sentence) - count))
            text = " ".join(sentence[start : start + count])
        else:
            text = " ".join(rng.choice(self.vocabulary) for _ in range(count))
        return "".join(c for c in text.lower() if c.isalnum() or c == " ").strip() or rng.choice(self.vocabulary)

    def identifier(self, rng: random.Random) -> tuple[str, str]:
        """How a name is said, and the id that is meant: identifiers are kept, plain words joined by underscores."""
        parts = self.phrase(rng, 1, 3 if rng.random() < 0.75 else 6).split()
        if len(parts) > 1 and rng.random() < 0.08:  # the same word twice: what follows its first place is no guide
            parts.insert(rng.randint(1, len(parts)), rng.choice(parts))
        odd = rng.random()
        if odd < 0.1:
            parts.append(str(rng.randrange(100)))
        elif odd < 0.25:  # spelling that no piece of the tokenizer holds whole
            i = rng.randrange(len(parts))
            parts[i] += rng.choice([str(rng.randrange(10)), self.phrase(rng, 1, 1)[:5], "ify", "er", "ly"])
        style = rng.random()
        if style < 0.35 or len(parts) == 1:
            said = "_".join(parts)
        elif style < 0.5:
            said = "-".join(parts)
        elif style < 0.57:
            said = ".".join(parts)
        elif style < 0.62:
            said = parts[0] + "".join(p.capitalize() for p in parts[1:])
        else:
            return " ".join(parts), "_".join(parts)
        return said, said

    def value(self, rng: random.Random) -> tuple[str, Any]:
        roll = rng.random()
        if roll < 0.35:
            number = rng.choice([rng.randrange(10), rng.randrange(100), rng.randrange(5000)])
            return str(number), number
        if roll < 0.45:
            return ("true", True) if rng.random() < 0.5 else ("false", False)
        if roll < 0.55:
            said = self.identifier(rng)[0].replace(" ", "_") + rng.choice(
                [".csv", ".json", ".txt", ".py", ".md", "/data"]
            )
            return said, said
        if roll < 0.7:
            said = self.identifier(rng)[0].replace(" ", rng.choice("-_"))
            return said, said
        if roll < 0.78:  # addresses, versions, codes, times
            n = [str(rng.randrange(rng.choice([10, 100, 256]))) for _ in range(4)]
            said = rng.choice([".".join(n), "v" + ".".join(n[:2]), ":".join(n[:2]), "-".join(n[:3]), n[0] + "px"])
            return said, said
        if roll < 0.84:
            said = self.phrase(rng, 1, 1)[: rng.randint(2, 4)].upper()
            return said, said
        word = self.phrase(rng, 1, 1)
        return word, word

    def key(self, rng: random.Random) -> str:
        """The name of a parameter: a usual one, or any word or two."""
        return rng.choice(KEYS) if rng.random() < 0.5 else self.phrase(rng, 1, 2).replace(" ", "_")

    def pairs(self, rng: random.Random) -> tuple[str, dict[str, Any]]:
        """Key-value pairs as people say them behind a request, and what they mean."""
        count = rng.choices([1, 2, 3], [5, 4, 1])[0]
        made = [(k, *self.value(rng)) for k in dict.fromkeys(self.key(rng) for _ in range(count))]
        if rng.random() < 0.15:
            text = " " + " ".join(f"--{k}{rng.choice([' ', '='])}{said}" for k, said, _ in made)
        else:
            link = rng.choice(
                ["=", "=", " ", " ", ": ", " = ", ":", " set to ", " being ", " as ", " equal to ", " to "]
            )
            head = (
                rng.choice(PAIR_HEADS) if link != " to " else rng.choice([" and set ", ", set ", " setting ", ", put "])
            )
            joints = [" "] if link == "=" else [", ", " and ", ", and "]
            text = head + rng.choice(joints).join(f"{k}{link}{said}" for k, said, _ in made)
        return text, {k: v for k, _, v in made}
