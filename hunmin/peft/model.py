"""``PeftModel``: a base model and its adapters, as PEFT's users know it."""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hunmin.adapters import BASE, Adapters, Prefix, Prompt, freeze
from hunmin.adapters.prompts import moved
from hunmin.errors import InputError, say
from hunmin.generate import generate
from hunmin.model import PreTrainedModel
from hunmin.nn.attention import Context
from hunmin.nn.cache import Cache
from hunmin.nn.embed import TokenEmbedding
from hunmin.nn.losses import IGNORE
from hunmin.nn.model import Tokens
from hunmin.nn.where import Where
from hunmin.peft import build, files
from hunmin.peft.config import LoraConfig, PeftConfig
from hunmin.places import placed


class RowCache(Cache):
    """A cache that tells the adapters which rows go on: beams are copied, ended rows leave."""

    def __init__(self, adapters: Adapters) -> None:
        super().__init__()
        self._adapters = adapters

    def pick(self, rows: Tensor, *, cross: bool = True) -> None:
        super().pick(rows, cross=cross)
        names = self._adapters.switch.rows
        if names is not None:
            self._adapters.switch.rows = [names[i] for i in rows.tolist()]


class PeftModel(nn.Module):
    """``base_model`` with adapters. The base is frozen; of the adapters the active ones are trained.

    What is not here (``config``, ``device``, ``get_input_embeddings`` …) is the base model's.
    """

    base_model: PreTrainedModel

    def __init__(
        self, model: PreTrainedModel, peft_config: PeftConfig, adapter_name: str = "default", *, made: build.Made | None = None
    ) -> None:
        """``made`` is the adapter where it was read from a folder; without it a fresh one is made."""
        super().__init__()
        made = made or build.make(_plain(model), peft_config)
        self.base_model, self.adapters = model, Adapters(model)
        self.virtual = nn.ModuleDict()  # prompts and prefixes by adapter
        self.peft_config: dict[str, Any] = {}
        freeze(model)
        self.join(adapter_name, made)
        self.set_adapter(adapter_name)
        self.train(model.training)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base_model":
                raise
            return getattr(self.base_model, name)

    # -------------------------------------------------------------- which adapters there are, and which act

    @property
    def active_adapters(self) -> list[str]:
        return list(self.adapters.switch.active)

    @property
    def active_adapter(self) -> str:
        """The first that acts. Raises InputError when none does."""
        if not self.active_adapters:
            raise InputError(say("No adapter acts: choose one with set_adapter.", "활성 어댑터가 없습니다. set_adapter로 고르세요."))
        return self.active_adapters[0]

    @property
    def active_peft_config(self) -> Any:
        return self.peft_config[self.active_adapter]

    def get_base_model(self) -> PreTrainedModel:
        return self.base_model

    def add_adapter(self, adapter_name: str, peft_config: PeftConfig) -> None:
        """A fresh adapter beside those that are there; it acts after :meth:`set_adapter`. Raises InputError for what does not fit."""
        self.join(adapter_name, build.make(self.base_model, peft_config))

    def join(self, adapter_name: str, made: build.Made) -> None:
        """Put a finished adapter beside those that are there."""
        self.adapters.add(adapter_name, made.parts)
        if made.virtual is not None:
            self.virtual[adapter_name] = made.virtual
        self.peft_config[adapter_name] = made.config
        self._trained(self.active_adapters)

    def set_adapter(self, adapter_name: str | Sequence[str]) -> None:
        """Let these adapters act; of prompts and prefixes, one. Raises InputError for a name that is not there."""
        names = [adapter_name] if isinstance(adapter_name, str) else list(adapter_name)
        self._known(names)
        if sum(name in self.virtual for name in names) > 1:
            raise InputError(say("Only one prompt or prefix can act at a time.", "프롬프트나 프리픽스는 한 번에 하나만 쓸 수 있습니다."))
        self._trained(names)

    def _trained(self, names: Sequence[str]) -> None:
        """Let ``names`` act, and train those of them that are not for inference only, with their biases of the base."""
        self.adapters.use(names)
        learning = [name for name in names if not self.peft_config[name].inference_mode]
        for name, config in self.peft_config.items():
            self.adapters[name].requires_grad_(name in learning)
            if name in self.virtual:
                self.virtual[name].requires_grad_(name in learning)
            for bias in build.biases(self.base_model, config, self.adapters.at(name)):
                self.base_model.get_parameter(bias).requires_grad_(name in learning)

    def delete_adapter(self, adapter_name: str) -> None:
        self._known([adapter_name])
        self.adapters.remove(adapter_name)
        if adapter_name in self.virtual:
            del self.virtual[adapter_name]
        del self.peft_config[adapter_name]

    def _known(self, names: Sequence[str], also: Sequence[str] = ()) -> None:
        for name in names:
            if name not in self.peft_config and name not in also:
                has = ", ".join(self.peft_config) or "-"
                raise InputError(
                    say(f"There is no adapter {name!r}. There are: {has}.", f"어댑터 {name!r}이(가) 없습니다. 있는 것: {has}.")
                )

    @contextmanager
    def disable_adapter(self) -> Generator[None]:
        """The base model alone, for the length of a ``with``. Biases that were trained in place stay trained."""
        with self.adapters.disabled():
            yield

    def add_weighted_adapter(
        self,
        adapters: Sequence[str],
        weights: Sequence[float],
        adapter_name: str,
        combination_type: str = "linear",
        svd_rank: int | None = None,
    ) -> None:
        """A new LoRA adapter from several: "linear" (as PEFT), "cat" (the exact sum) or "svd" (its best approximation)."""
        self._known(adapters)
        if not adapters or len(adapters) != len(weights):
            raise InputError(
                say(
                    f"add_weighted_adapter needs one weight an adapter: {len(adapters)} adapters, {len(weights)} weights.",
                    f"어댑터마다 가중치가 하나씩 필요합니다: 어댑터 {len(adapters)}개, 가중치 {len(weights)}개.",
                )
            )
        if other := [name for name in adapters if not isinstance(self.peft_config[name], LoraConfig)]:
            raise InputError(say(f"{other[0]} is not a LoRA adapter.", f"{other[0]}은(는) LoRA 어댑터가 아닙니다."))
        config, parts = build.weighted(self.base_model, self.adapters, self.peft_config, adapters, weights, combination_type, svd_rank)
        self.join(adapter_name, build.Made(config, parts))

    # -------------------------------------------------------------- merging

    def merge_adapter(self, adapter_names: Sequence[str] | None = None) -> None:
        """Fold adapters into the base's weights; meanwhile no others of layers act. :meth:`unmerge_adapter` puts the originals back, exactly."""
        names = list(adapter_names) if adapter_names is not None else self.active_adapters
        self._known(names)
        if virtual := [name for name in names if name in self.virtual]:
            raise InputError(
                say(
                    f"{virtual[0]} is made of virtual tokens, which no weight can hold.",
                    f"{virtual[0]}은(는) 가상 토큰이라 가중치에 병합할 수 없습니다.",
                )
            )
        self.adapters.merge(names)

    def unmerge_adapter(self) -> None:
        self.adapters.unmerge()

    def merge_and_unload(self, adapter_names: Sequence[str] | None = None) -> PreTrainedModel:
        """The base model with the adapters in its weights; this object is of no further use."""
        self.adapters.unmerge()
        tied = build.tied(self.base_model)
        self.merge_adapter(adapter_names)
        try:
            build.untie(self.base_model, tied)
        except InputError:
            self.adapters.unmerge()
            raise
        self.adapters.detach(keep_merged=True)
        return self.base_model

    def unload(self) -> PreTrainedModel:
        """The base model as it was."""
        self.adapters.unmerge()
        self.adapters.detach()
        return self.base_model

    # -------------------------------------------------------------- numbers

    def get_nb_trainable_parameters(self) -> tuple[int, int]:
        """Trained parameters, and all."""
        sizes = [(p.numel(), p.requires_grad) for p in self.parameters()]
        return sum(n for n, trained in sizes if trained), sum(n for n, _ in sizes)

    def num_parameters(self, only_trainable: bool = False) -> int:
        return self.get_nb_trainable_parameters()[0 if only_trainable else 1]

    def print_trainable_parameters(self) -> None:
        trained, everything = self.get_nb_trainable_parameters()
        print(f"trainable params: {trained:,d} || all params: {everything:,d} || trainable%: {100 * trained / everything:.4f}")

    # -------------------------------------------------------------- forward

    def _mixed(self, adapter_names: Sequence[str] | None) -> Any:
        if adapter_names is None:
            return nullcontext()
        self._known(adapter_names, (BASE,))
        if self.training or any(name in self.virtual for name in (*adapter_names, *self.active_adapters)):
            raise InputError(
                say(
                    "adapter_names is for inference (model.eval()) with adapters of layers, not prompts or prefixes.",
                    "adapter_names는 추론(model.eval())에서, 프롬프트나 프리픽스가 아닌 층 어댑터에만 쓸 수 있습니다.",
                )
            )
        return self.adapters.mixed(adapter_names)

    def _acting(self) -> Any:
        """The prompt or prefix that acts, or None."""
        if self.adapters.switch.off and not self.adapters.merged:
            return None
        return next((self.virtual[name] for name in self.active_adapters if name in self.virtual), None)

    @property
    def virtual_tokens(self) -> int:
        """How many tokens a prompt or prefix that acts puts in front of the text."""
        virtual = self._acting()
        return virtual.count if virtual is not None else 0

    def forward(self, input_ids: Tensor | None = None, *args: Any, adapter_names: Sequence[str] | None = None, **inputs: Any) -> Any:
        """As the base model's; ``adapter_names`` gives every row its adapter ("__base__": none)."""
        virtual = self._acting()
        if virtual is None:
            with self._mixed(adapter_names):
                return self.base_model(input_ids, *args, **inputs)
        self._mixed(adapter_names)
        for name, value in zip(("attention_mask", "token_type_ids", "position_ids", "inputs_embeds", "labels"), args, strict=False):
            inputs[name] = value
        if isinstance(virtual, Prompt):
            return self._prompted(virtual, input_ids, inputs)
        return self._prefixed(virtual, input_ids, inputs)

    def _prompted(self, prompt: Prompt, ids: Tensor | None, inputs: dict[str, Any]) -> Any:
        """A prompt stands in front of the first backbone's text."""
        base, names = self.base_model, ("attention_mask", "where")
        if inputs.get("encoder_outputs") is not None:  # the prompt is in there
            return base(ids, **inputs)
        cache, types, labels = inputs.get("past_key_values"), inputs.get("token_type_ids"), inputs.get("labels")
        embeds = inputs.pop("inputs_embeds", None)
        if cache is not None and cache.length and not base.both:
            new = ids.shape[1] if ids is not None else embeds.shape[1]
            return base(ids, inputs_embeds=embeds, where=_later(cache, new, inputs, *names, prompt.count), **inputs)
        at = _where(ids, embeds, inputs, *names)
        embeds, where = prompt.before(embeds if embeds is not None else self._embed().look_up(ids), at)
        if types is not None:
            inputs["token_type_ids"] = torch.cat([types.new_zeros(len(types), prompt.count), types], 1)
        if labels is not None and base.task in ("CausalLM", "TokenClassification", "MaskedLM"):
            inputs["labels"] = torch.cat([labels.new_full((len(labels), prompt.count), IGNORE), labels], 1)
        if base.both and labels is None and inputs.get("decoder_input_ids") is None and inputs.get("decoder_inputs_embeds") is None:
            inputs["decoder_input_ids"] = base.shift_right(ids)
        return base(inputs_embeds=embeds, where=where, **inputs)

    def _embed(self) -> TokenEmbedding:
        backbone = self.base_model.encoder or self.base_model.decoder
        assert backbone is not None
        return backbone.embed

    def _prefixed(self, prefix: Prefix, ids: Tensor | None, inputs: dict[str, Any]) -> Any:
        """A prefix stands in the cache of the last backbone's self-attention."""
        base, text, embeds = self.base_model, ids, inputs.get("inputs_embeds")
        names = ("decoder_attention_mask", "decoder_where") if base.both else ("attention_mask", "where")
        if base.both:
            embeds, labels = inputs.get("decoder_inputs_embeds"), inputs.get("labels")
            if inputs.get("decoder_input_ids") is None and embeds is None:
                inputs["decoder_input_ids"] = base.shift_right(labels if labels is not None else ids)
            text = inputs.get("decoder_input_ids")
        cache, given = inputs.pop("past_key_values", None), text if text is not None else embeds
        if cache is not None and cache.length and given is not None:
            at = _later(cache, given.shape[1], inputs, *names, prefix.count)
        else:
            cache, at = cache if cache is not None else Cache(), moved(_where(text, embeds, inputs, *names), prefix.count)
            prefix.fill(cache, at.shape[0], base.dtype)
        return base(ids, past_key_values=cache, **{names[1]: at}, **inputs)

    def generate(self, inputs: Any = None, *, adapter_names: Sequence[str] | None = None, **options: Any) -> Any:
        """As the base model's; ``adapter_names`` gives every row of the input its adapter."""
        options, inputs = ({**inputs, **options}, None) if isinstance(inputs, Mapping) else (options, inputs)
        prompt = self._acting()
        if isinstance(prompt, Prompt) and self.base_model.both and options.get("encoder_outputs") is None:
            ids = inputs if inputs is not None else options.pop("input_ids", None)
            mask = options.pop("attention_mask", None)
            options.update(self._encoded(prompt, ids, mask))
            inputs = None
        with self._mixed(adapter_names):
            if adapter_names is not None:
                options["past_key_values"] = RowCache(self.adapters)
            return generate(self, inputs, **options)  # type: ignore[arg-type]

    def _encoded(self, prompt: Prompt, ids: Any, mask: Tensor | None) -> dict[str, Tensor]:
        """The encoder's output behind a prompt, ``(B, P + N, C)``, and its mask."""
        base = self.base_model
        if not isinstance(ids, Tensor) or base.encoder is None:
            raise InputError(say("generate needs input_ids: the text to read.", "generate에 읽을 텍스트의 input_ids가 필요합니다."))
        pad = base.config.pad_token_id
        mask = mask if mask is not None else torch.ones_like(ids) if pad is None else torch.ne(ids, pad).long()
        at = placed(ids, None, mask, None, None, None)
        with torch.no_grad():
            embeds, at = prompt.before(self._embed().look_up(ids), at)
            memory = base.encoder(Tokens(at, embeds=embeds), Context())
        return {"encoder_outputs": memory, "attention_mask": torch.cat([mask.new_ones(len(mask), prompt.count), mask], 1)}

    # -------------------------------------------------------------- files

    def save_pretrained(
        self, save_directory: str | Path, *, selected_adapters: Sequence[str] | None = None, push_to_hub: bool = False, **hub: Any
    ) -> None:
        """Write PEFT folders: "default" into ``save_directory``, others into folders of their names below it."""
        folder, names = Path(save_directory), list(selected_adapters or self.peft_config)
        self._known(names)
        merged = self.adapters.merged
        self.adapters.unmerge()
        for name in names:
            files.save(self, name, folder if name == "default" or len(self.peft_config) == 1 else folder / name)
        if merged:
            self.adapters.merge(merged)
        if push_to_hub:
            from hunmin.hub.push import push_folder

            push_folder(folder, hub.pop("repo_id", folder.name), **hub)

    def push_to_hub(self, repo_id: str, **hub: Any) -> str:
        """Upload the adapters to ``repo_id``; returns the address of the commit. Options as in :func:`hunmin.hub.push.push_folder`."""
        from hunmin.hub.push import push_folder

        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return push_folder(Path(folder), repo_id, **hub)

    @classmethod
    def from_pretrained(
        cls, model: PreTrainedModel, model_id: Any, adapter_name: str = "default", *, is_trainable: bool = False, **options: Any
    ) -> PeftModel:
        """``model`` with the adapter in the PEFT folder ``model_id``. Raises FormatError when it was made for another model."""
        made = files.load(_plain(model), model_id, is_trainable, options)
        return cls(model, made.config, adapter_name, made=made)

    def load_adapter(self, model_id: Any, adapter_name: str, *, is_trainable: bool = False, **options: Any) -> None:
        """One more adapter from a PEFT folder; it acts after :meth:`set_adapter`."""
        self.join(adapter_name, files.load(self.base_model, model_id, is_trainable, options))


