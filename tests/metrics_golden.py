"""Writes golden/train/metrics.json: what scikit-learn and SciPy say. Run it with both installed: python -m tests.metrics_golden"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

GOLDEN = Path(__file__).parent / "golden" / "train" / "metrics.json"


def _scores(p: Any, r: Any) -> dict[str, Any]:
    from sklearn import metrics

    out: dict[str, Any] = {}
    for average in ("micro", "macro", "weighted", *(["binary"] if np.ndim(p) == 1 and max(*p, *r) == 1 else [])):
        found = metrics.precision_recall_fscore_support(r, p, average=average, zero_division=0)
        out[average] = dict(zip(("precision", "recall", "f1"), map(float, found[:3]), strict=True))
    return out


def main() -> None:
    import warnings

    from scipy import stats
    from sklearn import metrics

    warnings.simplefilter("ignore")
    chance, cases = np.random.RandomState(0), []
    classes: list[Any] = [([1, 1, 1], [1, 1, 1]), ([0, 0], [1, 1]), ([2, 0, 0], [1, 0, 2])]
    classes += [
        (chance.randint(0, n, size).tolist(), chance.randint(0, n, size).tolist()) for n, size in ((2, 7), (2, 50), (3, 20), (9, 40))
    ]
    for p, r in classes:
        mcc = float(metrics.matthews_corrcoef(r, p))
        cases.append({"kind": "classes", "p": p, "r": r, "accuracy": float(metrics.accuracy_score(r, p)), "mcc": mcc, "f1": _scores(p, r)})
    for rows, width in ((6, 3), (20, 5)):
        p, r = ((chance.rand(rows, width) < 0.4).astype(int).tolist() for _ in range(2))
        cases.append({"kind": "labels", "p": p, "r": r, "f1": _scores(p, r)})
    for p, r in ((chance.randn(20), chance.randn(20)), (chance.randint(0, 4, 30), chance.randint(0, 4, 30)), ([1, 2, 3], [1, 4, 9])):
        values = {"p": np.asarray(p).round(4).tolist(), "r": np.asarray(r).round(4).tolist()}
        p, r = values["p"], values["r"]
        found = {"pearson": stats.pearsonr(p, r)[0], "spearman": stats.spearmanr(p, r)[0], "mse": metrics.mean_squared_error(r, p)}
        cases.append({"kind": "numbers", **values, **{name: float(value) for name, value in found.items()}})
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(json.dumps(cases, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
