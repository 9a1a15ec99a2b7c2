"""`edgecall data vary`: the requests of a case file said in other words, by rules or by a language model."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from router.cases import load_cases
from router.toolset_load import load_toolset
from runtimes.errors import UserError
from train.data.formats import check_case
from train.data.vary.asking import Answers, Asker
from train.data.vary.clients import PROVIDERS, Endpoint, open_client
from train.data.vary.llm import Asking
from train.data.vary.rules import RULES
from train.data.vary.run import Plan, vary_cases, write_cases
from train.data.vary.spending import Purse, price_of


def add_parser(verbs: Any) -> argparse.ArgumentParser:
    """Add the verb to `edgecall data`; `verbs` is what `add_subparsers(parser_class=Parser)` gave."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        "vary",
        help="cases -> the same calls, asked for in other words",
        description=(
            "Write variations of cases: other requests that are answered by the same calls. Rules change words\n"
            "between the values that the calls copy; a language model writes anew, and each of its requests is read,\n"
            "compared with all there are, and held to those values (--check: its calls are derived again as well).\n\n"
            f"rules: {', '.join(RULES)}\n\n"
            "Answers of a model are kept beside FILE: a run that was interrupted, or whose budget ended, goes on\n"
            "where it stopped, and a second run costs nothing. The key comes from OPENAI_API_KEY or ANTHROPIC_API_KEY."
        ),
        examples=[
            "edgecall data vary train.jsonl --toolset kiwi --out more.jsonl --rules typos,polite,speech",
            "edgecall data vary train.jsonl --toolset kiwi --out more.jsonl --model gpt-4.1-mini --budget 2 --check",
            "edgecall data vary train.jsonl --toolset kiwi --out more.jsonl --model qwen3 --base-url "
            "http://localhost:8080/v1",
        ],
    )
    add = parser.add_argument
    add("cases", type=Path, help="a .jsonl file of cases")
    add("--toolset", required=True, help="the toolset of their calls: a name or a file")
    add("--out", type=Path, required=True, metavar="FILE", help="the .jsonl file to write")
    add("--per-case", type=int, default=3, metavar="N", help="variations of a case by rules, and as many by a model")
    add("--rules", metavar="A,B", help="which rules (default: all; none with --model)")
    add("--seed", type=int, default=0, help="of the rules (default: 0)")
    add("--with-originals", action="store_true", help="write the cases themselves as well, each before its variations")
    add("--against", type=Path, nargs="+", default=[], metavar="FILE", help="test cases that must not be repeated")
    model = parser.add_argument_group("a language model")
    add = model.add_argument
    add("--model", help="its name at the endpoint")
    add("--provider", choices=PROVIDERS, default="openai", help="whose protocol it speaks (default: openai)")
    add("--base-url", help="another endpoint with that protocol")
    add("--key-env", metavar="NAME", help="the variable that holds the key")
    add("--budget", type=float, metavar="USD", help="spend no more than this; needs prices")
    add("--price-in", type=float, metavar="USD", help="per million tokens read (default: the table's, where it knows)")
    add("--price-out", type=float, metavar="USD", help="per million tokens written")
    add("--check", action="store_true", help="have the model derive each variation's calls, and keep those that agree")
    add("--hint", default="", help="what to tell the model besides, such as who the speakers are")
    add("--temperature", type=float, help="(default: the endpoint's)")
    add("--max-tokens", type=int, default=2048, help="longest answer, thinking included (default: 2048)")
    add("--threads", type=int, default=4, help="questions at the same time (default: 4)")
    add("--cache", type=Path, metavar="DIR", help="where answers are kept (default: FILE.answers)")
    return parser


def main(args: argparse.Namespace) -> int:
    """Write the file, tell progress on stderr, and print a report as JSON."""
    plan = plan_of(args)
    out: Path = args.out
    toolset = load_toolset(args.toolset)
    cases = load_cases(args.cases, lambda place, case: check_case(place, case, toolset))
    if out.exists() and out.samefile(args.cases):
        raise UserError(f"{out}: is the file of the cases themselves; choose another --out")
    against = [case for path in args.against for case in load_cases(path)]
    asker = asker_of(args) if args.model else None
    made, report = vary_cases(cases, toolset, plan, asker=asker, against=against, say=_say)
    write_cases(made, out)
    report = {"file": str(out), **report} | (asked(asker) if asker else {})
    if asker and asker.purse.exhausted:
        _say(
            f"the budget of ${args.budget:g} is reached; what was bought is written, and a higher one goes on from here"
        )
    print(json.dumps(report, indent=1, ensure_ascii=False))
    return 0


def plan_of(args: argparse.Namespace) -> Plan:
    """The plan that the options ask for. Raises `UserError` for options that do not go together."""
    if args.per_case < 1 or args.threads < 1 or args.max_tokens < 1:
        raise UserError("--per-case, --threads and --max-tokens are at least 1")
    if args.budget is not None and args.budget < 0:
        raise UserError("--budget is not below 0")
    for name in ("base_url", "budget", "price_in", "price_out", "key_env", "temperature"):
        if not args.model and getattr(args, name) is not None:
            raise UserError(f"--{name.replace('_', '-')} is for a language model; name it with --model")
    if not args.model and (args.check or args.hint):
        raise UserError("--check and --hint are for a language model; name it with --model")
    asking = Asking(args.hint, args.check, args.max_tokens, args.temperature) if args.model else None
    return Plan(_rules(args), args.per_case, args.seed, args.with_originals, asking, args.threads)


def asker_of(args: argparse.Namespace, **options: Any) -> Asker:
    """The endpoint, the answers it gave before, and the purse."""
    endpoint = Endpoint(args.provider, args.model, args.base_url, args.key_env)
    price = price_of(endpoint, args.price_in, args.price_out)
    if price and price.date:
        _say(f"prices of {price.date}: ${price.input:g} and ${price.output:g} per million tokens; see --price-in")
    folder = args.cache or args.out.with_name(f"{args.out.name}.answers")
    return Asker(open_client(endpoint), Answers(folder, endpoint), Purse(price, args.budget), **options)


def asked(asker: Asker) -> dict[str, Any]:
    """What asking took, for the report."""
    counts, purse = asker.counts, asker.purse
    known = purse.price is not None
    return {
        "answers": {"bought": counts.asked, "from_cache": counts.remembered, "retries": counts.retries},
        "tokens": {"read": purse.input_tokens, "written": purse.output_tokens},
        "usd": round(purse.spent, 6) if known else None,
        "usd_of_lost_answers_at_most": round(purse.lost, 6) if known else None,
        "budget_reached": purse.exhausted,
    }


def _rules(args: argparse.Namespace) -> tuple[str, ...]:
    if args.rules is None:
        return () if args.model else tuple(RULES)
    names = [name.strip() for name in args.rules.split(",") if name.strip()]
    for name in names:
        if name not in RULES:
            raise UserError(f"unknown rule {name!r}; there are {', '.join(RULES)}")
    if not names and not args.model:
        raise UserError("--rules names none, and there is no --model; nothing would be varied")
    return tuple(name for name in RULES if name in names)


def _say(line: str) -> None:
    print(f"edgecall: {line}", file=sys.stderr, flush=True)
