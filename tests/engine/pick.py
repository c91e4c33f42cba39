"""Ask vLLM which model class and which tokenizer class it takes from repos.

Run by the vLLM environment's own python, from the folder above this one, with what conftest.py
sets in ENVIRONMENT:
python -m engine.pick MODE:REPO ...
MODE is a --tokenizer-mode. Prints a line of JSON for each: [model class, tokenizer class], the
latter empty where it cannot be loaded.
"""

import json
import sys

from vllm.config import ModelConfig
from vllm.tokenizers.registry import get_tokenizer


def pick(mode: str, repo: str) -> tuple[str, str]:
    """The two classes."""
    model = ModelConfig(repo, tokenizer_mode=mode, trust_remote_code=False).architectures[0]
    try:
        tokenizer = type(get_tokenizer(repo, tokenizer_mode=mode)).__name__
    except ValueError:
        return model, ""
    return model, tokenizer.removeprefix("Cached")  # its wrapper of one of transformers


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        print(json.dumps(pick(*argument.split(":", 1))), flush=True)
