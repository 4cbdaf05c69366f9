"""From a configuration to the parts of an adapter: which layers it means in this model, and what stands beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from hunmin.adapters import IA3, Adapters, Copy, LoRA, Part, Prefix, Prompt, Recipe, build_lora, combine
from hunmin.errors import InputError, say
from hunmin.hub.names import Names
from hunmin.hub.weights import ties
from hunmin.model import PreTrainedModel
from hunmin.peft.config import IA3Config, LoraConfig, PeftConfig, PrefixTuningConfig, PromptTuningConfig, TaskType
from hunmin.peft.names import LINEAR, Site, layer_index, pattern_value, pick, sites, unknown
from hunmin.quantize import QuantizedLinear

HEADS = ("classifier", "score", "qa_outputs", "classification_head")  # what a fresh head is called in checkpoints; trained with the adapter
FRESH = ("SequenceClassification", "TokenClassification", "QuestionAnswering", "NextSentencePrediction")
ADAPTABLE = (*LINEAR, nn.Embedding)


@dataclass
class Made:
    """An adapter: its parts by canonical name, or virtual tokens, and the configuration with what the model filled in."""

    config: PeftConfig
    parts: dict[str, Part] = field(default_factory=dict[str, Part])
    virtual: Prompt | Prefix | None = None


def make(model: PreTrainedModel, config: PeftConfig) -> Made:
    """A fresh adapter for ``model``. Raises InputError when the configuration does not fit it."""
    if not isinstance(config, LoraConfig | IA3Config | PromptTuningConfig | PrefixTuningConfig):
        raise InputError(
            say(
                f"An adapter is described by LoraConfig, IA3Config, PromptTuningConfig or PrefixTuningConfig, not {type(config).__name__}.",
                f"어댑터 설정은 LoraConfig, IA3Config, PromptTuningConfig, PrefixTuningConfig 중 하나입니다: {type(config).__name__}.",
            )
        )
    config = replace(config, base_model_name_or_path=config.base_model_name_or_path or model.name_or_path or None)
    saved = copies(model, config)
    parts: dict[str, Part] = {name: Copy(model.get_submodule(name)) for site in saved for name in site.ours}
    match config:
        case LoraConfig():
            for site in lora_sites(model, config):
                if left := tuple(name for name in site.ours if name not in parts):
                    layers = [model.get_submodule(name) for name in left]
                    parts.update(zip(left, build_lora(layers, recipe(config, site)), strict=True))
            return Made(config, parts)
        case IA3Config():
            for name, inner in ia3_layers(model, config).items():
                if name not in parts:
                    parts[name] = IA3(model.get_submodule(name), inner, config.init_ia3_weights)
            return Made(config, parts)
        case _:
            return Made(*virtual(model, config, parts))


def recipe(config: LoraConfig, site: Site) -> Recipe:
    """How the update of one layer is made, with the patterns of rank and alpha."""
    r, alpha = pattern_value(config.rank_pattern, site, config.r), pattern_value(config.alpha_pattern, site, config.lora_alpha)
    return Recipe(r, alpha, config.lora_dropout, config.use_rslora, config.use_dora, config.init_lora_weights)


def lora_sites(model: PreTrainedModel, config: LoraConfig) -> list[Site]:
    """The layers to adapt; by default the attention's q and v, with all of a stored tensor that they are fused in."""
    if config.target_modules is not None:
        found = pick(model, config.target_modules, "target_modules", ADAPTABLE, config.exclude_modules)
    else:
        found = [s for s in sites(model) if any(n.endswith(("attn.q", "attn.v", "cross.q", "cross.v")) for n in s.ours)]
    if config.layers_to_transform is None:
        return found
    wanted = {config.layers_to_transform} if isinstance(config.layers_to_transform, int) else set(config.layers_to_transform)
    kept = [site for site in found if layer_index(site.ours[0]) in wanted]
    if not kept:
        raise InputError(
            say(
                f"layers_to_transform={sorted(wanted)} leaves no layer to adapt.",
                f"layers_to_transform={sorted(wanted)}이면 적용할 층이 남지 않습니다.",
            )
        )
    return kept


