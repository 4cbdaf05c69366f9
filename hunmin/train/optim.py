"""Optimizers by the names of ``TrainingArguments.optim``, over parameter groups that know about weight decay and depth."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hunmin.errors import InputError, say
from hunmin.quantize import Packed
from hunmin.train.arguments import TrainingArguments, bad
from hunmin.train.staged import layerwise_parameters

Group = dict[str, Any]
Kind = TypeVar("Kind", bound=Optimizer)
# Optimizers of other packages: (module, class, options).
FOREIGN: dict[str, tuple[str, str, dict[str, Any]]] = {
    **{
        f"{paged}{kind}_{bits}": ("bitsandbytes.optim", name, {"optim_bits": 8 if "8bit" in bits else 32, "is_paged": bool(paged)})
        for paged in ("", "paged_")
        for kind, name in (("adamw", "AdamW"), ("lion", "Lion"))
        for bits in ("8bit", "32bit")
    },
    "adamw_bnb_8bit": ("bitsandbytes.optim", "AdamW", {"optim_bits": 8}),
    "schedule_free_adamw": ("schedulefree", "AdamWScheduleFree", {}),
    "schedule_free_sgd": ("schedulefree", "SGDScheduleFree", {}),
}
SPREADABLE = ("adamw_torch", "adamw_torch_fused", "adamw_hf", "sgd", "adagrad", "rmsprop", "lion", "muon")  # know parameters in shards
OWN = ("adamw_torch", "adamw_torch_fused", "adamw_hf", "adafactor", "sgd", "adagrad", "rmsprop", "lion", "muon")


def light(kind: type[Kind]) -> type[Kind]:
    """``kind`` without what keeps torch's compiler off its methods: that imports the compiler, a second of the first step of every run."""
    marked = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")
    own = {name: inspect.unwrap(getattr(kind, name)) for name in marked}
    return cast("type[Kind]", type(kind.__name__, (kind,), {**own, "step": torch.no_grad()(inspect.unwrap(kind.step))}))


