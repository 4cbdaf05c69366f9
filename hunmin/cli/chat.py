"""``hunmin chat``: a conversation in the terminal, or one answer per line of a pipe."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hunmin.errors import FormatError, HunminError, SourceError, say
from hunmin.starters import SMOLLM2

if TYPE_CHECKING:
    from hunmin import PreTrainedModel, Tokenizer

MODEL = SMOLLM2  # needs no model hub
HELP = say(
    "Talk to a model. With a PROMPT, or from a pipe, print the answer and end.",
    "모델과 대화합니다. PROMPT나 파이프로 주면 답만 쓰고 끝납니다.",
)
EXAMPLES = (
    "\b\n"
    + say("Examples:", "예:")
    + (
        '\n  hunmin chat\n  hunmin chat "What is the capital of Japan?"'
        '\n  hunmin chat --model ./qwen3.gguf --system "Answer in one sentence." --temperature 0.7 --seed 1'
        "\n  cat questions.txt | hunmin chat"
        "\n  hunmin chat --compare ./before ./after --preferences chosen.jsonl"
    )
)
COMMANDS = {
    "/help": say("this list", "이 목록"),
    "/system [TEXT]": say("show or set the system prompt, and start over", "시스템 프롬프트를 보거나 바꾸고 새로 시작"),
    "/reset": say("forget the conversation", "대화를 잊음"),
    "/save FILE": say("write the conversation as JSON", "대화를 JSON으로 저장"),
    "/load FILE": say("continue a saved conversation", "저장한 대화를 이어서 진행"),
    "/quit": say("leave (Ctrl-D too)", "끝내기 (Ctrl-D도 가능)"),
}


def chat(
    prompt: Annotated[str | None, typer.Argument(metavar="PROMPT", show_default=False)] = None,
    model: Annotated[
        str,
        typer.Option(
            "--model", "-m", help=say("Folder, .gguf file, Hub id or pypi:NAME==VERSION.", "폴더, .gguf 파일, 허브 이름, pypi:이름==버전.")
        ),
    ] = MODEL,
    system: Annotated[str | None, typer.Option(help=say("System prompt.", "시스템 프롬프트."))] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help=say("Longest answer, in tokens.", "답의 최대 토큰 수."))] = 512,
    temperature: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help=say("0 takes the likeliest token; the model's own setting without it.", "0이면 가장 그럴듯한 토큰. 생략하면 모델의 설정."),
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help=say("Makes sampling repeatable.", "표본 추출을 되풀이할 수 있게 합니다."))] = None,
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(
            metavar="A B", help=say("Two models side by side: choose the better answer.", "두 모델을 나란히: 더 나은 답을 고릅니다.")
        ),
    ] = None,
    preferences: Annotated[Path, typer.Option(help=say("Where --compare adds the choices.", "--compare의 선택을 더할 파일."))] = Path(
        "preferences.jsonl"
    ),
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16, float16, auto")] = None,
) -> None:
    """Load ``model`` and answer ``prompt``, the lines of a pipe, or a person at the terminal."""
    if seed is not None:
        from hunmin import set_seed

        set_seed(seed)
    options = {"max_new_tokens": max_new_tokens} | _sampling(temperature)
    if compare is not None:
        from hunmin.cli.compare import Comparison
        from hunmin.cli.compare import compare as side_by_side

        both = load(compare[0], system=system, device=device, dtype=dtype), load(compare[1], system=system, device=device, dtype=dtype)
        for one in both:
            one.options = options
        side_by_side(Comparison(both, compare, preferences, random.Random(seed)), prompt)
        return
    talk = load(model, system=system, device=device, dtype=dtype)
    talk.options = options
    if prompt is not None:
        talk.answer(prompt)
    elif sys.stdin.isatty():
        _interactive(talk, model)
    else:
        for line in sys.stdin:
            if line.strip() and not talk.take(line.strip()):
                return


def load(model: str, *, system: str | None = None, device: str | None = None, dtype: str | None = None) -> Conversation:
    """A conversation with ``model`` that has not begun. Raises InputError or SourceError when the model cannot be loaded."""
    from hunmin import AutoModelForCausalLM, AutoTokenizer

    given = {"device": device, "dtype": dtype}
    tokenizer = AutoTokenizer.from_pretrained(model)
    if not tokenizer.chat_template:
        text = say(
            f"{model} has no chat template; `hunmin run text-generation --model {model}` continues plain text",
            f"{model}에는 대화 템플릿이 없습니다. `hunmin run text-generation --model {model}`로 글을 이어 쓸 수 있습니다",
        )
        raise FormatError(text)
    loaded = AutoModelForCausalLM.from_pretrained(model, **{k: v for k, v in given.items() if v is not None})
    talk = Conversation(loaded, tokenizer)
    talk.reset(system)
    return talk


def _sampling(temperature: float | None) -> dict[str, Any]:
    if temperature is None:
        return {}
    return {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}


@dataclass
class Conversation:
    """A model, what was said so far, and the arguments of ``generate``."""

    model: PreTrainedModel
    tokenizer: Tokenizer
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    messages: list[dict[str, str]] = field(default_factory=list[dict[str, str]])

    def reset(self, system: str | None) -> None:
        """Start over with ``system`` as the system prompt; None leaves it to the chat template."""
        self.messages = [] if system is None else [{"role": "system", "content": system}]

    @property
    def system(self) -> str | None:
        """The system prompt, None when it is left to the chat template."""
        return self.messages[0]["content"] if self.messages and self.messages[0]["role"] == "system" else None

    def answer(self, text: str) -> str:
        """Print the answer to ``text`` while it is written, and remember both. An interrupted question is forgotten."""
        from hunmin import TextStreamer

        self.messages.append({"role": "user", "content": text})
        try:
            inputs = self._prompt()
            streamer = TextStreamer(self.tokenizer, skip_prompt=True, skip_special_tokens=True)
            output = self.model.generate(**inputs, streamer=streamer, **self.options)
        except BaseException:
            self.messages.pop()
            raise
        reply = str(self.tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
        self.messages.append({"role": "assistant", "content": reply})
        return reply

    def reply(self, text: str) -> str:
        """The answer to ``text``; neither is printed or remembered."""
        self.messages.append({"role": "user", "content": text})
        try:
            inputs = self._prompt()
            output = self.model.generate(**inputs, **self.options)
        finally:
            self.messages.pop()
        return str(self.tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))

    def _prompt(self) -> Any:
        """The conversation as model inputs (1, N); the oldest questions are dropped when the model's context is too short for all."""
        room = int(self.model.config.get("max_position_embeddings") or 2**62) - int(self.options.get("max_new_tokens", 0))
        first = 0 if self.system is None else 1
        while True:
            inputs = self.tokenizer.apply_chat_template(self.messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
            if inputs["input_ids"].shape[1] <= room or len(self.messages) - first <= 1:
                return inputs.to(self.model.device)
            del self.messages[first : first + 2]

    def take(self, line: str) -> bool:
        """Answer a line or obey its /command. False when the conversation is over."""
        if not line.startswith("/"):
            self.answer(line)
            return True
        word, _, rest = line.partition(" ")
        rest = rest.strip()
        if word in ("/quit", "/exit"):
            return False
        does: dict[str, Callable[[str], None]] = {"/system": self._system, "/reset": self._reset, "/save": self._save, "/load": self._load}
        if word not in does:
            typer.echo("\n".join(f"  {name:16}{what}" for name, what in COMMANDS.items()))
            return True
        does[word](rest)
        return True

    def _system(self, text: str) -> None:
        if text:
            self.reset(text)
        typer.echo(self.system if self.system is not None else say("(the chat template's own)", "(대화 템플릿의 기본값)"))

    def _reset(self, _: str) -> None:
        self.reset(self.system)

    def _save(self, name: str) -> None:
        try:
            Path(name).write_text(json.dumps(self.messages, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise _unusable(name, error) from None

    def _load(self, name: str) -> None:
        try:
            read = json.loads(Path(name).read_text(encoding="utf-8"))
            self.messages = [{"role": str(m["role"]), "content": str(m["content"])} for m in read]
        except OSError as error:
            raise _unusable(name, error) from None
        except (ValueError, TypeError, KeyError):
            raise FormatError(
                say(f"{name} is not a conversation that /save wrote", f"{name}은(는) /save로 저장한 대화가 아닙니다")
            ) from None


def _unusable(name: str, error: OSError) -> SourceError:
    return SourceError(f"{name or say('no FILE given', 'FILE이 없습니다')}: {error.strerror}")


def _interactive(talk: Conversation, model: str) -> None:
    """Ask until /quit or Ctrl-D. Ctrl-C stops an answer; at the prompt it leaves."""
    _history()
    typer.echo(say(f"{model}. /help lists the commands.", f"{model}. /help를 치면 명령을 보여 줍니다."))
    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            typer.echo()
            return
        try:
            if line and not talk.take(line):
                return
        except KeyboardInterrupt:
            typer.echo()
        except HunminError as error:
            typer.echo(f"{say('error', '오류')}: {error}", err=True)


def _history() -> None:
    """Arrow keys bring back earlier lines, also those of the last session. Not every Python has readline."""
    try:
        import readline
    except ImportError:
        return
    import atexit

    path = Path(typer.get_app_dir("hunmin")) / "chat_history"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        readline.read_history_file(path)
    except OSError:
        return
    readline.set_history_length(1000)
    atexit.register(readline.write_history_file, path)
