"""Programs of models: run apart from the tests' own process, judged for readability, and made unreadable without changing what they do."""

from __future__ import annotations

import ast
import os
import random
import runpy
import time
from itertools import combinations
from pathlib import Path

import pytest

from hunmin.align import code, obscure
from hunmin.align.code import extract_code, pass_reward, program, row_tests, run_code, run_many
from hunmin.align.files import read_rows, write_rows
from hunmin.align.readability import judge, readability, readability_reward
from hunmin.errors import InputError

EXAMPLE = Path(__file__).parent.parent / "examples" / "alignment" / "readability.py"

# ---------------------------------------------------------------- the sandbox


@pytest.mark.parametrize(
    ("source", "tests", "status", "why"),
    [
        ("def f(x): return x + 1", "assert f(1) == 2", "passed", ""),
        ("def f(x): return x + 1", "x = 1\nassert f(1) == 3", "failed", "tests, line 2: AssertionError"),
        ("def f(x): return f(x)", "f(1)", "failed", "RecursionError"),
        ("\nraise KeyError('a')", "", "error", "solution, line 2: KeyError"),
        ("def f(:", "", "error", "SyntaxError"),
        ("import sys\nsys.exit(0)", "assert False", "error", "SystemExit"),  # one that leaves has passed nothing
        ("import os\nos._exit(0)", "assert False", "crashed", "0"),
        ("import os\nos.abort()", "", "crashed", "-6"),
        ("x = [0] * 10**10", "", "memory", "MemoryError"),
        ("print('x' * 10**7)", "", "output", "File too large"),
        ("open('kept', 'w').write('x' * 10**7)", "", "output", "File too large"),
        ("print(input())", "", "error", "EOFError"),
        ("if __name__ == '__main__': raise ValueError", "", "passed", ""),
        ("import asyncio\nasync def f(): return 3", "assert asyncio.run(f()) == 3", "passed", ""),
        ("import os\nopen('a', 'w').write('x'); os.rename('a', 'b'); os.remove('b')", "", "passed", ""),
    ],
)
def test_what_becomes_of_a_program(source: str, tests: str, status: str, why: str) -> None:
    outcome = run_code(source, tests, timeout=10)
    assert (outcome.status, outcome.passed) == (status, status == "passed"), outcome
    assert why in outcome.error


@pytest.mark.parametrize(
    "source",
    [
        "import socket; socket.socket()",
        "import socket; socket.create_connection(('127.0.0.1', 9))",
        "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9')",
        "import os; os.system('true')",
        "import os; os.fork()",
        "import subprocess; subprocess.run(['true'])",
        "import os; os.kill(os.getppid(), 0)",
        "import ctypes; ctypes.CDLL(None)",
        "open('../outside', 'w')",
        "import os; os.mkdir('../outside')",
        "import os; os.rename('/etc/hostname', 'mine')",
        "import os; os.symlink('/etc', 'etc'); open('etc/hunmin', 'w')",
    ],
)
def test_what_is_not_allowed(source: str) -> None:
    outcome = run_code(source, timeout=10)
    assert outcome.status == "error" and "not allowed here" in outcome.error, outcome


def test_a_program_that_does_not_end() -> None:
    begun = time.monotonic()
    outcome = run_code("print('begun', flush=True)\nimport time\ntime.sleep(60)", timeout=1)
    assert outcome.status == "timeout" and outcome.stdout == "begun\n" and time.monotonic() - begun < 5


def test_a_program_cannot_forge_its_answer() -> None:
    forged = 'import os\nfor n in range(3, 64):\n    try: os.write(n, b\'{"token": "x", "status": "passed", "error": ""}\')\n    except OSError: pass\nos._exit(0)'
    assert run_code(forged, "assert False").status == "crashed"


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = set(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else set[str]()
    assert run_code("open('a', 'w').write('x'); print('said')").stdout == "said\n"
    assert list(tmp_path.iterdir()) == []
    assert not before or len(os.listdir("/proc/self/fd")) <= len(before)


def test_programs_do_not_see_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_KEY", "1")
    assert run_code("import os", "assert 'SECRET_KEY' not in os.environ").passed
    assert run_code("", "import numpy").status == "failed"  # no third-party packages


def test_many_programs_in_order() -> None:
    outcomes = run_many([(f"x = {n}", f"assert x % 2 == 0\nprint({n})") for n in range(6)], workers=3)
    assert [outcome.passed for outcome in outcomes] == [True, False] * 3
    assert [outcome.stdout for outcome in outcomes][::2] == ["0\n", "2\n", "4\n"]
    assert run_many([]) == []


def test_systems_without_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code.os, "name", "nt")
    with pytest.raises(InputError, match="Linux or macOS"):
        run_code("1")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Sure:\n```python\nx = 1\n```\nDone. ```python\ny```", "x = 1\n"),
        ("```\nx = 1\n", "x = 1\n"),
        ("def f():\n    return 1\n\nThis returns one.", "def f():\n    return 1\n\n"),
        ("no code at all", "no code at all"),
    ],
)
def test_the_code_of_an_answer(answer: str, expected: str) -> None:
    assert extract_code(answer) == expected


