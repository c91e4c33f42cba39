"""What one run of the engine gave, and how two runs differ."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, repr=False)  # too long for a failure message
class Result:
    """Answers, log-probabilities and parameter hashes of one checkpoint in one layout."""

    text_right: int
    image_right: int
    text_logprobs: list[list[float]]
    image_ids: list[list[int]]
    image_logprobs: list[list[dict[str, float]]]
    model_class: str
    parameters: dict[str, str]
    seconds: float
    reference_kernel: bool


def read(path: Path) -> Result:
    """Read what serve.py wrote."""
    content: dict[str, Any] = json.loads(path.read_text())
    return Result(**content)


def text_difference(one: Result, other: Result) -> float:
    """Give the largest difference of log-probability over the prompt and answer tokens."""
    return max(
        abs(a - b)
        for first, second in zip(one.text_logprobs, other.text_logprobs, strict=True)
        for a, b in zip(first, second, strict=True)
    )


def shared_steps(one: list[int], other: list[int]) -> int:
    """Count the steps taken from the same tokens: up to and with the first that differs."""
    pairs = zip(one, other, strict=False)
    same = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)) - 1)
    return same + 1


def image_differences(one: Result, other: Result) -> list[float]:
    """Give the difference of every token that both top-20 lists of a step hold."""
    found = []
    for i, ids in enumerate(one.image_ids):
        for step in range(shared_steps(ids, other.image_ids[i])):
            first, second = one.image_logprobs[i][step], other.image_logprobs[i][step]
            found += [abs(first[token] - second[token]) for token in first.keys() & second.keys()]
    return found


def differing_parameters(one: Result, other: Result) -> set[str]:
    """Name the parameters that differ or that only one of the two has."""
    return {name for name, _ in one.parameters.items() ^ other.parameters.items()}