def ia3_layers(model: PreTrainedModel, config: IA3Config) -> dict[str, bool]:
    """The layers to scale, and whether at their input; by default keys, values and the feed-forward's second layer."""
    targets = config.target_modules
    if targets is None:
        ends = ("attn.k", "attn.v", "cross.k", "cross.v", "ffn.down")
        found = [replace(s, ours=kept) for s in sites(model) if (kept := tuple(n for n in s.ours if n.endswith(ends)))]
    else:
        found = pick(model, targets, "target_modules", LINEAR, config.exclude_modules)
    if config.feedforward_modules is not None:
        inner = {n for s in pick(model, config.feedforward_modules, "feedforward_modules", LINEAR) for n in s.ours}
    else:
        inner = {n for s in found for n in s.ours if n.endswith("ffn.down")}
    return {name: name in inner for site in found for name in site.ours}


def copies(model: PreTrainedModel, config: PeftConfig) -> list[Site]:
    """The layers to train whole: those that ``modules_to_save`` names, anywhere in their path, and a classifier."""
    known, out = sites(model), dict[Site, None]()
    for target in config.modules_to_save or ():
        hits = [s for s in known if any(f".{target}." in f".{name}." for name in (s.theirs, *s.ours))]
        if not hits and target not in HEADS:
            raise unknown(model, target, "modules_to_save", (nn.Module,), known)
        out.update(dict.fromkeys(hits))
    if model.task in FRESH or config.task_type in (TaskType.SEQ_CLS, TaskType.TOKEN_CLS, TaskType.QUESTION_ANS):
        out.update(dict.fromkeys(s for s in known if set(HEADS) & set(s.theirs.split("."))))
    if packed := [s.theirs for s in out if isinstance(model.get_submodule(s.ours[0]), QuantizedLinear)]:
        raise InputError(
            say(
                f"modules_to_save: {packed[0]} is quantized and cannot be trained whole. Adapt it, or quantize without it.",
                f"modules_to_save: {packed[0]}은(는) 양자화되어 통째로 학습할 수 없습니다. 어댑터를 쓰거나 양자화에서 빼세요.",
            )
        )
    return list(out)


def virtual(
    model: PreTrainedModel, config: PromptTuningConfig | PrefixTuningConfig, parts: dict[str, Part]
) -> tuple[PeftConfig, dict[str, Part], Prompt | Prefix]:
    """Virtual tokens for ``model``, and the configuration with the numbers that PEFT writes."""
    backbone = model.decoder or model.encoder
    assert backbone is not None
    spec, modules = backbone.stack.spec, 1
    embedding = model.get_input_embeddings()
    if isinstance(config, PromptTuningConfig):
        made: Prompt | Prefix = Prompt(config.num_virtual_tokens, embedding, prompt_ids(model, config))
        width, heads, layers = embedding.embedding_dim, spec.attn.heads, spec.layers
    else:
        # PEFT lays pairs out for self- and cross-attention of an encoder-decoder and uses the first of each two: layer i reads pair 2 i
        layers, modules = config.num_layers or spec.layers, 2 if model.both else 1
        blocks = [2 * i % layers for i in range(spec.layers)] if model.both else None
        made = Prefix(config.num_virtual_tokens, backbone, layers, blocks)
        width, heads = made.heads * made.dim, made.heads
    if config.token_dim not in (None, width):
        raise InputError(
            say(
                f"token_dim is {width} for this model, not {config.token_dim}; leave it out.",
                f"이 모델의 token_dim은 {config.token_dim}이(가) 아니라 {width}입니다. 빼고 부르세요.",
            )
        )
    facts = {"token_dim": width, "num_attention_heads": heads, "num_layers": layers, "num_transformer_submodules": modules}
    return replace(config, **facts), parts, made


def prompt_ids(model: PreTrainedModel, config: PromptTuningConfig) -> list[int] | None:
    """The tokens whose embeddings a prompt starts from."""
    if config.prompt_tuning_init == "SAMPLE_VOCAB":
        return torch.randint(model.get_input_embeddings().num_embeddings, (config.num_virtual_tokens,)).tolist()
    if config.prompt_tuning_init != "TEXT":
        return None
    from hunmin.text import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(config.tokenizer_name_or_path))(config.prompt_tuning_init_text)["input_ids"]


