"""``generate``: one loop for greedy search, sampling and beam search."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hunmin.aliases import RENAMED
from hunmin.errors import InputError, say, warn_once
from hunmin.generate import processors, stopping
from hunmin.generate.beams import Beams
from hunmin.generate.config import DEFAULTS, IGNORED, REFUSED, GenerationConfig, refuse, unknown
from hunmin.generate.prompt import end_ids, limits, longest, prepare
from hunmin.generate.sampling import Rows, Rules, dice, drawn, seeded
from hunmin.generate.steps import PagedSteps, Steps, build
from hunmin.native.choose import Choice, Chosen, choose
from hunmin.output import Output

if TYPE_CHECKING:
    from hunmin.generate.streamers import BaseStreamer
    from hunmin.model import PreTrainedModel
    from hunmin.text import Tokenizer


def generate(
    model: PreTrainedModel,
    inputs: Tensor | Mapping[str, Tensor] | None = None,
    *,
    generation_config: GenerationConfig | None = None,
    streamer: BaseStreamer | None = None,
    logits_processor: Iterable[processors.Processor] | None = None,
    stopping_criteria: Iterable[stopping.Criterion] | None = None,
    prefix_allowed_tokens_fn: Callable[[int, Tensor], list[int]] | None = None,
    tokenizer: Tokenizer | None = None,
    seed: int | None = None,
    generator: torch.Generator | None = None,
    **options: Any,
) -> Any:
    """Continue a prompt, or translate, summarize, … with an encoder-decoder.

    Settings: the defaults, then the model's, then those of ``generation_config``, then ``options``; the last one counts.
    Padding may stand on either side; rows padded on the right come back with it on the left.

    Args:
        inputs: ids ``(B, N)``, also as ``input_ids``, or all that a tokenizer returned; None starts from ``bos_token_id``.
        streamer: gets every token when it is known; one row, no beams.
        logits_processor: functions ``(ids, scores) -> scores``.
        stopping_criteria: functions ``(ids, scores) -> bool`` or bool tensor ``(R,)``.
        prefix_allowed_tokens_fn: the ids that may come next, by row of the batch and its ids so far.
        tokenizer: needed by ``stop_strings``.
        seed: makes sampling repeatable; without it random numbers come from ``generator``, or from PyTorch's global ones.
        options: ``attention_mask``, ``decoder_input_ids``, ``encoder_outputs``, ``past_key_values``, all of :class:`GenerationConfig`.

    Returns:
        Ids ``(B * num_return_sequences, N)``, with the prompt of the decoder; rows that end early are filled with ``pad_token_id``.
        With ``return_dict_in_generate`` an Output with ``sequences``, and on request ``scores``, ``logits``, ``sequences_scores``.

    Raises:
        InputError: unknown, unsupported or contradictory options, empty input, a prompt that is longer than the model's context.
        FormatError: the model computes NaN.
    """
    try:
        with torch.inference_mode():
            options, inputs = ({**inputs, **options}, None) if isinstance(inputs, Mapping) else (options, inputs)
            config, told = settings(model, generation_config, options)
            cache = options.pop("past_key_values", None)
            prompt = prepare(model, inputs, config, options)
            if options:
                raise unknown(next(iter(options)))
            start, copies = prompt.ids.shape[1], max(config.num_beams, config.num_return_sequences)
            config.max_length = longest(model, config, start, told)
            chance = _chance(config, seed, generator, len(prompt.ids) * copies, model.device)
            stops = stopping.build(config, start, stopping_criteria or (), tokenizer, model.device)
            rules = Rules(start, config.max_length, _fill(config), stops, config.do_sample, chance)
            search = _begin(prompt.ids.repeat_interleave(copies, 0), rules, config, streamer is not None)
            process = processors.build(config, prompt, copies, logits_processor or (), prefix_allowed_tokens_fn)
            steps = build(model, prompt, config, cache, copies)
            record = _decode(steps, search, process, config, streamer)
    except BaseException as error:
        getattr(streamer, "error", _silent)(error)  # whoever reads the other end must not wait for ever
        raise
    sequences, scores = (t.clone() if t is not None else None for t in search.result())  # no inference tensors: training may follow
    more = {"sequences_scores": scores, **record}
    return Output(sequences=sequences, **more, past_key_values=steps.cache) if config.return_dict_in_generate else sequences


def _silent(error: BaseException) -> None:
    """For streamers that do not care."""


def _chance(
    config: GenerationConfig, seed: int | None, generator: torch.Generator | None, rows: int, device: torch.device
) -> torch.Generator | list[torch.Generator] | None:
    """Where random numbers come from: one source for all rows, or where they must not depend on each other one a row."""
    source = seeded(seed, generator, device)
    if config.deterministic and config.do_sample:
        return dice(seed if seed is not None else drawn(source), range(rows), device)
    return source


def _begin(rows: Tensor, rules: Rules, config: GenerationConfig, streamed: bool) -> Rows | Beams:
    if config.num_beams == 1:
        return Rows(rows, rules)
    if streamed:
        raise InputError(
            say(
                "A streamer cannot be used with beams: set num_beams=1.",
                "스트리머는 빔 서치와 함께 쓸 수 없습니다. num_beams=1로 정하세요.",
            )
        )
    return Beams(rows, rules, config, len(end_ids(config)))


def settings(model: PreTrainedModel, own: GenerationConfig | None, options: dict[str, Any]) -> tuple[GenerationConfig, bool]:
    """The settings of this call, and whether the user set a length; takes the settings out of ``options``. Raises InputError."""
    if not model.can_generate():
        raise InputError(
            say(
                f"This model was loaded for {model.task} and cannot generate: load it with AutoModelForCausalLM or AutoModelForSeq2SeqLM.",
                f"이 모델은 {model.task}용이라 생성할 수 없습니다. AutoModelForCausalLM이나 AutoModelForSeq2SeqLM으로 불러오세요.",
            )
        )
    for name in [*options]:
        value = options.pop(name)
        name = RENAMED.get(name, name)
        if name in DEFAULTS or name in REFUSED or (value is not None and name not in IGNORED):
            options[name] = value
    told = {k: options.pop(k) for k in [*options] if k in DEFAULTS or k in REFUSED}
    config = (own or GenerationConfig()).over(model.generation_config)
    for name, value in config.extras.items():  # a model's file may ask for what we do not have
        if name in REFUSED:
            refuse(name, value)
    config.update(**told)
    lengths = [k for k in ("max_length", "max_new_tokens") if told.get(k) is not None or (own is not None and k in own.given)]
    if len(lengths) > 1:
        warn_once(
            say(
                "max_new_tokens and max_length are both set; max_new_tokens counts.",
                "max_new_tokens와 max_length가 모두 있어 max_new_tokens를 따릅니다.",
            )
        )
    elif lengths == ["max_length"]:
        config.max_new_tokens = None  # the one of this call counts, not the model's
    many, beams = config.num_return_sequences, config.num_beams
    if many > beams and (beams > 1 or not config.do_sample):
        raise InputError(
            say(
                f"num_return_sequences={many} needs num_beams={many} or more, or do_sample=True without beams.",
                f"num_return_sequences={many}에는 num_beams={many} 이상이나, 빔 없는 do_sample=True가 필요합니다.",
            )
        )
    return config, bool(lengths)


def _fill(config: GenerationConfig) -> int:
    """What follows the end of a row: padding, else the end token again."""
    return config.pad_token_id if config.pad_token_id is not None else (end_ids(config) or [0])[0]


def _decode(
    steps: Steps | PagedSteps,
    search: Rows | Beams,
    process: processors.LogitsProcessorList,
    config: GenerationConfig,
    streamer: BaseStreamer | None,
) -> dict[str, tuple[Tensor, ...] | None]:
    """Run until the search has ended; returns the scores and logits of every step, where they are wanted."""
    asked = {
        k: config.return_dict_in_generate and wanted for k, wanted in (("scores", config.output_scores), ("logits", config.output_logits))
    }
    kept: dict[str, list[Tensor]] = {"scores": [], "logits": []}
    soft = limits(steps.model)[1]
    if streamer is not None:
        streamer.put(steps.prompt.ids.cpu())
    logits, plain = steps.first(), not any(asked.values())
    vocab = logits.shape[1]
    choice = _choice(search, process, vocab) if plain else None
    found = (logits if choice is None else choose(logits, choice)).repeat_interleave(steps.copies, 0)
    while True:
        if isinstance(found, Chosen):
            more = search.take(found)
        else:
            scores = process(search.text(), search.normalized(found))
            for name, value in (("scores", scores), ("logits", found)):
                if asked[name]:
                    kept[name].append(value)
            more = search.advance(scores, tuple(kept["scores"]) if asked["scores"] else None)
        if streamer is not None:
            streamer.put(search.ids[:, search.length - 1].cpu())
        if not more:
            if streamer is not None:
                streamer.end()
            return {name: tuple(values) if asked[name] else None for name, values in kept.items()}
        if soft is not None and search.length > soft:
            _warn_long(soft)
        fewer = plain and steps.drops(search.alive)
        choice = _choice(search, process, vocab) if plain else None
        found = steps.next(search.text(), search.origin, search.live if fewer else None, choice)


def _choice(search: Rows | Beams, process: processors.LogitsProcessorList, vocab: int) -> Choice | None:
    """What the search needs of the next step, where nobody looks at all scores."""
    forbidden = None if search.rules.sample else processors.forbidden(process, search.length, vocab)
    return None if forbidden is None else search.choice(tuple(forbidden[0]), forbidden[1], vocab)


def _warn_long(limit: int) -> None:
    warn_once(
        say(
            f"The text is longer than the {limit} tokens that this model was made for; its quality may suffer.",
            f"이 모델이 다루도록 만들어진 {limit}토큰보다 텍스트가 길어 품질이 떨어질 수 있습니다.",
        )
    )
