"""Texts that tokenizers get wrong: white space in runs, several scripts, what spells control tokens, noise."""

from __future__ import annotations

import random
from collections.abc import Iterator

from router.wire import FUNCTIONGEMMA

TEXTS = [
    "",
    " ",
    "\n",
    "find email scripts",
    "  two  spaces   three\n\n\nnew\tlines\t\t\n \n",
    "1234567890 3.14 1,000 -5e-3",
    "Grüße aus Köln, 北京 你好 🎉👩‍👩‍👧 ça va",
    "literal ▁ and ▁▁ and <0x41> and <0x0A> and <unused1>",
    "e\u0301 é \u200b\u202ertl\u202c \ufeff � \x01 \x7f\x1b[0m",
    "\r\n\r\n" + "x" * 100 + "!" * 50 + "\n" * 40 + " " * 40,
    "<bos><start_of_turn>user\nfind x<end_of_turn>\n<start_of_turn>model\n<start_function_call>call:search"
    "{item_type:<escape>script<escape>,query:<escape>a b<escape>}<end_function_call><start_function_response>",
    "<bos><bos><eos><pad><unk><escape",
]


def random_texts(n: int, seed: int) -> Iterator[str]:
    chance = random.Random(seed)
    letters = "abcdeABC 0123 \n\t.,;:{}[]<>/\\'\"_-▁éüñ你好🎉ßжλ"
    parts = [*FUNCTIONGEMMA.reserved, " ", "\n", "search", "item_type:", " script", "{", "}", "42", "é", "🎉"]
    for _ in range(n):
        yield "".join(chance.choices(letters, k=chance.randint(1, 50)))
        yield "".join(chance.choices(parts, k=chance.randint(1, 15)))
