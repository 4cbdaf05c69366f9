"""Pairs of readable and unreadable functions that do the same, from tasks with tests: the preference data of the course's example.

    python examples/alignment/readability.py HumanEval.jsonl.gz mbpp.jsonl.gz --output runs/readability

Tasks are rows of HumanEval (``prompt``, ``canonical_solution``, ``test``, ``entry_point``) or of MBPP (``text``, ``code``, ``test_list``).
Of each solution versions are made whose local names are letters, without docstring and hints, several statements a line
(``hunmin.align.obscure``). A pair is kept when both sides pass the task's tests in the sandbox. Written are, each for training and held out,

    pairs.*.jsonl    prompt, chosen, rejected, tests: for reward models and DPO
    prompts.*.jsonl  prompt, tests: for PPO, GRPO and best-of-n, with the readability score and the tests as rewards or side metrics
    sft.*.jsonl      prompt, completion: readable or not by chance, so that the tuned model writes both and has something to learn
"""

from __future__ import annotations

import argparse
import ast
import random
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from hunmin.align.code import row_tests, run_many
from hunmin.align.files import read_rows, write_rows
from hunmin.align.obscure import unreadable
from hunmin.align.readability import readability
from hunmin.errors import InputError, say


@dataclass(frozen=True)
class Task:
    """What to write, a readable solution, and its tests."""

    prompt: str
    solution: str
    tests: str


def task_of(row: dict[str, Any]) -> Task:
    """A row of HumanEval or MBPP. Raises InputError for any other."""
    if "canonical_solution" in row:
        solution = f"{row['prompt']}{row['canonical_solution']}".strip() + "\n"
        function = next(
            node for node in ast.walk(ast.parse(solution)) if isinstance(node, ast.FunctionDef) and node.name == row["entry_point"]
        )
        wanted = (ast.get_docstring(function) or "").split(">>>")[0].strip()
        return Task(asked(wanted, function), solution, row_tests(row))
    if "code" in row and "test_list" in row:
        tree = ast.parse(str(row["code"]).replace("\r\n", "\n").expandtabs(4))
        called = " ".join(map(str, row["test_list"]))
        functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
        function = next((node for node in functions if f"{node.name}(" in called), None)
        if function is not None:
            if ast.get_docstring(function) is None:
                function.body.insert(0, ast.Expr(ast.Constant(str(row["text"]).strip())))
            return Task(asked(str(row["text"]).strip(), function), ast.unparse(ast.fix_missing_locations(tree)) + "\n", row_tests(row))
    listed = ", ".join(row)
    raise InputError(say(f"This is a task of neither HumanEval nor MBPP: {listed}.", f"HumanEval이나 MBPP의 문제가 아닙니다: {listed}."))


def asked(wanted: str, function: ast.FunctionDef) -> str:
    """The prompt: what is wanted, and how the function is called."""
    names = ", ".join(arg.arg for arg in function.args.args)
    return f"{wanted}\nWrite it as the Python function {function.name}({names}).\n\n"


def pairs_of(tasks: list[Task], versions: int, seed: int) -> list[dict[str, Any]]:
    """Preference rows whose two sides both pass, in the order of the tasks."""
    rows = [
        {"prompt": task.prompt, "chosen": task.solution, "rejected": worse, "tests": task.tests, "task": place}
        for place, task in enumerate(tasks)
        for worse in unreadable(task.solution, seed=f"{seed} {place}", versions=versions, tests=task.tests)
    ]
    good = [outcome.passed for outcome in run_many((task.solution, task.tests) for task in tasks)]
    same = [outcome.passed for outcome in run_many((row["rejected"], row["tests"]) for row in rows)]
    kept = [row for row, passed in zip(rows, same, strict=True) if passed and good[row["task"]]]
    print(f"{sum(good)} of {len(tasks)} solutions and {sum(same)} of {len(rows)} unreadable versions pass their tests; {len(kept)} pairs")
    return kept


def split(rows: list[dict[str, Any]], held_out: float, seed: int) -> dict[str, list[dict[str, Any]]]:
    """Pairs for training and held out, by task: no held-out function was seen."""
    tasks = sorted({row["task"] for row in rows})
    random.Random(seed).shuffle(tasks)
    held = set(tasks[: round(held_out * len(tasks))])
    return {"train": [row for row in rows if row["task"] not in held], "test": [row for row in rows if row["task"] in held]}


def write(parts: dict[str, list[dict[str, Any]]], folder: Path, seed: int) -> None:
    """The files for each method."""
    for name, rows in parts.items():
        draw = random.Random(f"{seed} {name}")
        first = {row["task"]: row for row in reversed(rows)}.values()
        write_rows(folder / f"pairs.{name}.jsonl", rows)
        write_rows(folder / f"prompts.{name}.jsonl", [{"prompt": row["prompt"], "tests": row["tests"]} for row in first])
        write_rows(
            folder / f"sft.{name}.jsonl",
            [{"prompt": row["prompt"], "completion": row[draw.choice(["chosen", "rejected"])]} for row in first],
        )
        ordered = fmean(readability(row["chosen"]) > readability(row["rejected"]) for row in rows) if rows else 0.0
        print(f"{name}: {len(rows)} pairs of {len(first)} tasks, {ordered:.1%} ordered by the readability score")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", help="files of HumanEval or MBPP")
    parser.add_argument("--output", type=Path, default=Path("runs/readability"))
    parser.add_argument("--versions", type=int, default=2, help="unreadable versions of each solution")
    parser.add_argument("--held-out", type=float, default=0.2, help="share of the tasks")
    parser.add_argument("--limit", type=int, default=None, help="tasks of each file")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    tasks: list[Task] = []
    for path in given.data:
        for row in read_rows(path)[: given.limit]:
            try:
                tasks.append(task_of(row))
            except SyntaxError:  # a few solutions of MBPP are of Python 2
                continue
    write(split(pairs_of(tasks, given.versions, given.seed), given.held_out, given.seed), given.output, given.seed)


if __name__ == "__main__":
    main()
