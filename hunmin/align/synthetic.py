"""Preference pairs without people: a model answers several times and a judge chooses, or a strong model is set against a weak one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hunmin.align.files import Journal
from hunmin.align.formats import Row, Which, as_messages, is_messages, pair, score_pairs
from hunmin.align.judge import Judge
from hunmin.errors import InputError, logger, say

if TYPE_CHECKING:
    from hunmin.model import PreTrainedModel
    from hunmin.text import Tokenizer


def draw(
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    prompts: Sequence[Any],
    count: int = 4,
    *,
    seed: int = 0,
    kept: Journal | None = None,
    **generation: Any,
) -> list[list[str]]:
    """``count`` answers of a model to each prompt, sampled through the engine.

    Args:
        prompts: texts, which are continued, or messages, which go through the chat template.
        kept: keeps the answers to each prompt as soon as they are there; the same call goes on after those.
        generation: settings of :class:`hunmin.GenerationConfig` over ``do_sample=True, max_new_tokens=256``.

    Raises InputError for settings that the engine does not take, and a conversation without a chat template.
    """
    from hunmin.generate.engine import Engine

    settings: dict[str, Any] = {"do_sample": True, "max_new_tokens": 256, **generation, "num_return_sequences": count}
    kept = kept if kept is not None else Journal(None)
    keys = [_key(model, prompt, {**settings, "seed": seed}) for prompt in prompts]
    open_ = {key: prompt for key, prompt in zip(keys, prompts, strict=True) if key not in kept}
    if open_:
        ids = [_ids(tokenizer, prompt) for prompt in open_.values()]
        engine = Engine(model, tokenizer=tokenizer, **settings)
        waiting = list(open_)
        for result in engine.run(ids, seed=seed):
            kept.add(waiting[result.index], [str(tokenizer.decode(new, skip_special_tokens=True)) for new in result.new])
    return [list(kept[key]) for key in keys]


def _key(model: Any, prompt: Any, settings: Mapping[str, Any]) -> str:
    about = json.dumps([str(getattr(model, "name_or_path", "")), prompt, settings], sort_keys=True, default=str, ensure_ascii=False)
    return hashlib.sha256(about.encode("utf-8", "surrogatepass")).hexdigest()


def _ids(tokenizer: Tokenizer, prompt: Any) -> list[int]:
    if is_messages(prompt):
        return list(tokenizer.apply_chat_template(as_messages(prompt), add_generation_prompt=True, return_dict=False))
    ids = list(tokenizer(prompt)["input_ids"])
    return ids[:-1] if len(ids) > 1 and ids[-1] == tokenizer.eos_token_id else ids  # a text that goes on has no end


def judged_pairs(
    prompts: Sequence[Any],
    answers: Sequence[Sequence[Any]],
    judge: Judge,
    which: Which = "best-random",
    *,
    least: float = 0.0,
    seed: int = 0,
) -> list[Row]:
    """Of several answers to each prompt the best against a random other one under a judge: UltraFeedback's pairs (Cui et al. 2023), with
    which Zephyr was aligned (dDPO; Tunstall et al. 2023, section 3.2).

    Args:
        answers: of each prompt, from one model or several. Equal ones are judged once, and never against each other.
        which: the others are in ``formats.score_pairs``.
        least: pairs whose scores differ by this or less are left out; they teach noise.

    Raises InputError when no pair is left, and as the judge does.
    """
    distinct = [_distinct(several) for several in answers]
    flat = [(prompt, answer) for prompt, several in zip(prompts, distinct, strict=True) for answer in several]
    scores = iter(judge.score([prompt for prompt, _ in flat], [answer for _, answer in flat]))
    rows: list[Row] = []
    for place, (prompt, several) in enumerate(zip(prompts, distinct, strict=True)):
        rows += score_pairs(prompt, several, [next(scores) for _ in several], which, least=least, seed=f"{seed} {place}")
    return _some(rows, len(prompts), say("all answers alike to the judge", "심판에게 모두 같은 답"))


def strong_versus_weak(prompts: Sequence[Any], strong: Sequence[Any], weak: Sequence[Any]) -> list[Row]:
    """The answer of a strong model against that of a weak one, without any judge: orca_dpo_pairs, with which neural-chat was aligned.

    Raises InputError for lists of unequal length, and when all answers are the same.
    """
    if not len(prompts) == len(strong) == len(weak):
        raise InputError(
            say(
                f"{len(prompts)} prompts need as many strong ({len(strong)}) and weak ({len(weak)}) answers.",
                f"프롬프트 {len(prompts)}개에 강한 답({len(strong)})과 약한 답({len(weak)})도 그만큼 필요합니다.",
            )
        )
    rows = [pair(prompt, better, worse) for prompt, better, worse in zip(prompts, strong, weak, strict=True) if better != worse]
    return _some(rows, len(prompts), say("the same answer twice", "같은 답 두 번"))


def _distinct(answers: Sequence[Any]) -> list[Any]:
    return [
        answer for place, answer in enumerate(answers) if answer not in answers[:place] and (not isinstance(answer, str) or answer.strip())
    ]


def _some(rows: list[Row], prompts: int, why: str) -> list[Row]:
    without = prompts - len({json.dumps(row["prompt"], sort_keys=True, default=str) for row in rows})
    if not rows:
        raise InputError(
            say(f"None of {prompts} prompts gives a pair: {why}.", f"프롬프트 {prompts}개에서 쌍이 하나도 나오지 않습니다: {why}.")
        )
    if without > 0:
        logger.warning(
            say(f"{without} of {prompts} prompts give no pair: {why}.", f"프롬프트 {prompts}개 중 {without}개는 쌍이 없습니다: {why}.")
        )
    return rows
