"""A decomposer that asks a language model behind any OpenAI-compatible chat endpoint.

An answer is taken only if the task's vocabulary, the task's ``check_plan`` and what the scripted grammar
can tell of the instruction all agree with it; otherwise the error goes back to the model, a bounded number
of times.
"""

from __future__ import annotations

import base64
import io
import math
import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import openai
from PIL import Image
from pydantic import BaseModel, ValidationError

from planner.decomposer.answer import clean, read_answer
from planner.decomposer.answer_cache import AnswerCache
from planner.decomposer.base import Plan, told_plan
from planner.decomposer.coverage import Requirements
from planner.decomposer.prompt import answer_schema, fill, system_prompt
from planner.decomposer.scripted import ScriptedDecomposer
from tasks import PlanError, Task

OPENAI_URL = "https://api.openai.com/v1"
MAX_INSTRUCTION = 2_000  # characters
MAX_BODY = 1 << 20  # bytes of one response
MAX_ECHO = 4_000  # characters of a faulty answer that the model is shown again
MAX_REASON = 300  # characters of a server's or a model's words in an error
FORMATS = 4  # json_schema, json_object with a schema, json_object, text
REFUSES_A_FORMAT = (400, 415, 422, 500, 501)  # servers differ; what fails otherwise is no question of format

Messages = list[dict[str, Any]]


class ChatError(PlanError):
    """The endpoint gave no answer; one line, without the key."""


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Completion(BaseModel):
    choices: list[_Choice]


