"""The model as users know it: Hugging Face keyword arguments at the door, blocks behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hunmin.arch import FAMILIES, architecture
from hunmin.errors import InputError, say
from hunmin.hub import weights
from hunmin.hub.config import Config
from hunmin.hub.names import Names
from hunmin.hub.tensors import write_tensors
from hunmin.nn.attention import Trace
from hunmin.nn.cache import Cache
from hunmin.nn.heads import LMHead
from hunmin.nn.losses import (
    IGNORE,
    chunked_loss,
    classification_loss,
    multiple_choice_loss,
    next_token_loss,
    next_tokens,
    replaced_token_loss,
    span_loss,
    token_loss,
)
from hunmin.nn.model import Batch, Model, Result, Tokens
from hunmin.nn.where import Where
from hunmin.output import Output
from hunmin.places import check_packing, memory_of, placed
from hunmin.quantize import Packed, dequantize_linears
from hunmin.quantize.plan import describe

if TYPE_CHECKING:
    from hunmin.generate import GenerationConfig
    from hunmin.hub.files import Source


class PreTrainedModel(Model):
    """A model of ``config`` for ``task`` ("CausalLM", "SequenceClassification", …; "Model" is the bare body).

    Shapes: B sequences, N tokens, C width, V vocabulary, L labels.
    """

    def __init__(self, config: Config, task: str = "Model") -> None:
        super().__init__(*weights.parts(config, task))
        self.config, self.task, self.name_or_path = config, task, ""
        self.source: Source | None = None  # where it was loaded from
        self.generation_config: GenerationConfig | None = None
        self.tie_weights()

    # -------------------------------------------------------------- facts

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(p.dtype for p in self.parameters() if p.is_floating_point())

    @property
    def both(self) -> bool:
        """Whether this is an encoder-decoder model."""
        return self.encoder is not None and self.decoder is not None

    @property
    def architecture(self) -> str:
        """The class name that ``config.json`` gives to this model."""
        return Names(self.config, self.task).class_name

    def can_generate(self) -> bool:
        return self.task in ("CausalLM", "Seq2SeqLM")

    def num_parameters(self, only_trainable: bool = False) -> int:
        packed = {m.codes.data_ptr(): m.form[0] for m in self.modules() if isinstance(m, Packed)}
        frozen = 0 if only_trainable else sum(rows * columns for rows, columns in packed.values())
        return frozen + sum(p.numel() for p in self.parameters() if p.requires_grad or not only_trainable)

    def get_memory_footprint(self) -> int:
        """Bytes of the weights, quantized or not."""
        held = {t.data_ptr(): t.numel() * t.element_size() for t in (*self.parameters(), *self.buffers())}
        return sum(held.values())

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: Any = None) -> None:
        """Compute activations again for the gradients instead of keeping them: less memory, about a third more time."""
        for backbone in filter(None, (self.encoder, self.decoder)):
            backbone.stack.recompute = True

    def gradient_checkpointing_disable(self) -> None:
        for backbone in filter(None, (self.encoder, self.decoder)):
            backbone.stack.recompute = False

    def get_input_embeddings(self) -> nn.Embedding:
        backbone = self.encoder or self.decoder
        assert backbone is not None
        return backbone.embed.tokens

    def get_output_embeddings(self) -> nn.Linear | None:
        return getattr(self.head, "out", None) if self.task in ("CausalLM", "MaskedLM", "Seq2SeqLM") else None

    def tie_weights(self) -> None:
        weights.tie(self, weights.ties(self.config, self.task))

    def resize_token_embeddings(self, new_num_tokens: int | None = None) -> nn.Embedding:
        """Grow or shrink the vocabulary; new rows start at the mean of the old ones (Hewitt 2021), so they disturb nothing.

        A quantized embedding and a quantized projection to the vocabulary become ordinary ones: what is new has to be trained.
        """
        old = self.get_input_embeddings()
        if new_num_tokens is None or new_num_tokens == old.num_embeddings:
            return old
        if unpacked := dequantize_linears(self, only=("encoder.embed.tokens", "decoder.embed.tokens", "head.out")):
            for name in unpacked:
                self.get_submodule(name).requires_grad_(True)
        tied = {a: b for a, b in weights.ties(self.config, self.task).items() if self.get_parameter(a) is self.get_parameter(b)}
        for backbone in filter(None, (self.encoder, self.decoder)):
            backbone.embed.tokens.weight = _resized(backbone.embed.tokens.weight, new_num_tokens)
            backbone.embed.tokens.num_embeddings = new_num_tokens
            object.__setattr__(backbone.embed.spec, "vocab", new_num_tokens)
        if (out := self.get_output_embeddings()) is not None:
            out.out_features = new_num_tokens
            for leaf, p in list(out.named_parameters()):
                if leaf == "bias" or "head.out.weight" not in tied:
                    setattr(out, leaf, _resized(p, new_num_tokens))
        self.config["vocab_size"] = new_num_tokens
        weights.tie(self, tied)
        return self.get_input_embeddings()

    # -------------------------------------------------------------- forward

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        encoder_outputs: Any = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        logits_to_keep: int | Tensor | None = 0,
        where: Where | None = None,
        decoder_where: Where | None = None,
        loss_only: bool = False,
    ) -> Any:
        """One forward pass; ``labels`` (or start and end positions) add the loss. Ids and masks are ``(B, N)``.

        ``where`` replaces mask and positions, e.g. ``Where.packed([5, 9])`` for two sequences in one row without padding. ``loss_only``
        gives a language model's loss without its logits, ``logits_to_keep`` those of the last tokens or some columns; None runs no head.
        Raises InputError for ids outside the vocabulary, empty input, and sequences longer than the model's positions.
        """
        if questions := self._questions(input_ids, labels):
            input_ids, attention_mask, token_type_ids = (_sequences(t) for t in (input_ids, attention_mask, token_type_ids))
        cache = past_key_values if past_key_values is not None else Cache() if use_cache and self.decoder is not None else None
        batch = Batch(keep=None if loss_only and labels is not None and isinstance(self.head, LMHead) else logits_to_keep)
        if self.encoder is not None:
            batch.memory = memory_of(encoder_outputs)
            seen = batch.memory if input_ids is None and inputs_embeds is None else inputs_embeds
            offset = self.encoder.embed.spec.offset
            if position_ids is not None and offset:  # RoBERTa's users count rows of the table, ours positions
                position_ids = torch.where(position_ids >= 0, (position_ids - offset).clamp(min=0), position_ids)
            place = placed(input_ids, seen, attention_mask, position_ids, None, where)
            batch.encoder = Tokens(place, input_ids, token_type_ids, inputs_embeds)
        if self.decoder is not None:
            if self.both and decoder_input_ids is None and decoder_inputs_embeds is None:
                taught = labels is not None and self.task == "Seq2SeqLM"
                decoder_where = decoder_where if taught else where
                decoder_input_ids = self.shift_right(labels if taught else input_ids, decoder_where)
            ids, embeds = (decoder_input_ids, decoder_inputs_embeds) if self.both else (input_ids, inputs_embeds)
            mask, at = (decoder_attention_mask, decoder_where) if self.both else (attention_mask, where)
            at = placed(ids, embeds, mask, None if self.both else position_ids, cache, at)
            check_packing(batch.encoder.at if batch.encoder is not None and cache is None else None, at)
            batch.decoder = Tokens(at, ids, None if self.both else token_type_ids, embeds)
        asked = (output_hidden_states, self.config.output_hidden_states), (output_attentions, self.config.output_attentions)
        states, attentions = (bool(stated) if told is None else told for told, stated in asked)
        result = self.run(batch, cache, states=states, weights=attentions)
        out = self._output(batch, result, cache, labels, (start_positions, end_positions), states, attentions)
        if questions:
            out.logits = out.logits.unflatten(0, (questions, -1))
        return out if return_dict is not False else out.to_tuple()

    def _questions(self, ids: Tensor | None, labels: Tensor | None) -> int:
        """How many questions a batch of multiple choice asks; 0 in other tasks. Their choices are ``(B, K, N)``, or sequences packed in a row."""
        if self.task != "MultipleChoice":
            return 0
        return len(labels) if labels is not None else len(ids) if ids is not None and ids.ndim == 3 else 1

    def shift_right(self, ids: Tensor | None, where: Where | None = None) -> Tensor:
        """Decoder input ``(B, N)`` for teacher forcing: the start token, then ``ids`` without the last; left-out labels become padding.

        In a row that ``where`` says is packed every sequence is shifted alone.
        """
        if ids is None:
            raise InputError(say("The decoder needs decoder_input_ids or labels.", "디코더에 decoder_input_ids나 labels가 필요합니다."))
        if where is not None and where.kind == "packed":
            return torch.cat([self.shift_right(ids[:, part]) for part, _ in where.parts()], 1)
        start, pad = self.config.decoder_start_token_id, self.config.pad_token_id
        first = torch.full_like(ids[:, :1], start if start is not None else pad)
        if architecture(self.config.model_type).wraps:
            real = (ids != pad) & (ids != IGNORE)
            first = ids.gather(1, ids.shape[1] - 1 - real.long().flip(-1).argmax(-1, keepdim=True))
        shifted = torch.cat([first, ids[:, :-1]], 1)
        return shifted.masked_fill(shifted == IGNORE, pad)

    def _output(
        self,
        batch: Batch,
        result: Result,
        cache: Cache | None,
        labels: Tensor | None,
        positions: tuple[Tensor | None, Tensor | None],
        states: bool,
        attentions: bool,
    ) -> Output:
        out, loss = result.out, None
        heads: dict[str, Any] = {}
        if self.task in ("Model", "TextEncoding"):
            heads = {"last_hidden_state": result.hidden, "pooler_output": out}
        elif out is not None and self.task == "QuestionAnswering":
            start, end = out[..., 0], out[..., 1]
            if positions[0] is not None and positions[1] is not None:
                read = batch.encoder or batch.decoder
                loss = _fitting(span_loss, start, end, *positions, read.at if read is not None else None)
            heads = {"loss": loss, "start_logits": start, "end_logits": end}
        elif out is not None:
            out = out.squeeze(-1) if self.task in ("PreTraining", "MultipleChoice") else out
            heads = {"loss": _fitting(self._loss, out, labels, batch) if labels is not None else None, "logits": out}
        elif labels is not None and batch.keep is None:
            heads = {"loss": _fitting(self._loss_alone, result.hidden, labels, batch)}
        else:
            heads = {"last_hidden_state": result.hidden}

        def seen(trace: Trace) -> tuple[Any, Any, Any]:
            pick = ((trace.hidden, states), (trace.attentions, attentions), (trace.cross, attentions))
            hidden, own, cross = (tuple(values) if wanted else None for values, wanted in pick)
            return hidden, own, cross

        hidden, own, cross = seen(result.trace)
        if not self.both:
            return Output(**heads, past_key_values=cache, hidden_states=hidden, attentions=own)
        encoder_hidden, encoder_own, _ = seen(result.encoder_trace)
        return Output(
            **heads,
            past_key_values=cache,
            decoder_hidden_states=hidden,
            decoder_attentions=own,
            cross_attentions=cross or None,
            encoder_last_hidden_state=result.memory,
            encoder_hidden_states=encoder_hidden or None,
            encoder_attentions=encoder_own or None,
        )

    def _loss(self, logits: Tensor, labels: Tensor, batch: Batch) -> Tensor:
        tokens = batch.decoder or batch.encoder
        assert tokens is not None
        match self.task:
            case "CausalLM":
                return next_token_loss(logits, labels, tokens.at.segment if tokens.at.kind == "packed" else None)
            case "MaskedLM" | "TokenClassification" | "Seq2SeqLM":
                return token_loss(logits, labels)
            case "PreTraining":
                return replaced_token_loss(logits, labels, tokens.at.segment)
            case "MultipleChoice":
                return multiple_choice_loss(logits, labels)
            case _:
                return classification_loss(logits, labels, self.config.problem_type)

    def _loss_alone(self, hidden: Tensor, labels: Tensor, batch: Batch) -> Tensor:
        """The loss of a language model from its hidden states ``(B, N, C)``, by labelled tokens only."""
        tokens = batch.decoder or batch.encoder
        assert tokens is not None and self.head is not None
        if labels.shape != hidden.shape[:2]:
            raise ValueError(f"shapes {tuple(labels.shape)} and {tuple(hidden.shape[:2])}")
        if self.task == "CausalLM":
            hidden, labels = hidden[:, :-1], next_tokens(labels, tokens.at.segment if tokens.at.kind == "packed" else None)
        known, head = (labels != IGNORE).to(hidden.device), self.head
        return chunked_loss(head, lambda part: head(part[None], tokens.at)[0], hidden[known], labels.to(hidden.device)[known])

    # -------------------------------------------------------------- generation, files

    def generate(self, inputs: Tensor | Mapping[str, Tensor] | None = None, **options: Any) -> Any:
        """Continue a prompt, or translate, summarize, … with an encoder-decoder: see :func:`hunmin.generate.generate`."""
        from hunmin.generate import generate

        return generate(self, inputs, **options)

    def save_pretrained(
        self, save_directory: str | Path, *, max_shard_size: int | str = "5GB", push_to_hub: bool = False, **hub: Any
    ) -> None:
        """Write config, weights (safetensors) and generation settings under Hugging Face names; ``transformers`` loads the folder.

        Quantized layers are written as they are, in a format of our own (docs/quantization.md).
        """
        folder = Path(save_directory)
        self.config["architectures"] = [self.architecture]
        self.config.drop("quantization_config")
        if (packed := describe(self)) is not None:
            self.config["quantization_config"] = packed
        self.config["dtype"] = self.dtype
        write_tensors(weights.export(self, self.config, self.task), folder, max_shard_size)
        self.config.save_pretrained(folder)
        if self.generation_config is not None:
            self.generation_config.save_pretrained(folder)
        if push_to_hub:
            from hunmin.hub.push import push_folder

            push_folder(folder, hub.pop("repo_id", folder.name), **hub)

    def push_to_hub(self, repo_id: str, **hub: Any) -> str:
        """Upload the model to ``repo_id``; returns the address of the commit. Options as in :func:`hunmin.hub.push.push_folder`."""
        import tempfile

        from hunmin.hub.push import push_folder

        shard = hub.pop("max_shard_size", "5GB")
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, max_shard_size=shard)
            return push_folder(Path(folder), repo_id, **hub)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **options: Any) -> PreTrainedModel:
        """A model for the task that its config names: see :class:`hunmin.auto.AutoModel` for the options."""
        from hunmin.auto import load

        return load(pretrained_model_name_or_path, None, **options)

    def extra_repr(self) -> str:
        return f"{FAMILIES[self.config.model_type][1]}, {self.task}"


def _fitting(loss: Callable[..., Tensor], *values: Any) -> Tensor:
    """A loss. Raises InputError when the labels do not fit the logits in shape, kind or range."""
    try:
        return loss(*values)
    except (IndexError, RuntimeError, ValueError) as error:
        if isinstance(error, InputError | torch.OutOfMemoryError):
            raise
        cause = str(error).split("\n")[0][:150]
        raise InputError(
            say(f"The labels do not fit the model's output: {cause}", f"labels가 모델의 출력과 맞지 않습니다: {cause}")
        ) from error


def _sequences(t: Tensor | None) -> Tensor | None:
    """``(B, K, N)`` as ``(B * K, N)``."""
    return t.flatten(0, 1) if t is not None and t.ndim == 3 else t


def _resized(old: Tensor, rows: int) -> nn.Parameter:
    new = old.new_empty(rows, *old.shape[1:])
    kept = min(rows, len(old))
    with torch.no_grad():
        new[:kept] = old[:kept]
        new[kept:] = old.float().mean(0).to(old.dtype)
    return nn.Parameter(new, requires_grad=old.requires_grad)
