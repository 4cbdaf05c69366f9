"""Critics: what a state is worth, from the policy's own hidden states or from another model's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hunmin.align.logprobs import Entropy, Scored, bare, hidden_states, place_of, score
from hunmin.errors import InputError, say
from hunmin.model import PreTrainedModel
from hunmin.nn.heads import Classifier
from hunmin.nn.losses import IGNORE, next_tokens

HEAD = "value_head.safetensors"


class Valued(NamedTuple):
    """A batch's labelled tokens as the policy scores them, and the ``values`` ``(T,)`` of the states that they were drawn in."""

    scored: Scored
    values: Tensor


class ActorCritic(nn.Module, ABC):
    """A policy with what estimates its returns. What is not here (``config``, ``device``, ``generate`` …) is the policy's."""

    pretrained_model: Any

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "pretrained_model":
                raise
            return getattr(self.pretrained_model, name)

    def forward(self, *args: Any, valued: Mapping[str, Any] | None = None, **inputs: Any) -> Any:
        """:meth:`evaluate` of the batch ``valued``, for what is put around a model to find it called; else as the policy's."""
        return self.evaluate(valued, **inputs) if valued is not None else self.read(*args, **inputs)

    def read(self, *args: Any, **inputs: Any) -> Any:
        """The policy's forward pass."""
        return self.pretrained_model(*args, **inputs)

    @abstractmethod
    def estimates(self, hidden: Tensor, batch: Mapping[str, Any], known: Tensor) -> Tensor:
        """Values ``(T,)`` in fp32 of the places ``known`` ``(B, N - 1)``; ``hidden`` ``(B, N, C)`` are the policy's states of the batch."""

    def evaluate(self, batch: Mapping[str, Any], *, temperature: float = 1.0, entropy: Entropy = False) -> Valued:
        """Log-probabilities of labelled tokens, and the value of what stands before each."""
        hidden = hidden_states(self.pretrained_model, batch)
        known = next_tokens(batch["labels"], place_of(batch).segment).to(hidden.device) != IGNORE
        values = self.estimates(hidden, batch, known)
        return Valued(score(self.pretrained_model, batch, temperature=temperature, entropy=entropy, hidden=hidden), values)

    def generate(self, *args: Any, **options: Any) -> Any:
        """As the policy's."""
        return self.pretrained_model.generate(*args, **options)

    @abstractmethod
    def save_critic(self, folder: Path) -> None:
        """Write what estimates beside the policy."""

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> None:
        """The policy as a folder of its own, and the critic in it."""
        self.pretrained_model.save_pretrained(save_directory, **options)
        self.save_critic(Path(save_directory))