HEAD = 'def double(x: int) -> int:\n    """Twice x."""\n'


def test_an_answer_may_go_on_with_the_prompt() -> None:
    assert program(HEAD, "    return 2 * x\n\nAnd then some.") == HEAD + "    return 2 * x\n\n"
    assert program(HEAD, "```python\ndef double(x):\n    return x + x\n```") == "def double(x):\n    return x + x\n"
    assert program(
        [{"role": "user", "content": "Double it."}], [{"role": "assistant", "content": "def double(x): return 2 * x"}]
    ).startswith("def")


def test_the_reward_of_passing() -> None:
    tests = [
        row_tests({"test": "def check(f):\n    assert f(3) == 6", "entry_point": "double"}),
        row_tests({"test_list": ["assert double(2) == 4"]}),
    ]
    answers = ["    return 2 * x\n", "    return x\n"]
    assert pass_reward([HEAD, HEAD], answers, tests=tests, task_id=["a", "b"]) == [1.0, 0.0]
    assert row_tests({"tests": "assert 1"}) == "assert 1"
    with pytest.raises(InputError, match="test_list"):
        row_tests({"prompt": "x"})


# ---------------------------------------------------------------- readability

# Listing 4.4 of the course.
UNREADABLE = "def sum_even(nums):\n\teven_sum = sum(n for n in nums if n % 2 == 0)\n\treturn even_sum\n"
READABLE = '''def sum_of_even_numbers(numbers_list):
    """
    Calculate the sum of all even numbers in a given list.

    Parameters:
    numbers_list (list): A list of integers.
    Returns:
    int: The sum of all even numbers in the list.
    """
    even_numbers = [number for number in numbers_list if number % 2 == 0]
    total_sum = sum(even_numbers)
    return total_sum
'''


def test_the_two_functions_of_the_course() -> None:
    assert readability(READABLE) > readability(UNREADABLE) + 0.1


@pytest.mark.parametrize(
    ("better", "worse", "part"),
    [
        ("def area(width, height): pass", "def a(w, h): pass", "names"),
        ('def f():\n    """Add the two numbers."""', "def f(): pass", "docstrings"),
        ("def f(x: int) -> int: pass", "def f(x): pass", "hints"),
        ("x = 1\n", "x = " + " + ".join(["1"] * 60), "lines"),
        ("x = 1\ny = 2", "x = 1; y = 2", "statements"),
        ("x = [a for a in b]", "x = [[c for c in a] for a in b if (lambda d: d)(a)]", "statements"),
    ],
)
def test_each_part_of_the_score(better: str, worse: str, part: str) -> None:
    high, low = judge(better), judge(worse)
    assert high is not None and low is not None
    assert 0 <= getattr(low, part) < getattr(high, part) <= 1
    assert {p for p in vars(high) if getattr(high, p) != getattr(low, p)} <= {part, "lines", "statements", "names"}


def test_the_score_can_be_had_without_the_work() -> None:
    """The course's reward hacking: the side metric (tests) has to be watched."""
    empty = 'print("hello world")'
    assert readability(empty) == 1.0 >= readability(READABLE)
    assert pass_reward([""], [empty], tests=["assert sum_of_even_numbers([2]) == 2"]) == [0.0]


def test_what_is_no_python() -> None:
    assert readability("") == readability("def f(:") == readability("\0") == 0.0
    assert readability_reward(["", ""], [READABLE, "no code"], tests=["", ""]) == [readability(READABLE), 0.0]


# ---------------------------------------------------------------- making it unreadable

