"""How scripts of the day convert a checkpoint: load all of it, rename, permute, save_file.

    python benchmarks/old_script.py SRC DST

Knows what the synthetic W4A16 repos have in them, and nothing else. vLLM takes packed Q and K of
the text as they are, so only those of the vision tower are permuted.
"""

import json
import re
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

RENAMES = (
    (r"^model\.language_model\.embed_tokens", "tok_embeddings"),
    (r"^model\.language_model\.", ""),
    (r"^lm_head", "output"),
    (r"^model\.vision_tower", "vision_encoder"),
    (r"^model\.multi_modal_projector\.norm", "pre_mm_projector_norm"),
    (r"^model\.multi_modal_projector\.patch_merger", "patch_merger"),
    (r"^model\.multi_modal_projector\.linear_1", "vision_language_adapter.w_in"),
    (r"^model\.multi_modal_projector\.linear_2", "vision_language_adapter.w_out"),
    (r"\.(?:self_attn|attention)\.([qkvo])_proj", r".attention.w\1"),
    (r"\.(?:mlp|feed_forward)\.gate_proj", ".feed_forward.w1"),
    (r"\.(?:mlp|feed_forward)\.down_proj", ".feed_forward.w2"),
    (r"\.(?:mlp|feed_forward)\.up_proj", ".feed_forward.w3"),
    (r"\.input_layernorm", ".attention_norm"),
    (r"\.post_attention_layernorm", ".ffn_norm"),
)


def main() -> None:
    """Convert the first argument's folder into the second's."""
    source, target = map(Path, sys.argv[1:])
    config = json.loads((source / "config.json").read_text())
    heads = config["vision_config"]["num_attention_heads"]
    state: dict[str, torch.Tensor] = {}
    for path in sorted(source.glob("*.safetensors")):
        state.update(load_file(path))
    converted = {renamed(name): permuted(name, t, heads) for name, t in state.items()}
    save(converted, target, shard_bytes=1_000_000_000)


def renamed(name: str) -> str:
    """The consolidated layout's name of a tensor."""
    for pattern, replacement in RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


def permuted(name: str, tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """The rows of the vision tower's Q and K from halves to pairs; any other tensor itself."""
    if not re.search(r"vision_tower\..*\.[qk]_proj\.weight$", name):
        return tensor
    rows, columns = tensor.shape
    halves = tensor.view(heads, 2, rows // heads // 2, columns)
    return halves.transpose(1, 2).reshape(rows, columns).contiguous()


def save(tensors: dict[str, torch.Tensor], target: Path, shard_bytes: int) -> None:
    """Consolidated shards of about this size, and their index."""
    target.mkdir(parents=True)
    shards: list[dict[str, torch.Tensor]] = [{}]
    for name, tensor in tensors.items():
        if sum(t.nbytes for t in shards[-1].values()) + tensor.nbytes > shard_bytes:
            shards.append({})
        shards[-1][name] = tensor
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = f"consolidated-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, target / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard, file)
    index = json.dumps({"metadata": {}, "weight_map": weight_map})
    (target / "consolidated.safetensors.index.json").write_text(index)


if __name__ == "__main__":
    main()