class Lion(Optimizer):
    """Sign momentum (Chen et al. 2023, algorithm 2): one moment, and steps of one size. Take a tenth of AdamW's learning rate."""

    def __init__(
        self, params: Iterable[Any], lr: float = 1e-4, betas: tuple[float, float] = (0.9, 0.99), weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = closure() if closure is not None else None
        for group in self.param_groups:
            first, second = group["betas"]
            for p in (p for p in group["params"] if p.grad is not None):
                moment = self.state[p].setdefault("exp_avg", torch.zeros_like(p))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(moment.lerp(p.grad, 1 - first).sign_(), alpha=-group["lr"])
                moment.lerp_(p.grad, 1 - second)
        return loss


class Together(Optimizer):
    """Several optimizers as one: Muon for matrices, AdamW for the rest."""

    def __init__(self, parts: list[Optimizer]) -> None:
        self.parts = parts
        super().__init__([group for part in parts for group in part.param_groups], {})
        groups = iter(self.param_groups)
        for part in parts:  # shared, so that a scheduler moves the rates of the parts
            part.param_groups = [next(groups) for _ in part.param_groups]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = closure() if closure is not None else None
        for part in self.parts:
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        groups = [group for part in self.parts for group in part.param_groups]
        self.param_groups[:] = groups


def groups_of(model: nn.Module, arguments: TrainingArguments) -> list[Group]:
    """Parameter groups: biases and norms (one dimension) get no weight decay; with ``layerwise_lr_decay`` lower layers learn more slowly."""
    _trainable(model)
    if arguments.layerwise_lr_decay is not None:
        return layerwise_parameters(model, arguments.learning_rate, arguments.layerwise_lr_decay, arguments.weight_decay)
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices, vectors = [p for p in trained if p.ndim > 1], [p for p in trained if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": arguments.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    if not trained:
        raise InputError(
            say("The model has no parameter that learns: all are frozen.", "학습할 파라미터가 없습니다. 모두 고정되어 있습니다.")
        )
    return [group for group in groups if group["params"]]


def _trainable(model: nn.Module) -> None:
    """Raises InputError for a quantized model as it was loaded: without adapters only its norms would learn."""
    packed = [m for m in model.modules() if isinstance(m, Packed)]
    within = {id(p) for m in packed for p in m.parameters()}
    rest = [p for p in model.parameters() if id(p) not in within]
    if packed and (all(p.requires_grad for p in rest) or not any(p.requires_grad for p in model.parameters())):
        raise InputError(
            say(
                "The model is quantized and its weights cannot learn. Add adapters: get_peft_model(model, LoraConfig()); or load it unquantized.",
                "양자화된 모델의 가중치는 학습할 수 없습니다. get_peft_model(model, LoraConfig())로 어댑터를 더하거나 양자화하지 않고 불러오세요.",
            )
        )


def create_optimizer(groups: list[Group], arguments: TrainingArguments) -> Optimizer:
    """The optimizer that ``arguments.optim`` names. Raises InputError for an unknown name and for a package that is missing."""
    name, lr, more = arguments.optim, arguments.learning_rate, cast("dict[str, Any]", arguments.optim_args or {})
    adam: dict[str, Any] = {"betas": (arguments.adam_beta1, arguments.adam_beta2), "eps": arguments.adam_epsilon}
    if name not in (*OWN, *FOREIGN):
        raise bad("optim", name, ", ".join((*OWN, *FOREIGN)))
    if name not in SPREADABLE and any(hasattr(p, "device_mesh") for group in groups for p in group["params"]):
        raise InputError(
            say(
                f"optim={name!r} does not know parameters that are spread over processes. Those that do: {', '.join(SPREADABLE)}.",
                f"optim={name!r}은(는) 여러 프로세스에 나뉜 파라미터를 다루지 못합니다. 가능한 것: {', '.join(SPREADABLE)}.",
            )
        )
    try:
        match name:
            case "adamw_torch" | "adamw_torch_fused" | "adamw_hf":
                return light(torch.optim.AdamW)(groups, lr=lr, fused=_fusible(groups) or None, **adam | more)
            case "adafactor":
                return light(torch.optim.Adafactor)(groups, lr=lr, **more)
            case "sgd" | "adagrad" | "rmsprop":
                kind = {"sgd": torch.optim.SGD, "adagrad": torch.optim.Adagrad, "rmsprop": torch.optim.RMSprop}[name]
                return light(kind)(groups, lr=lr, **more)
            case "lion":
                return light(Lion)(groups, lr=lr, **{"betas": adam["betas"], **more})
            case "muon":
                return _muon(groups, lr, adam, more)
            case _:
                return _foreign(name, groups, lr, adam, more, arguments)
    except TypeError as error:
        raise InputError(say(f"optim_args do not fit {name}: {error}.", f"optim_args가 {name}에 맞지 않습니다: {error}.")) from None


def _fusible(groups: list[Group]) -> bool:
    """Whether one kernel can update all parameters: on CPU and CUDA, for floating-point tensors that are all whole, or all spread alike."""
    tensors: list[Tensor] = [p for group in groups for p in group["params"]]
    spread = {getattr(p, "device_mesh", None) for p in tensors}
    known = all(type(p) is nn.Parameter for p in tensors) or (None not in spread and len(spread) == 1)
    return known and all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in tensors)


def _muon(groups: list[Group], lr: float, adam: dict[str, Any], more: dict[str, Any]) -> Optimizer:
    """Muon (Jordan et al. 2024) for matrices, with updates of AdamW's size (Liu et al. 2025), so that one learning rate serves both."""
    if not hasattr(torch.optim, "Muon"):
        raise InputError(say("optim='muon' needs PyTorch 2.9 or newer.", "optim='muon'에는 PyTorch 2.9 이상이 필요합니다."))
    square = [{**g, "params": [p for p in g["params"] if p.ndim == 2]} for g in groups]
    others = [{**g, "params": [p for p in g["params"] if p.ndim != 2]} for g in groups]
    square, others = ([g for g in kind if g["params"]] for kind in (square, others))
    parts: list[Optimizer] = []
    if square:
        parts.append(torch.optim.Muon(square, lr=lr, **{"adjust_lr_fn": "match_rms_adamw"} | more))  # type: ignore[attr-defined]
    if others:
        parts.append(torch.optim.AdamW(others, lr=lr, **adam))
    return Together(parts)


def _foreign(
    name: str, groups: list[Group], lr: float, adam: dict[str, Any], more: dict[str, Any], arguments: TrainingArguments
) -> Optimizer:
    module, kind, options = FOREIGN[name]
    try:
        made = getattr(import_module(module), kind)
    except ImportError:
        package = module.split(".")[0]
        raise InputError(
            say(
                f"optim={name!r} needs the package {package}: pip install {package}.",
                f"optim={name!r}에는 {package} 패키지가 필요합니다: pip install {package}.",
            )
        ) from None
    own = {"warmup_steps": int(arguments.warmup_steps)} if module == "schedulefree" else {}
    adam = {} if "SGD" in kind else {"betas": adam["betas"]} if "Lion" in kind else adam
    return made(groups, lr=lr, **{**adam, **own, **options, **more})
