"""Ways to damage a repo on purpose, one defect at a time."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

Tensors = dict[str, torch.Tensor]
Damage = Callable[[Path], None]


def edit_json(name: str, edit: Callable[[dict[str, Any]], object]) -> Damage:
    """Change a JSON file in place."""

    def damage(repo: Path) -> None:
        body = json.loads((repo / name).read_text())
        edit(body)
        (repo / name).write_text(json.dumps(body))

    return damage


def set_field(name: str, path: str, value: object) -> Damage:
    """Write one value of a JSON file, at a dotted path."""
    *sections, key = path.split(".")

    def edit(body: dict[str, Any]) -> None:
        for section in sections:
            body = body[section]
        body[key] = value

    return edit_json(name, edit)


def drop_field(name: str, path: str) -> Damage:
    """Remove one key of a JSON file, at a dotted path."""
    *sections, key = path.split(".")

    def edit(body: dict[str, Any]) -> None:
        for section in sections:
            body = body[section]
        del body[key]

    return edit_json(name, edit)


def edit_tensors(
    name: str, edit: Callable[[Tensors], object], metadata: dict[str, str] | None = None
) -> Damage:
    """Rewrite a weight file with other tensors; its metadata is kept, or replaced.

    An index that names this file only follows.
    """

    def damage(repo: Path) -> None:
        with safe_open(repo / name, framework="pt") as file:
            kept = file.metadata() if metadata is None else metadata
        tensors = load_file(repo / name)
        edit(tensors)
        save_file({k: v.contiguous() for k, v in tensors.items()}, repo / name, kept)
        index = repo / f"{name}.index.json"
        if index.exists():
            total = sum(tensor.nbytes for tensor in tensors.values())
            body = {"metadata": {"total_size": total}, "weight_map": dict.fromkeys(tensors, name)}
            index.write_text(json.dumps(body))

    return damage


def put(name: str, tensor: str, value: torch.Tensor) -> Damage:
    """Add or replace a tensor."""
    return edit_tensors(name, lambda tensors: tensors.update({tensor: value}))


def drop(name: str, tensor: str) -> Damage:
    """Remove a tensor."""
    return edit_tensors(name, lambda tensors: tensors.pop(tensor))


def rename(name: str, old: str, new: str) -> Damage:
    """Rename a tensor."""
    return edit_tensors(name, lambda tensors: tensors.update({new: tensors.pop(old)}))


def remove(name: str) -> Damage:
    """Delete a file."""
    return lambda repo: (repo / name).unlink()


def write(name: str, content: bytes | str) -> Damage:
    """Replace a file's content, or add the file, in folders that are made if need be."""

    def damage(repo: Path) -> None:
        (repo / name).parent.mkdir(parents=True, exist_ok=True)
        (repo / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return damage


def copy(name: str, new: str) -> Damage:
    """Leave a second copy of a file under another name."""

    def damage(repo: Path) -> None:
        shutil.copy(repo / name, repo / new)

    return damage


def both(*damages: Damage) -> Damage:
    """Several damages that make one defect together."""

    def damage(repo: Path) -> None:
        for each in damages:
            each(repo)

    return damage
