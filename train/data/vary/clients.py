"""Asking a language model through the official clients: an OpenAI-compatible endpoint, or Anthropic's API.

The clients send and authenticate; waiting, retrying and paying is `asking`'s. Answers are read as the JSON that came,
so that half an answer is known as such with every version of the clients.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from runtimes.errors import UserError

PROVIDERS: Final = ("openai", "anthropic")
TIMEOUT_S: Final = 180.0
_KEYS: Final = {"openai": "OPENAI_API_KEY", "anthropic": "ANTHROPIC_API_KEY"}
_HOSTS: Final = {"openai": "api.openai.com", "anthropic": "api.anthropic.com"}
_TRANSIENT: Final = frozenset((408, 409, 425, 429, 500, 502, 503, 504, 529))
_OF_THE_REQUEST: Final = frozenset((400, 413, 422))
"""What may be wrong with one request (a filter, its length) while others pass."""
_SPENT: Final = frozenset(("insufficient_quota", "billing_hard_limit_reached", "credit_balance_too_low"))


@dataclass(frozen=True)
class Endpoint:
    """Which model answers, and where."""

    provider: str
    model: str
    base_url: str | None = None
    key_variable: str | None = None
    """The environment variable that holds the key (default: the provider's own)."""


@dataclass(frozen=True)
class Question:
    """One request to a model. Two equal questions have one answer."""

    system: str
    user: str
    max_tokens: int
    temperature: float | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Reply:
    """The text of an answer, and what it took (None where the endpoint does not tell)."""

    text: str
    input_tokens: int | None
    output_tokens: int | None


class AskError(Exception):
    """An answer that did not come. `lost`: the endpoint may have worked, and may charge, for it."""

    def __init__(self, message: str, *, lost: bool = False, wait: str | None = None) -> None:
        super().__init__(message)
        self.lost = lost
        self.wait = wait
        """The ``Retry-After`` header, in seconds or as a date."""


class TransientError(AskError):
    """Worth another attempt."""


class RefusedError(AskError):
    """The endpoint does not answer this question; others it may."""


class EndpointError(AskError):
    """No question will be answered: the key, the model, the money."""


Client = Callable[[Question], Reply]


def open_client(endpoint: Endpoint) -> Client:
    """A client for an endpoint; it may be called from several threads. Raises `UserError` where there is no key."""
    if endpoint.provider not in PROVIDERS:
        raise UserError(f"unknown provider {endpoint.provider!r}; there are {', '.join(PROVIDERS)}")
    key = _key(endpoint)
    return _anthropic(endpoint, key) if endpoint.provider == "anthropic" else _openai(endpoint, key)


def address(endpoint: Endpoint) -> str:
    """Where questions go: the base address given, the clients' own variable, or the provider's."""
    own = os.environ.get(f"{endpoint.provider.upper()}_BASE_URL")
    return endpoint.base_url or own or f"https://{_HOSTS[endpoint.provider]}"


def is_own(endpoint: Endpoint) -> bool:
    """Whether questions go to the provider itself, whose prices are known."""
    return urlsplit(address(endpoint)).hostname == _HOSTS[endpoint.provider]


def _key(endpoint: Endpoint) -> str:
    name = endpoint.key_variable or _KEYS[endpoint.provider]
    key = os.environ.get(name, "").strip()
    if not key and endpoint.key_variable is None and not is_own(endpoint):
        return "none"  # servers of one's own ask for none, and the clients insist on one
    if not key:
        raise UserError(f"the environment has no {name}; set it to the key for {address(endpoint)}")
    return key


def _openai(endpoint: Endpoint, key: str) -> Client:
    import openai

    client = openai.OpenAI(api_key=key, base_url=endpoint.base_url, max_retries=0, timeout=TIMEOUT_S)
    # The provider wants the new name; servers that speak its protocol know the old one.
    limit = "max_completion_tokens" if is_own(endpoint) else "max_tokens"

    def ask(question: Question) -> Reply:
        given: dict[str, Any] = {limit: question.max_tokens}
        if question.temperature is not None:
            given["temperature"] = question.temperature
        messages: Any = [{"role": "system", "content": question.system}, {"role": "user", "content": question.user}]
        data = _sent(
            openai,
            lambda: client.chat.completions.with_raw_response.create(model=endpoint.model, messages=messages, **given),
        )
        try:
            text = data["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError):
            raise TransientError("the answer has no message", lost=True) from None
        usage = data.get("usage")
        return Reply(text if isinstance(text, str) else "", *_usage(usage, ("prompt_tokens",), "completion_tokens"))

    return ask


def _anthropic(endpoint: Endpoint, key: str) -> Client:
    import anthropic

    client = anthropic.Anthropic(api_key=key, base_url=endpoint.base_url, max_retries=0, timeout=TIMEOUT_S)
    read = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")

    def ask(question: Question) -> Reply:
        given: dict[str, Any] = {} if question.temperature is None else {"temperature": question.temperature}
        data = _sent(
            anthropic,
            lambda: client.messages.with_raw_response.create(
                model=endpoint.model,
                system=question.system,
                messages=[{"role": "user", "content": question.user}],
                max_tokens=question.max_tokens,
                **given,
            ),
        )
        blocks = data.get("content")
        if not isinstance(blocks, list):
            raise TransientError("the answer has no content", lost=True)
        parts = [b.get("text") for b in blocks if isinstance(b, Mapping) and b.get("type") == "text"]
        return Reply("".join(p for p in parts if isinstance(p, str)), *_usage(data.get("usage"), read, "output_tokens"))

    return ask


def _sent(sdk: Any, send: Callable[[], Any]) -> dict[str, Any]:
    """The JSON object that answers a request. Raises an `AskError`. Both clients have the same kinds of errors."""
    try:
        response = send()
    except sdk.APIStatusError as error:
        raise _status(error) from None
    except sdk.APIConnectionError as error:
        cause = error.__cause__ or error
        raise TransientError(f"no answer ({type(cause).__name__}: {_line(cause)})", lost=_was_sent(cause)) from None
    try:
        data = json.loads(response.http_response.content)
    except (ValueError, RecursionError):
        raise TransientError("the answer is not JSON", lost=True) from None
    if not isinstance(data, dict):
        raise TransientError("the answer is no JSON object", lost=True)
    return data


def _status(error: Any) -> AskError:
    status = int(error.status_code)
    body: Any = error.body if isinstance(error.body, Mapping) else {}
    inner: Any = body["error"] if isinstance(body.get("error"), Mapping) else body
    code = str(inner.get("code") or inner.get("type") or "")
    message = f"{status} {_line(inner.get('message') or error)}"
    if code in _SPENT or "credit balance is too low" in message:
        return EndpointError(message)
    if status in _TRANSIENT or status >= 500:
        return TransientError(message, wait=error.response.headers.get("retry-after"))
    return RefusedError(message) if status in _OF_THE_REQUEST else EndpointError(message)


def _was_sent(cause: BaseException) -> bool:
    """Whether the endpoint may have got the question: all failures but those to connect."""
    return type(cause).__name__ not in ("ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError")


def _usage(usage: Any, read: tuple[str, ...], written: str) -> tuple[int | None, int | None]:
    if not isinstance(usage, Mapping):
        return None, None
    parts = [usage.get(name) for name in read]
    given = [part for part in parts if isinstance(part, int)]
    out = usage.get(written)
    return (sum(given) if given else None), (out if isinstance(out, int) else None)


def _line(text: object) -> str:
    line = " ".join(str(text).split())
    return line if len(line) <= 300 else line[:297] + "..."