class ChatEndpoint:
    """One model on one server: sends messages, and remembers which parameters the server takes.

    The key is read from ``OPENAI_API_KEY`` when the first message is sent, and stays out of every error.

    Args:
        base_url: such as ``http://localhost:8000/v1``; None takes ``OPENAI_BASE_URL``, or else OpenAI's.
        model: as the server calls it.
        timeout: seconds, until a response begins and again until it is complete.
        retries: of the client, after 429 (waits as ``Retry-After`` says, up to the client's own limit), 5xx,
            timeouts and lost connections.
        temperature: None leaves it to the server.
        max_tokens: of one answer, a reasoning model's thoughts included.
    """

    def __init__(
        self,
        base_url: str | None,
        model: str,
        timeout: float,
        retries: int,
        temperature: float | None,
        max_tokens: int,
    ):
        self.base_url = _checked_url(base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI_URL)
        self.model, self.timeout, self.retries = model, timeout, retries
        self.temperature, self.max_tokens = temperature, max_tokens
        self.notes: list[str] = []
        self._format, self._proven = 0, False
        self._limit = "max_tokens"
        self._client: openai.OpenAI | None = None
        self._key = ""

    def complete(self, messages: Messages, schema: Mapping[str, Any]) -> str:
        """The text of one answer.

        Raises:
            ChatError: no answer, or a refusal.
            PlanError: an answer that can't be used, but a repeated question may help: cut off, or empty.
        """
        while True:
            try:
                completion = self._send(self._body(messages, schema))
            except openai.APIStatusError as error:
                if not self._adapt(error):
                    raise self._failure(error, messages) from None
                continue
            except openai.OpenAIError as error:
                raise self._failure(error, messages) from None
            self._proven = True
            return self._text(completion)

    def _body(self, messages: Messages, schema: Mapping[str, Any]) -> dict[str, Any]:
        strict = {"name": "plan", "strict": True, "schema": schema}
        response_format = (
            {"type": "json_schema", "json_schema": strict},
            {"type": "json_object", "schema": schema},
            {"type": "json_object"},
            None,
        )[self._format]
        body: dict[str, Any] = {"model": self.model, "messages": messages, self._limit: self.max_tokens}
        if self.temperature is not None:
            body["temperature"] = self.temperature
        if response_format:  # as extra_body, since the client's types know no schema beside json_object
            body["extra_body"] = {"response_format": response_format}
        return body

    def _adapt(self, error: openai.APIStatusError) -> bool:
        """Whether another way to ask is left that this error does not rule out; it is taken."""
        said = error.message
        if error.status_code == 400 and self._limit == "max_tokens" and "max_completion_tokens" in said:
            self._limit = "max_completion_tokens"
            return True
        if error.status_code == 400 and self.temperature is not None and "temperature" in said:
            self.temperature = None
            self.notes.append(f"{self.model} takes no temperature; its own is used")
            return True
        if error.status_code not in REFUSES_A_FORMAT or self._proven:
            return False
        self._format = (self._format + 1) % FORMATS
        return self._format > 0  # after the last one the fault lies elsewhere; the next message begins anew

    # --- the wire --------------------------------------------------------------------------------

    def _connect(self) -> openai.OpenAI:
        if self._client is None:
            self._key = os.environ.get("OPENAI_API_KEY", "").strip()
            if not self._key and urlsplit(self.base_url).hostname == urlsplit(OPENAI_URL).hostname:
                raise ChatError("OPENAI_API_KEY is not set; set it, or give another server's base_url")
            if not re.fullmatch(r"[!-~]*", self._key):
                raise ChatError("OPENAI_API_KEY holds a space or a letter that no key has; set it again")
            # max_retries stands with each request; a server of one's own needs no key, the client does
            self._client = openai.OpenAI(
                api_key=self._key or "none", base_url=self.base_url, timeout=self.timeout
            )
        return self._client

    def _send(self, body: dict[str, Any]) -> _Completion:
        data = self._post(body)
        try:
            return _Completion.model_validate_json(data)
        except ValidationError:
            said = f"the response is no chat completion ({data[: 4 * MAX_REASON].decode(errors='replace')!r})"
            hint = "" if self.base_url.endswith("/v1") else "; most servers' base_url ends in /v1"
            raise ChatError(self._line(said) + hint) from None

    def _post(self, body: dict[str, Any]) -> bytes:
        """The response is read in pieces, so that neither its size nor its time is unbounded."""
        client = self._connect()
        left = self.retries
        while True:
            chat = client.with_options(max_retries=left).chat.completions.with_streaming_response
            with chat.create(**body) as response:
                try:
                    return self._read(response.iter_bytes())
                except ChatError:
                    raise
                except Exception as error:  # the transport's own: httpx in older clients, httpx2 in newer
                    if left == 0:
                        reason = f"the response broke off ({type(error).__name__})"
                        raise ChatError(self._line(reason)) from None
            left -= 1

    def _read(self, pieces: Iterator[bytes]) -> bytes:
        end, data = time.monotonic() + self.timeout, bytearray()
        for piece in pieces:
            data += piece
            if len(data) > MAX_BODY:
                raise ChatError(self._line(f"the response is longer than {MAX_BODY} bytes"))
            if time.monotonic() > end:
                raise ChatError(self._line(f"the response was not complete after {self.timeout:g} s"))
        return bytes(data)

    def _text(self, completion: _Completion) -> str:
        if not completion.choices:
            raise ChatError(self._line("the response holds no choice"))
        choice = completion.choices[0]
        if choice.message.refusal or choice.finish_reason == "content_filter":
            said = choice.message.refusal or "its content filter stepped in"
            raise ChatError(self._line(f"the model refused: {said}"))
        text = choice.message.content or ""
        if choice.finish_reason == "length":
            raise PlanError(
                f"it was cut off after {len(text)} characters, at max_tokens={self.max_tokens}; be shorter"
            )
        if not text.strip():
            raise PlanError("it is empty")
        return text

    # --- errors ----------------------------------------------------------------------------------

    def redact(self, text: str) -> str:
        """``text`` on one line, cut, without the key or anything that looks like one."""
        if len(self._key) >= 4:
            text = text.replace(self._key, "***")
        text = re.sub(r"\b(sk-|Bearer )[\w\-*.]+", r"\1***", " ".join(text.split()))
        return text if len(text) <= MAX_REASON else text[:MAX_REASON] + "…"

    def _line(self, reason: str) -> str:
        return f"{self.model} at {self.base_url}: {self.redact(reason)}"

    def _failure(self, error: openai.OpenAIError, messages: Messages) -> ChatError:
        if isinstance(error, openai.APITimeoutError):
            return ChatError(self._line(f"no answer within {self.timeout:g} s; timeout= sets another limit"))
        if isinstance(error, openai.APIConnectionError):
            return ChatError(self._line("can't be reached; is the server running, is base_url right?"))
        if not isinstance(error, openai.APIStatusError):
            return ChatError(self._line(str(error)))
        wait = error.response.headers.get("retry-after")
        hint = {
            400: "; a model that takes no pictures needs send_image=false" * ("image_url" in str(messages)),
            401: "; check OPENAI_API_KEY",
            403: "; check OPENAI_API_KEY",
            404: "; check model and base_url (most servers' ends in /v1)",
            429: f"; the server asks to wait {clean(wait)[:40]}" if wait else "",
        }.get(error.status_code, "")
        return ChatError(self._line(f"{error.status_code}: {_said(error)}") + hint)