class ValueHead(nn.Module):
    """A linear function of hidden states, in fp32; dropout before it."""

    def __init__(self, width: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.dropout, self.summary = nn.Dropout(dropout), nn.Linear(width, 1)
        nn.init.normal_(self.summary.weight, std=(width + 1) ** -0.5)  # Stiennon et al. 2020, as published code has it
        nn.init.zeros_(self.summary.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """``(…, C)`` to ``(…, 1)``."""
        return self.summary(self.dropout(hidden).to(self.summary.weight.dtype))


class AutoModelForCausalLMWithValueHead(ActorCritic):
    """A causal language model (``pretrained_model``) with a value head (``v_head``) on its last hidden states, as TRL's PPO was taught.

    ``summary_dropout_prob`` is the dropout before the head, ``v_head_init_strategy="normal"`` draws it with ``v_head_initializer_range``.
    """

    def __init__(
        self,
        pretrained_model: Any,
        summary_dropout_prob: float = 0.1,
        v_head_init_strategy: str | None = None,
        v_head_initializer_range: float = 0.2,
    ) -> None:
        super().__init__()
        base = bare(pretrained_model)
        if not isinstance(base, PreTrainedModel) or base.task != "CausalLM":
            raise InputError(
                say(
                    f"A value head stands on a causal language model of Hunmin, not on {type(base).__name__}.",
                    f"가치 헤드는 Hunmin의 인과 언어 모델에 붙입니다. 받은 것: {type(base).__name__}.",
                )
            )
        self.pretrained_model = pretrained_model
        self.v_head = ValueHead(base.get_input_embeddings().embedding_dim, summary_dropout_prob).to(base.device)
        if v_head_init_strategy == "normal":
            nn.init.normal_(self.v_head.summary.weight, std=v_head_initializer_range)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *, peft_config: Any = None, **options: Any
    ) -> AutoModelForCausalLMWithValueHead:
        """From a model or the name of one, with a fresh head; or from a folder that :meth:`save_pretrained` wrote, with its head."""
        names = ("summary_dropout_prob", "v_head_init_strategy", "v_head_initializer_range")
        own: dict[str, Any] = {name: options.pop(name) for name in names if name in options}
        model, folder = pretrained_model_name_or_path, None
        if isinstance(model, str | Path):
            from hunmin.auto import AutoModelForCausalLM

            folder = Path(model)
            model = AutoModelForCausalLM.from_pretrained(model, **options)
        if peft_config is not None:
            from hunmin.peft import get_peft_model

            model = get_peft_model(model, peft_config)
        made = cls(model, **own)
        if folder is not None and (folder / HEAD).is_file():
            made.v_head.load_state_dict(load_file(folder / HEAD))
        return made

    def estimates(self, hidden: Tensor, batch: Mapping[str, Any], known: Tensor) -> Tensor:
        return self.v_head(hidden[:, :-1][known])[:, 0].float()

    def read(self, input_ids: Tensor, attention_mask: Tensor | None = None, **inputs: Any) -> tuple[Tensor, Tensor | None, Tensor]:
        """Logits ``(B, N, V)``, the loss where there are ``labels``, and values ``(B, N)``."""
        batch = {"input_ids": input_ids, "attention_mask": attention_mask, **inputs}
        batch = {key: value for key, value in batch.items() if value is not None}
        out = self.pretrained_model(**batch)
        return out.logits, out.get("loss"), self.v_head(hidden_states(self.pretrained_model, batch))[..., 0].float()

    def save_critic(self, folder: Path) -> None:
        save_file({name: tensor.contiguous() for name, tensor in self.v_head.state_dict().items()}, folder / HEAD)


class WithCritic(ActorCritic):
    """A policy, and a classification model with one label that reads the same text and values every place of it."""

    def __init__(self, pretrained_model: Any, value_model: Any) -> None:
        super().__init__()
        base = bare(value_model)
        head, labels = getattr(base, "head", None), getattr(getattr(base, "config", None), "num_labels", None)
        if not isinstance(base, PreTrainedModel) or not isinstance(head, Classifier) or labels != 1 or base.decoder is None:
            raise InputError(
                say(
                    f"A critic is a causal model with one label (AutoModelForSequenceClassification, num_labels=1), not {type(base).__name__}.",
                    f"비평 모델은 라벨이 하나인 디코더 분류 모델(AutoModelForSequenceClassification, num_labels=1)입니다: {type(base).__name__}.",
                )
            )
        self.pretrained_model, self.value_model = pretrained_model, value_model

    def estimates(self, hidden: Tensor, batch: Mapping[str, Any], known: Tensor) -> Tensor:
        head = bare(self.value_model).head
        kept = hidden_states(self.value_model, batch)[:, :-1][known]
        inner = head.act(head.dense(kept)) if head.dense is not None else kept
        return head.out(inner)[:, 0].float()

    def save_critic(self, folder: Path) -> None:
        self.value_model.save_pretrained(folder / "value_model")


def create_reference_model(model: Any, num_shared_layers: int | None = None) -> Any:
    """A frozen copy of a model, as TRL's tutorials make one. ``num_shared_layers`` only ever saved memory: every layer is copied."""
    import copy

    return copy.deepcopy(model).eval().requires_grad_(False)


def with_values(model: Any, value_model: Any = None) -> ActorCritic:
    """The policy with a critic: its own if it has one, else ``value_model``, else a fresh value head."""
    if isinstance(model, ActorCritic):
        return model
    return WithCritic(model, value_model) if value_model is not None else AutoModelForCausalLMWithValueHead(model)


@torch.no_grad()
def detached(valued: Valued) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Log-probabilities, entropies and values, sequence by sequence."""
    scored = valued.scored
    assert scored.entropy is not None
    return scored.split(), scored.split(scored.entropy), scored.split(valued.values)
