"""Adapters: small trained parts beside the frozen layers of a finished model, picked by canonical name."""

from hunmin.adapters.attach import BASE as BASE
from hunmin.adapters.attach import Adapters as Adapters
from hunmin.adapters.attach import Part as Part
from hunmin.adapters.combine import combine as combine
from hunmin.adapters.freeze import bitfit as bitfit
from hunmin.adapters.freeze import freeze as freeze
from hunmin.adapters.freeze import lora_plus_groups as lora_plus_groups
from hunmin.adapters.freeze import unfreeze as unfreeze
from hunmin.adapters.lora import LoRA as LoRA
from hunmin.adapters.lora import Recipe as Recipe
from hunmin.adapters.lora import build_lora as build_lora
from hunmin.adapters.parts import IA3 as IA3
from hunmin.adapters.parts import Copy as Copy
from hunmin.adapters.prompts import Prefix as Prefix
from hunmin.adapters.prompts import Prompt as Prompt