def biases(model: PreTrainedModel, config: PeftConfig, parts: Mapping[str, Part]) -> list[str]:
    """The base's biases that are trained in place with an adapter, by canonical name; layers that have a trained copy have theirs there."""
    kind = config.bias if isinstance(config, LoraConfig) else "none"
    if kind == "none":
        return []
    named = [n for n, _ in model.named_parameters() if n.endswith(".bias")]
    stored = Names(model.config, model.task).stored(named)  # BART's final_logits_bias is no bias to PEFT
    layers = {n: n.rpartition(".")[0] for theirs, place in stored.items() if theirs.endswith(".bias") for n in place.names}
    return [n for n, layer in layers.items() if not isinstance(parts.get(layer), Copy) and (kind == "all" or layer in parts)]


def weighted(
    model: PreTrainedModel,
    adapters: Adapters,
    configs: Mapping[str, Any],
    names: Sequence[str],
    weights: Sequence[float],
    way: str,
    rank: int | None,
) -> tuple[LoraConfig, dict[str, Part]]:
    """One LoRA adapter from several, and its configuration."""
    parts, out, ranks = {name: adapters.at(name) for name in names}, dict[str, Part](), dict[str, int]()
    for site in sites(model):
        having = [n for n in site.ours if any(isinstance(parts[name].get(n), LoRA) for name in names)]
        groups = [(w, [p for n in having if isinstance(p := parts[name].get(n), LoRA)]) for name, w in zip(names, weights, strict=True)]
        groups = [(w, group) for w, group in groups if group]
        if not groups:
            continue
        if any(len(group) != len(having) for _, group in groups):
            raise InputError(
                say(f"The adapters change different parts of {site.theirs}.", f"어댑터들이 {site.theirs}의 서로 다른 부분을 바꿉니다.")
            )
        a, b = combine([group for _, group in groups], [w for w, _ in groups], way, rank)
        ranks[site.theirs] = len(a)
        layers = [model.get_submodule(n) for n in having]
        made = build_lora(layers, Recipe(len(a), len(a)))
        made[0].lora_A.data.copy_(a)
        for part, piece in zip(made, b.split([len(p.lora_B) for p in made]), strict=True):
            part.lora_B.data.copy_(piece)
        out.update(zip(having, made, strict=True))
    out.update({path: part for path, part in parts[names[0]].items() if isinstance(part, Copy)})
    main = max(ranks.values())
    pattern = {name: r for name, r in ranks.items() if r != main}
    whole = {"rank_pattern": pattern, "alpha_pattern": {k: float(v) for k, v in pattern.items()}, "use_rslora": False}
    return replace(configs[names[0]], r=main, lora_alpha=main, target_modules=sorted(ranks), exclude_modules=None, **whole), out


def tied(model: PreTrainedModel) -> dict[str, str]:
    """The parameters that are one tensor, alias -> source."""
    own = dict(model.named_parameters(remove_duplicate=False))  # quantized layers have no parameter for their weight
    pairs = ties(model.config, model.task).items()
    return {alias: source for alias, source in pairs if alias in own and own[alias] is own.get(source)}


def untie(model: PreTrainedModel, before: dict[str, str]) -> None:
    """Tell the config which of the pairs ``before`` a merge has made two tensors. Raises InputError where a config cannot say so."""
    for alias, source in before.items():
        if model.get_parameter(alias) is model.get_parameter(source):
            continue
        if alias != "head.out.weight" or getattr(model.head, "scale", 1.0) != 1.0:
            raise InputError(
                say(
                    f"{alias} and {source} are one tensor in this architecture; an adapter of one of them cannot be merged. Keep it unmerged.",
                    f"이 아키텍처에서 {alias}와(과) {source}는 한 텐서이므로 한쪽 어댑터만 병합할 수 없습니다. 병합하지 말고 쓰세요.",
                )
            )
        model.config["tie_word_embeddings"] = False