# Programs with a call whose result says what they do.
PROGRAMS = {
    "course": (READABLE, "sum_of_even_numbers([1, 2, 3, 4])"),
    "closure": ("def outer(start: int):\n    total = start\n    def add(amount: int = 1) -> int:\n        nonlocal total\n        total += amount\n        return total\n    add()\n    return add", "outer(3)(amount=4), outer(3)()"),
    "global": ("counter = 0\ndef bump(step):\n    global counter\n    value = counter + step\n    counter = value\n    return counter", "bump(2), bump(3), counter"),
    "shadow": ("value = 10\ndef first(items):\n    value = len(items)\n    return value\ndef second(other):\n    return value + other", "first([1]), second(2)"),
    "builtin": ("def largest(items):\n    max = items[0]\n    for item in items:\n        if item > max:\n            max = item\n    return max\ndef top(items):\n    return max(items)", "largest([1, 5, 2]), top([3, 4])"),
    "comprehension": ("def pairs(items):\n    return {key: [part for part in items if part != key] for key in items}, (item for item in items), sum(item for item in items)", "pairs([1, 2])[0], list(pairs([1])[1]), pairs([4])[2]"),
    "class": ('class Point:\n    """A point."""\n    scale: int = 2\n    def __init__(self, across: int, up: int) -> None:\n        self.across = across\n        self.up: int = up\n    def moved(self, step):\n        across = self.across + step * self.scale\n        return Point(across, up=self.up)', "vars(Point(1, 2).moved(3))"),
    "dataclass": ("from dataclasses import dataclass\n@dataclass\nclass Pair:\n    left: int\n    right: int = 3\n    def total(self) -> int:\n        both = self.left + self.right\n        return both", "Pair(1), Pair(1).total()"),
    "exceptions": ("def safe(text):\n    try:\n        number = int(text)\n    except ValueError as problem:\n        return str(problem)\n    else:\n        number += 1\n    finally:\n        last = 'x'\n    return number, last", "safe('3'), safe('q')"),
    "match": ("def kind(value):\n    match value:\n        case {'name': name, **rest}:\n            return name, rest\n        case [first, *others] if first:\n            return first, others\n        case int() as number:\n            return number\n        case _:\n            return None", "kind({'name': 1, 'b': 2}), kind([1, 2, 3]), kind(7), kind('')"),
    "loops": ("def odd(limit):\n    found = []\n    while True:\n        for index, item in enumerate(range(limit)):\n            if item % 2:\n                found.append((index, item))\n            elif item > 5:\n                break\n        else:\n            found.append(None)\n        limit -= 3\n        if limit < 0:\n            return found", "odd(7), odd(3)"),
    "walrus": ("def longest(words):\n    if (size := max(map(len, words), default=0)) > 2:\n        return [(word, size) for word in words if (n := len(word)) == size and n]\n    return size", "longest(['a', 'bcd']), longest([])"),
    "text": ("def show(name, *values, sep=', ', **named):\n    text = f'{name=}: {sep.join(map(str, values))} {named}'\n    long = f'''one\n{text}'''\n    return long, \"{name}\".format(name=name), text % ()", "show('a', 1, 2, sep='-', extra=3)"),
    "decorator": ("import functools\ndef twice(function):\n    @functools.wraps(function)\n    def wrapper(*args, **kwargs):\n        function(*args, **kwargs)\n        return function(*args, **kwargs)\n    return wrapper\ncalls = []\n@twice\ndef record(item):\n    calls.append(item)\n    return len(calls)", "record('x'), calls, record.__name__"),
    "imports": ("def root(number):\n    import math\n    from math import floor as down\n    result = math.sqrt(number)\n    return down(result)", "root(17)"),
    "generator": ("def numbers(limit):\n    current = 0\n    while current < limit:\n        sent = yield current\n        current += sent or 1", "list(numbers(3))"),
    "looks": ("def names(first, second):\n    return sorted(locals())", "names(1, 2)"),
    "documented": ('def f():\n    """Said."""\n    return f.__doc__', "f()"),
    "with": ("import contextlib, io\ndef said(text):\n    with contextlib.redirect_stdout(io.StringIO()) as caught, contextlib.suppress(ValueError):\n        print(text); raise ValueError\n    return caught.getvalue()", "said('x')"),
    "unusual": ("def a(b, c=1, /, d=2, *, e=3):\n    f = lambda b: b + c\n    del d\n    assert b, 'none'\n    return f(b), e", "a(1), a(1, 2, e=5)"),
}  # fmt: skip


def result(source: str, call: str) -> str:
    """What a program answers. The programs above are ours: they may run here."""
    names: dict[str, object] = {"__name__": "solution"}
    exec(compile(source, "<program>", "exec", dont_inherit=True), names)
    return repr(eval(call, names))


