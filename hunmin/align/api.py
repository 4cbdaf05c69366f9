"""Questions to a language model behind an OpenAI-compatible URL, each paid for once."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import random
import threading
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

from hunmin.align.files import Journal
from hunmin.align.formats import Messages
from hunmin.errors import HunminError, InputError, SourceError, logger, say, short

LONGEST_PAUSE = 60.0  # seconds between two tries
PASSING = (408, 409, 425, 429)  # and 500 to 599: errors that may be gone at the next try


class _Stopped(Exception):
    """Another question of the same batch has failed."""


class _Passing(Exception):
    """A failure that may be gone at the next try; ``pause`` is what the server asked for, in seconds."""

    def __init__(self, cause: str, pause: float | None = None) -> None:
        super().__init__(cause)
        self.pause = pause


class _SamePlace(urllib.request.HTTPRedirectHandler):
    """Follows no redirection: the key would go along to whoever is named."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> None:
        return None


class ChatAPI:
    """``POST {url}/chat/completions`` (OpenAI's form, also of vLLM, llama.cpp, Ollama and others).

    Args:
        url: such as ``http://localhost:8000/v1``.
        key_env: the environment variable that holds the key; the key itself is written nowhere.
        journal: keeps every answer under a hash of its question, so that a run that is begun again asks only for the rest.
        workers: questions under way at the same time.
        retries: tries after the first, for errors that may pass; the pause before them begins at ``pause`` seconds and doubles.
        timeout: seconds that an answer may take.
        options: further fields of the request, such as ``temperature``.

    Raises InputError for a URL that is none.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        key_env: str = "OPENAI_API_KEY",
        journal: Journal | None = None,
        workers: int = 4,
        retries: int = 5,
        pause: float = 1.0,
        timeout: float = 60.0,
        **options: Any,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise InputError(
                say(
                    f"A judge's URL begins with http:// or https://, not {short(url)}.",
                    f"심판의 URL은 http://나 https://로 시작해야 합니다: {short(url)}.",
                )
            )
        self.url = url if parts.path.endswith("/chat/completions") else f"{url.rstrip('/')}/chat/completions"
        self.model, self.key_env, self.options = model, key_env, {"temperature": 0, **options}
        self.journal = journal if journal is not None else Journal(None)
        self.workers, self.retries, self.pause, self.timeout = max(1, workers), retries, pause, timeout
        self.asked = 0  # requests that were answered, which is what costs
        self._opener = urllib.request.build_opener(_SamePlace)
        self._lock = threading.Lock()

    def ask(self, questions: Sequence[Messages]) -> list[str]:
        """An answer to each conversation. Equal questions are asked once.

        Raises SourceError when the server stays away or refuses; what was answered until then is kept.
        """
        keys = [self._key(question) for question in questions]
        open_ = {key: question for key, question in zip(keys, questions, strict=True) if key not in self.journal}
        stop, failures = threading.Event(), list[HunminError]()

        def one(item: tuple[str, Messages]) -> None:
            if stop.is_set():
                return
            try:
                self.journal.add(item[0], self._patient(item[1], stop))
            except _Stopped:
                return
            except HunminError as error:
                failures.append(error)
                stop.set()

        with ThreadPoolExecutor(self.workers) as pool:
            try:
                list(pool.map(one, open_.items()))
            except BaseException:  # Ctrl-C: answers that are under way are still kept
                stop.set()
                raise
        if failures:
            done, where = sum(key in self.journal for key in set(keys)), self.journal.path or say("memory", "메모리")
            raise SourceError(
                f"{failures[0]} "
                + say(
                    f"{done} of {len(set(keys))} answers are kept in {where}: run again to go on there.",
                    f"답 {len(set(keys))}개 중 {done}개를 {where}에 보관했습니다. 다시 실행하면 이어서 합니다.",
                )
            ) from failures[0]
        return [str(self.journal[key]) for key in keys]

    def _key(self, question: Messages) -> str:
        """The same for the same question to the same model, wherever that runs."""
        about = json.dumps({"model": self.model, "messages": question, **self.options}, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(about.encode("utf-8", "surrogatepass")).hexdigest()

    def _patient(self, question: Messages, stop: threading.Event) -> str:
        """One answer, after as many tries as it takes. Raises SourceError for the last failure."""
        for attempt in range(self.retries + 1):
            try:
                return self._once(question)
            except _Passing as error:
                if attempt == self.retries:
                    raise SourceError(
                        say(
                            f"{self.url} does not answer ({error}; {attempt + 1} tries).",
                            f"{self.url}에서 응답이 없습니다({error}; {attempt + 1}번 시도).",
                        )
                    ) from error
                wait = error.pause if error.pause is not None else self.pause * 2**attempt * random.uniform(0.75, 1.25)
                logger.info("%s: %s; trying again in %.1f s", self.url, error, wait)
                if stop.wait(min(wait, LONGEST_PAUSE)):
                    raise _Stopped from None
        raise AssertionError  # the last try returns or raises

    def _once(self, question: Messages) -> str:
        body = json.dumps({"model": self.model, "messages": question, **self.options}).encode()
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if key := os.environ.get(self.key_env, "").strip():
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self.url, data=body, headers=headers, method="POST")
        try:
            with self._opener.open(request, timeout=self.timeout) as response:
                found = json.loads(response.read())
        except urllib.error.HTTPError as error:
            with error:
                raise self._refusal(error) from error
        except (OSError, http.client.HTTPException) as error:  # URLError and timeouts are OSErrors
            raise _Passing(" ".join(str(getattr(error, "reason", error) or type(error).__name__).split())[:150]) from error
        except ValueError as error:
            raise _Passing(say("its answer is no JSON", "응답이 JSON이 아님")) from error
        try:
            content = found["choices"][0]["message"].get("content")
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise SourceError(
                say(
                    f"{self.url} does not speak as OpenAI's API does: {short(found)}.",
                    f"{self.url}의 응답이 OpenAI API 형식이 아닙니다: {short(found)}.",
                )
            ) from error
        with self._lock:
            self.asked += 1
        return content if isinstance(content, str) else ""

    def _refusal(self, error: urllib.error.HTTPError) -> Exception:
        """What an error status means: one that may pass, or the end."""
        said = " ".join(error.read(2000).decode("utf-8", "replace").split())[:200]
        cause = f"HTTP {error.code} {said or error.reason}"
        if error.code in PASSING or error.code >= 500:
            after = error.headers.get("Retry-After", "")
            return _Passing(cause, float(after) if after.isdigit() else None)
        hint = ""
        if error.code in (401, 403):
            hint = say(f" Is {self.key_env} set to your key?", f" 환경 변수 {self.key_env}에 키를 넣었나요?")
        return SourceError(say(f"{self.url} refuses: {cause}.", f"{self.url}에서 거절했습니다: {cause}.") + hint)