class OpenAIDecomposer:
    """Asks a language model for the plan, as the paper's agent asks ChatGPT (SlowFast-VGen, Section 3.4).

    Args:
        base_url, model, timeout, retries, temperature, max_tokens: see :class:`ChatEndpoint`.
        repairs: how often the error in an answer goes back to the model.
        send_image: send the first frame along, for models that see.
        fallback: take the scripted decomposer's plan where the model gives none, and say so in the notes.
        cache: folder of answers that were accepted, one json file each; None keeps none.

    Raises:
        ValueError: an option out of its range.
    """

    def __init__(
        self,
        base_url: str | None = None,
        model: str = "gpt-4o-mini",
        timeout: float = 60.0,
        retries: int = 2,
        repairs: int = 2,
        temperature: float | None = 0.0,
        max_tokens: int = 4096,
        send_image: bool = False,
        fallback: bool = False,
        cache: str | Path | None = None,
    ):
        _check("timeout", timeout, 0.1, 3600, float)
        _check("retries", retries, 0, 10, int)
        _check("repairs", repairs, 0, 10, int)
        _check("max_tokens", max_tokens, 16, 65_536, int)
        if temperature is not None:
            _check("temperature", temperature, 0, 2, float)
        if not model:
            raise ValueError("decomposer.model is empty; give the model's name on the server")
        self.endpoint = ChatEndpoint(base_url, str(model), timeout, retries, temperature, max_tokens)
        self.repairs, self.send_image, self.fallback = repairs, send_image, fallback
        self.name = f"{model} at {self.endpoint.base_url}" + ", or else scripted" * fallback
        self.cache = AnswerCache(None if cache is None else Path(cache))
        self._asked = (self.endpoint.base_url, self.endpoint.model, temperature, max_tokens)

    def decompose(self, task: Task, instruction: str, frame: np.ndarray | None = None) -> Plan:
        """See :class:`planner.decomposer.Decomposer`; the plan's source is the model's name."""
        if told := told_plan(task, instruction):
            return told
        text = clean(instruction)
        if not 0 < len(text) <= MAX_INSTRUCTION:
            raise PlanError(f"the instruction has {len(text)} characters; expected 1 to {MAX_INSTRUCTION}")
        required = Requirements(task, text)
        try:
            return self._ask(task, text, frame, required)
        except PlanError as error:
            if not self.fallback:
                raise
            reason = str(error)
        try:
            plan = required.plan or ScriptedDecomposer().decompose(task, text)
        except PlanError as error:
            raise PlanError(f"{reason}; and fallback=true found no plan either: {error}") from None
        note = f"fallback: scripted plan, because {self.endpoint.model} gave none ({reason})"
        return Plan(plan.subgoals, plan.source, (note, *plan.notes))

    def _ask(self, task: Task, text: str, frame: np.ndarray | None, required: Requirements) -> Plan:
        messages = self._messages(task, text, frame)
        schema = answer_schema(task)
        file = self.cache.file(*self._asked, messages, schema)
        stored = self.cache.read(file, task, required) if file else None
        if stored:
            return stored
        faults: list[str] = []
        question = messages
        for _ in range(self.repairs + 1):
            answer = ""
            try:
                answer = self.endpoint.complete(question, schema)
                plan = self._accept(answer, task, required, faults)
            except ChatError:
                raise
            except _Problem as problem:
                raise PlanError(f"{self.endpoint.model} can't plan {text[:200]!r}: {problem}") from None
            except PlanError as error:
                faults.append(self.endpoint.redact(str(error)))
                said = [{"role": "assistant", "content": answer[:MAX_ECHO]}] if answer else []
                question = [*messages, *said, {"role": "user", "content": fill("repair", error=faults[-1])}]
                continue
            if file:
                self.cache.write(file, plan, text)
            return plan
        raise PlanError(
            f"{self.endpoint.model} gave no plan for {text[:200]!r} in {len(faults)} answers; "
            f"the last one: {faults[-1]}"
        )

    def _accept(self, answer: str, task: Task, required: Requirements, faults: list[str]) -> Plan:
        subgoals, problem = read_answer(answer, task)
        if problem and required.plan:
            raise PlanError("nothing is wrong with the instruction; each of its words can be carried out")
        if problem:
            raise _Problem(self.endpoint.redact(problem))
        subgoals = task.completed(subgoals)
        task.check_plan(subgoals)
        required.check(subgoals)
        repaired = [f"{self.endpoint.model} repaired its answer: {fault}" for fault in faults]
        return Plan(subgoals, self.endpoint.model, (*self.endpoint.notes, *repaired))

    def _messages(self, task: Task, text: str, frame: np.ndarray | None) -> Messages:
        user: Any = fill("user", instruction=text)
        if self.send_image:
            if frame is None:
                raise PlanError("decomposer.send_image=true, but there is no first frame to send")
            picture = "data:image/png;base64," + base64.b64encode(_png(frame)).decode()
            user = [
                {"type": "text", "text": f"{user}\n{fill('picture')}"},
                {"type": "image_url", "image_url": {"url": picture}},
            ]
        return [{"role": "system", "content": system_prompt(task)}, {"role": "user", "content": user}]


class _Problem(PlanError):
    """The model says why it can't plan: an answer, not a fault."""


def _check(name: str, value: float, low: float, high: float, kind: type) -> None:
    number = isinstance(value, (int, kind)) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not low <= value <= high:
        what = "an integer" if kind is int else "a number"
        raise ValueError(f"decomposer.{name}={value}: expected {what} from {low} to {high}")


def _png(frame: np.ndarray) -> bytes:
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise ValueError(f"the first frame is {frame.dtype} {frame.shape}; expected uint8 (H, W, 3)")
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "png")
    return buffer.getvalue()


def _checked_url(url: str) -> str:
    """A base URL that can be shown: no user name, password or query, which could be a key."""
    parts = urlsplit(url.strip())
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("base_url holds more than a server and a path; a key belongs into OPENAI_API_KEY")
    try:
        reachable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is no number
        reachable = False
    if not reachable:
        raise ValueError(f"base_url={url!r}: expected http://HOST/… or https://HOST/…")
    return url.strip().rstrip("/")


def _said(error: openai.APIStatusError) -> str:
    """What the server says, without the client's wrapping."""
    body = error.body if isinstance(error.body, Mapping) else {}
    return str(body.get("message") or error.message)