def _plain(model: Any) -> PreTrainedModel:
    """``model``. Raises InputError when it is not one that adapters can be put on."""
    if isinstance(model, PreTrainedModel):
        return model
    raise InputError(
        say(
            f"An adapter needs a model of Hunmin, not {type(model).__name__}. A PeftModel takes more of them with add_adapter.",
            f"어댑터는 Hunmin 모델에 붙입니다. 받은 것: {type(model).__name__}. PeftModel에는 add_adapter로 더하세요.",
        )
    )


def _where(ids: Tensor | None, embeds: Tensor | None, inputs: dict[str, Any], mask: str, where: str) -> Where:
    """Where the text is, as told by a mask or directly; takes both out of ``inputs``."""
    if inputs.pop("position_ids", None) is not None:
        raise InputError(
            say("With virtual tokens positions follow from the text: leave position_ids out.", "가상 토큰을 쓸 때는 position_ids를 빼세요.")
        )
    return placed(ids, embeds, inputs.pop(mask, None), None, None, inputs.pop(where, None))


def _later(cache: Cache, new: int, inputs: dict[str, Any], mask: str, where: str, count: int) -> Where:
    """Places of ``new`` tokens whose beginning, virtual tokens and text, is in the cache."""
    inputs.pop(mask, None)  # of the text so far; the cache knows it
    at, before = inputs.pop(where, None), cache.at
    assert before is not None
    return moved(at, count) if at is not None else before.after(new)


def get_peft_model(model: PreTrainedModel, peft_config: PeftConfig, adapter_name: str = "default") -> PeftModel:
    """``model``, frozen, with a fresh adapter. Raises InputError when the configuration does not fit the model."""
    return PeftModel(model, peft_config, adapter_name)
