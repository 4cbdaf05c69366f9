"""``generate``: one loop for greedy search, sampling and beam search."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hunmin.aliases import RENAMED
from hunmin.errors import InputError, say, warn_once
from hunmin.generate import processors
from hunmin.generate.beams import Beams
from hunmin.generate.config import DEFAULTS, IGNORED, REFUSED, GenerationConfig, refuse, unknown
from hunmin.generate.prompt import Prompt, end_ids, limits, longest, prepare
from hunmin.generate.sampling import Rows, Rules, seeded
from hunmin.generate.stopping import Criterion, StoppingCriteriaList, after, ends_with, says
from hunmin.nn.cache import Cache
from hunmin.output import Output

if TYPE_CHECKING:
    from hunmin.generate.streamers import BaseStreamer
    from hunmin.model import PreTrainedModel
    from hunmin.text import Tokenizer


def generate(
    model: PreTrainedModel,
    inputs: Tensor | None = None,
    *,
    generation_config: GenerationConfig | None = None,
    streamer: BaseStreamer | None = None,
    logits_processor: Iterable[processors.Processor] | None = None,
    stopping_criteria: Iterable[Criterion] | None = None,
    prefix_allowed_tokens_fn: Callable[[int, Tensor], list[int]] | None = None,
    tokenizer: Tokenizer | None = None,
    seed: int | None = None,
    generator: torch.Generator | None = None,
    **options: Any,
) -> Any:
    """Continue a prompt, or translate, summarize, … with an encoder-decoder.

    Settings come from the defaults, the model's ``generation_config``, ``generation_config`` and ``options``, the later ones first.
    Padding may stand on either side; rows padded on the right come back with it on the left.

    Args:
        model: a CausalLM or Seq2SeqLM.
        inputs: ids ``(B, N)``, also as ``input_ids``; None starts from ``bos_token_id``.
        generation_config: settings for this call.
        streamer: gets every token when it is known; one row, no beams.
        logits_processor: functions ``(ids, scores) -> scores``.
        stopping_criteria: functions ``(ids, scores) -> bool`` or bool tensor ``(R,)``.
        prefix_allowed_tokens_fn: the ids that may come next, by row of the batch and its ids so far.
        tokenizer: needed by ``stop_strings``.
        seed: makes sampling repeatable; without it PyTorch's global random numbers are used, or those of ``generator``.
        generator: see ``seed``.
        options: ``attention_mask``, ``decoder_input_ids``, ``encoder_outputs``, ``past_key_values`` (a ``Cache`` of the first tokens), and
            every setting of :class:`GenerationConfig`.

    Returns:
        Ids ``(B * num_return_sequences, N)``, with the prompt of the decoder; rows that end early are filled with ``pad_token_id``.
        With ``return_dict_in_generate`` an Output with ``sequences``, and on request ``scores``, ``logits``, ``sequences_scores``.

    Raises:
        InputError: unknown, unsupported or contradictory options, empty input, a prompt that is longer than the model's context.
        FormatError: the model computes NaN.
    """
    try:
        with torch.inference_mode():
            config, told = _settings(model, generation_config, options)
            if streamer is not None and config.num_beams > 1:
                raise InputError(say("A streamer cannot be used with beams: set num_beams=1.", "스트리머는 빔 서치와 함께 쓸 수 없습니다. num_beams=1로 정하세요."))
            past = options.pop("past_key_values", None)
            prompt = prepare(model, inputs, config, options)
            for name, value in options.items():
                if value is not None:
                    raise unknown(name)
            config.max_length, length = longest(model, config, prompt.ids.shape[1], told), prompt.ids.shape[1]
            copies = max(config.num_beams, config.num_return_sequences)
            eos, padding = end_ids(config), prompt.padding
            process = processors.build(
                config,
                eos,
                length,
                config.max_length,
                (prompt.source, prompt.real),
                padding.repeat_interleave(copies) if padding is not None else None,
                logits_processor or (),
                prefix_allowed_tokens_fn,
            )
            stops = StoppingCriteriaList([ends_with(eos, model.device)] if eos else [])
            stops += [after(config.max_time)] if config.max_time is not None else []
            stops += [says(config.stop_strings, tokenizer, length)] if config.stop_strings else []
            stops += stopping_criteria or []
            rules = Rules(length, config.max_length, _fill(config, eos), stops, config.do_sample, seeded(seed, generator, model.device))
            rows = prompt.ids.repeat_interleave(copies, 0)
            search = Beams(rows, rules, config, len(eos)) if config.num_beams > 1 else Rows(rows, rules)
            steps = Steps(model, prompt, (past if past is not None else Cache()) if config.use_cache else None, copies)
            record = _decode(steps, search, process, config, streamer)
            sequences, scores = search.result()
        # Cloned outside of inference mode: a training step may want to use them.
        sequences = sequences.clone()
    except BaseException as error:
        if hasattr(streamer, "error"):
            streamer.error(error)  # whoever reads the other end must not wait for ever
        raise
    if streamer is not None:
        streamer.end()
    if not config.return_dict_in_generate:
        return sequences
    return Output(
        sequences=sequences,
        sequences_scores=scores.clone() if scores is not None else None,
        scores=tuple(t.clone() for t in record["scores"]) if config.output_scores else None,
        logits=tuple(t.clone() for t in record["logits"]) if config.output_logits else None,
        past_key_values=steps.cache,
    )