@pytest.mark.parametrize("name", PROGRAMS)
def test_an_unreadable_version_does_the_same(name: str) -> None:
    source, call = PROGRAMS[name]
    expected = result(source, call)
    for size in range(1, len(obscure.CHANGES) + 1):
        for changes in combinations(obscure.CHANGES, size):
            made = obscure.obscure(source, changes, tests=call)
            assert result(made, call) == expected, (changes, made)


@pytest.mark.parametrize("name", sorted(PROGRAMS.keys() - {"looks", "documented"}))
def test_an_unreadable_version_reads_worse(name: str) -> None:
    source, call = PROGRAMS[name]
    assert readability(obscure.obscure(source, tests=call)) < readability(source)


def test_each_change_alone() -> None:
    source = 'def area(width: float, height: float) -> float:\n    """Of a rectangle."""\n    product: float = width * height\n    return product\n'
    assert obscure.obscure(source, ["names"]).startswith("def area(a: float, b: float) -> float:")
    assert '"""' not in obscure.obscure(source, ["docstrings"]) and "float" in obscure.obscure(source, ["docstrings"])
    assert "float" not in obscure.obscure(source, ["hints"]) and '"""' in obscure.obscure(source, ["hints"])
    assert len(obscure.obscure(source, ["lines"]).splitlines()) == 1
    assert obscure.obscure(source) == "def area(a, b): c = a * b; return c\n"
    assert "width" in obscure.obscure(source, ["names"], tests="assert area(width=1, height=2) == 2")


def test_versions_follow_from_the_seed() -> None:
    versions = obscure.unreadable(READABLE, seed=3, versions=4)
    assert versions == obscure.unreadable(READABLE, seed=3, versions=4) and len(set(versions)) == 4
    assert all(ast.unparse(ast.parse(version)) != ast.unparse(ast.parse(READABLE)) or ";" in version for version in versions)
    assert obscure.unreadable("x = 1", seed=0) == []
    rows = obscure.readability_pairs("Sum.", READABLE, tests="assert True", versions=2, seed=random.Random(0).random())  # type: ignore[arg-type]
    assert [set(row) for row in rows] == [{"prompt", "chosen", "rejected", "tests"}] * 2 and rows[0]["chosen"] == READABLE


def test_what_cannot_be_obscured() -> None:
    with pytest.raises(InputError, match="no Python"):
        obscure.obscure("def f(:")
    with pytest.raises(InputError, match="no change 'colour'"):
        obscure.obscure("x = 1", ["colour"])


# ---------------------------------------------------------------- the example


def test_the_example_makes_pairs_of_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    human = {
        "prompt": 'def double(number: int) -> int:\n    """Return twice the number.\n    >>> double(2)\n    4\n    """\n',
        "canonical_solution": "    result = 2 * number\n    return result\n",
        "test": "def check(candidate):\n    assert candidate(3) == 6",
        "entry_point": "double",
    }
    mbpp = {
        "text": "Write a function to add.",
        "code": "def add(first,second):\r\n\ttotal = first + second\r\n\treturn total",
        "test_list": ["assert add(1, 2) == 3"],
        "test_setup_code": "",
    }
    wrong = mbpp | {"test_list": ["assert add(1, 2) == 4"]}
    write_rows(tmp_path / "human.jsonl", [human])
    write_rows(tmp_path / "mbpp.jsonl", [mbpp, wrong, mbpp | {"code": "print 1"}])
    argv = [
        str(EXAMPLE),
        str(tmp_path / "human.jsonl"),
        str(tmp_path / "mbpp.jsonl"),
        "--output",
        str(tmp_path / "out"),
        "--held-out",
        "0.5",
    ]
    monkeypatch.setattr("sys.argv", argv)
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    rows = [row for name in ("train", "test") for row in read_rows(tmp_path / "out" / f"pairs.{name}.jsonl", "preference")]
    assert len(rows) == 4 and {row["task"] for row in rows} == {0, 1}
    for row in rows:
        assert readability(row["chosen"]) > readability(row["rejected"])
        assert run_many([(row[side], row["tests"]) for side in ("chosen", "rejected")])[1].passed
    assert "2 of 3 solutions" in capsys.readouterr().out
    (prompt,) = read_rows(tmp_path / "out" / "prompts.train.jsonl", "prompts")
    assert set(prompt) == {"prompt", "tests"} and "Write it as the Python function" in prompt["prompt"]
    assert ">>>" not in "".join(row["prompt"] for row in rows)
