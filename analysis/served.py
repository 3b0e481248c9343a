"""Requests to an OpenAI-compatible server: many at once, tried again, each answer on disk as it arrives.

eval.py samples from served models with it (models too large to load here), judge.py asks a judge. An answer
is filed under its request's content, so the same call after an interruption asks only for what is missing.
A request that cannot be answered ends the whole in a ServerError: no number is ever made from a part.
"""

import asyncio
import hashlib
import json
import os
import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import openai
from tqdm import tqdm

TRIES = 8  # of a request
WAIT_S = 1.0  # before the second try; twice as long before each further one, at most a minute
# A wrong key or an unknown model stays wrong, but these pass. ValueError: a reply that is not what was asked.
PASSING = (openai.APIConnectionError, openai.RateLimitError, openai.InternalServerError, ValueError)


class Server(NamedTuple):
    base_url: str | None  # None: OpenAI's own
    key_variable: str  # the environment variable with the key; the key itself is kept nowhere
    timeout_s: float  # of a request
    concurrency: int  # requests under way at once


class Response(NamedTuple):
    """What eval.py keeps of a sampled response."""

    text: str
    tokens: int
    truncated: bool


class ServerError(OSError):
    """A server that does not answer, in one sentence."""


def request_key(request: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


def read_answers(file: Path) -> dict[str, Any]:
    """Key -> answer of every whole line; one that an interruption tore is left out, and asked for again."""
    answers = {}
    if file.exists():
        for line in file.read_text(errors="replace").split("\n"):
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            answers[entry["key"]] = entry["answer"]
    return answers


def ask_all(
    server: Server,
    requests: Iterable[dict[str, Any]],
    read: Callable[[Any], Any],
    *,
    file: Path,
    label: str,
    tries: int = TRIES,
) -> list[Any]:
    """`read` of the reply to each request, in order; known ones come from `file`, new ones are added to it.

    A request holds the arguments of the openai client's method; with "messages" it goes to the chat endpoint.
    `read` raises ValueError for a reply that lacks something. ServerError when a request stays unanswered.
    """
    keyed = [(request_key(request), request) for request in requests]
    answers = read_answers(file)
    missing = {key: request for key, request in keyed if key not in answers}
    if missing:
        with open(file, "a+b") as lines:  # a torn line must not swallow the first new one
            lines.seek(max(0, lines.tell() - 1))
            torn = lines.read() not in (b"", b"\n")
        with open(file, "a") as lines, tqdm(total=len(missing), desc=label, disable=None) as bar:
            lines.write("\n" if torn else "")

            def keep(key: str, answer: Any) -> None:
                answers[key] = answer
                lines.write(json.dumps({"key": key, "answer": answer}) + "\n")
                lines.flush()
                bar.update()

            asyncio.run(_ask_missing(server, missing, read, keep, tries))
    return [answers[key] for key, _ in keyed]


async def _ask_missing(server: Server, missing: dict, read: Callable, keep: Callable, tries: int) -> None:
    client = openai.AsyncOpenAI(
        base_url=server.base_url,
        api_key=os.environ.get(server.key_variable) or "none",  # servers of one's own take any
        timeout=server.timeout_s,
        max_retries=0,  # `_ask` tries again, also after a reply that cannot be read
    )
    queue = iter(missing.items())

    async def work() -> None:
        for key, request in queue:
            keep(key, await _ask(client, request, read, tries))

    async with client:
        await asyncio.gather(*(work() for _ in range(min(server.concurrency, len(missing)))))


async def _ask(client: openai.AsyncOpenAI, request: dict, read: Callable, tries: int) -> Any:
    endpoint = client.chat.completions if "messages" in request else client.completions
    for attempt in range(1, tries + 1):
        try:
            reply = await endpoint.with_raw_response.create(**request)
            return read(json.loads(reply.content))
        except PASSING as error:
            if attempt == tries:
                raise ServerError(f"{client.base_url}: {_sentence(error)}, {tries} times over") from error
        except openai.OpenAIError as error:
            raise ServerError(f"{client.base_url}: {_sentence(error)}") from error
        # Jitter, so that requests refused together do not come back together.
        await asyncio.sleep(min(60.0, WAIT_S * 2 ** (attempt - 1)) * random.uniform(0.5, 1.0))


def _sentence(error: Exception) -> str:
    return f"{type(error).__name__}, " + " ".join(str(error).split())[:300]


def part(reply: Any, *path: str | int, kind: type | tuple) -> Any:
    """reply[path[0]][path[1]]...; ValueError where it is not there or not of that kind."""
    found = reply
    try:
        for name in path:
            found = found[name]
    except (KeyError, IndexError, TypeError):
        found = None
    if not isinstance(found, kind):
        where = ".".join(map(str, path))
        raise ValueError(f"the reply's {where} is {found!r:.40}")
    return found


# ---- Sampling ----


def completion_request(
    model: str,
    prompt: str | list[int],
    *,
    temperature: float,
    max_tokens: int,
    stop: Sequence[str] = (),
    top_p: float = 1.0,
) -> dict[str, Any]:
    # In full, since a server otherwise takes a checkpoint's own defaults (Qwen's: top_p 0.8). Stop strings
    # stay in the text: `</answer>` is part of the answer's format; SGLang has another name for that.
    extra = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
    if stop:
        extra |= {"include_stop_str_in_output": True, "no_stop_trim": True}
    request = {"model": model, "prompt": prompt, "temperature": temperature, "top_p": top_p}
    request |= {"max_tokens": max_tokens, "extra_body": extra}
    return request | ({"stop": list(stop)} if stop else {})


def read_completion(reply: Any) -> tuple[str, int, bool]:
    """Text, tokens, truncated of a reply of the completions endpoint."""
    text = part(reply, "choices", 0, "text", kind=str)
    truncated = part(reply, "choices", 0, "finish_reason", kind=str) == "length"
    return text, part(reply, "usage", "completion_tokens", kind=int), truncated


def takes_token_ids(server: Server, model: str, ids: list[int], text: str, *, file: Path) -> bool:
    """Whether the server takes prompts as token ids, by a response of one token; else it must take text.

    ServerError, after three tries, where it takes neither.
    """
    settings = dict(temperature=0.0, max_tokens=1)
    ask = dict(read=read_completion, file=file, label="trying the server", tries=3)
    if ids:
        try:
            ask_all(server, [completion_request(model, ids, **settings)], **ask)
            return True
        except ServerError as error:
            if not isinstance(error.__cause__, openai.BadRequestError | openai.UnprocessableEntityError):
                raise
    ask_all(server, [completion_request(model, text, **settings)], **ask)
    return False


def sample(
    server: Server,
    model: str,
    prompts: Sequence[str | list[int]],
    n: int,
    temperature: float,
    max_response_tokens: int,
    stop: Sequence[str],
    seed: int,
    *,
    top_p: float = 1.0,
    file: Path,
) -> list[Response]:
    """`n` responses a prompt, prompt-major, as Sampler.sample; what `file` holds is not sampled again."""
    settings = dict(temperature=temperature, top_p=top_p, max_tokens=max_response_tokens, stop=stop)
    requests = [
        completion_request(model, prompt, **settings)
        # A request a response, and a seed each: what has arrived is kept, and can be sampled once more.
        | ({"seed": random.Random(f"{seed}/{i}").getrandbits(31)} if temperature > 0 else {})
        for prompt in prompts
        for i in range(n)
    ]
    return [
        Response(*answer) for answer in ask_all(server, requests, read_completion, file=file, label=model)
    ]
