"""8xx: what a release should not hold, or not be without."""

import os
import pickle
from pathlib import Path

from tests.damage import Damage, both, remove, set_field, write
from tests.defects.defect import Defect
from tests.repos import CONFIG

CARD = "README.md"
TOKEN = "hf_" + "AbCdEfGhIjKlMnOpQrStUvWxYz01234567"


def card(text: str) -> Damage:
    """Replace the front matter of the model card."""
    return write(CARD, f"---\n{text}\n---\n\n# A model\n")


def sparse(name: str, size: int) -> Damage:
    """A file of this size without any content on the disk."""

    def damage(repo: Path) -> None:
        (repo / name).touch()
        os.truncate(repo / name, size)

    return damage


def crowd(repo: Path) -> None:
    """One file too many in a folder."""
    (repo / "images").mkdir()
    for number in range(10_001):
        (repo / "images" / str(number)).touch()


WHOLE = "license: apache-2.0\nbase_model: org/name"

DEFECTS: list[Defect] = [
    Defect("MMF801", "pickle", write("pytorch_model.bin", pickle.dumps({}))),
    Defect("MMF801", "in a folder", write("checkpoint-5/optimizer.PT", pickle.dumps({}))),
    Defect("MMF802", "Python", write("modeling_mistral.py", "print()")),
    Defect(
        "MMF802", "auto_map", set_field(CONFIG, "auto_map", {"AutoConfig": "m.Config"}), "hf-w4a16"
    ),
    Defect("MMF802", "pipeline", set_field("tokenizer_config.json", "custom_pipelines", {"x": {}})),
    Defect("MMF803", "size", sparse("video.mkv", 500_000_000_001)),
    Defect("MMF803", "crowd", crowd),
    Defect("MMF804", "home", set_field(CONFIG, "_name_or_path", "/home/me/models/x"), "hf-w4a16"),
    Defect(
        "MMF804",
        "Windows",
        set_field("generation_config.json", "_from", {"path": ["C:\\models\\x"]}),
    ),
    Defect("MMF805", "no card", remove(CARD)),
    Defect("MMF805", "no front matter", write(CARD, "# A model\n")),
    Defect("MMF805", "not YAML", card("license: [")),
    Defect("MMF805", "no mapping", card("- license")),
    Defect("MMF805", "no license", card("base_model: org/name")),
    Defect("MMF805", "license of its own", card(f"{WHOLE}\nlicense: other")),
    Defect("MMF805", "no base", card("license: apache-2.0")),
    Defect("MMF805", "a finetune", card(f"{WHOLE}\nbase_model_relation: finetune")),
    Defect("MMF806", "staging", write(".mmfmt-abc/x", "")),
    Defect("MMF806", "Finder", write(".DS_Store", b"\0")),
    Defect("MMF806", "training", write("checkpoint-500/trainer_state.json", "{}")),
    Defect("MMF806", "cache", write("__pycache__/x.cpython-311.pyc", b"\0")),
    Defect("MMF807", "token", write("notes.txt", f"login with {TOKEN}\n")),
    Defect("MMF807", "key", write("run.sh", "#!\nexport AWS_ACCESS_KEY_ID=AKIAQ5ZJ7M2XW4TK9PLB\n")),
    Defect("MMF808", "size", sparse("video.mkv", 50_000_000_001)),
    Defect("MMF808", "device", write("aux.txt", "")),
    Defect("MMF808", "capitals", both(write("Notes.txt", ""), write("notes.txt", ""))),
]
