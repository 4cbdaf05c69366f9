"""The curves of docs/ynat.md from results.json (pip install matplotlib): python examples/ynat_figure.py RESULTS.json FIGURE.svg"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot

results = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
left.plot(*zip(*results["pretrain"]["loss"], strict=True), color="C3")
left.set(title="Pre-training", xlabel="step", ylabel="loss of masked words")
for name, style in (("scratch", ":"), ("pre-trained", "--"), ("pre-trained, all rows", "-")):
    if name in results:
        scores = [100 * score for score in results[name]["valid_accuracy"]]
        right.plot(range(1, len(scores) + 1), scores, style, marker="o", label=name)
right.set(title="Fine-tuning", xlabel="epoch", ylabel="accuracy on 1,000 headlines, %")
right.xaxis.get_major_locator().set_params(integer=True)
right.legend(loc="lower right")
for axes in (left, right):
    axes.grid(alpha=0.3)
figure.savefig(sys.argv[2], metadata={"Date": None})
