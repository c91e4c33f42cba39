"""Repos made by hand to hurt: what mutation finds too rarely, or not at all."""

import base64
import json
from collections.abc import Callable
from typing import Any

from tests.fuzz.memory import Content, Files
from tests.fuzz.micro import good_files

Attack = Callable[[], Files]
_MANY = 20_000


def _with(repo: str, name: str, path: str, value: Any) -> Files:
    """A good repo with one value of a JSON file changed."""
    body = json.loads(good_files(repo)[name].head)
    holder, (*way, key) = body, path.split(".")
    for step in way:
        holder = holder[int(step) if isinstance(holder, list) else step]
    holder[int(key) if isinstance(holder, list) else key] = value
    return {**good_files(repo), name: Content(json.dumps(body).encode())}


def _more(repo: str, name: str, **fields: Any) -> Files:
    """A good repo with fields at the top of a JSON file."""
    body = json.loads(good_files(repo)[name].head) | fields
    return {**good_files(repo), name: Content(json.dumps(body).encode())}


def _text(name: str, content: bytes, holes: int = 0) -> Files:
    return {**good_files("modelopt"), name: Content(content, holes)}


def _header(*names: str) -> Files:
    """A weight file of these tensors, of two bytes each."""
    entries = {
        name: {"dtype": "BF16", "shape": [1], "data_offsets": [2 * n, 2 * n + 2]}
        for n, name in enumerate(names)
    }
    text = json.dumps(entries).encode()
    return _text("model.safetensors", len(text).to_bytes(8, "little") + text, 2 * len(names))


def _ignore(*entries: str) -> Files:
    return _with("pixtral", "config.json", "quantization_config.ignore", list(entries))


def _rope(**values: float) -> Files:
    said = json.loads(good_files("latent")["config.json"].head)["rope_parameters"]
    return _more("latent", "config.json", rope_parameters=said | values)


def _index(**names: str) -> Files:
    body = {"metadata": {}, "weight_map": names}
    return _text("model.safetensors.index.json", json.dumps(body).encode())


def _bomb() -> bytes:
    """YAML whose every line is nine times the one before."""
    lines = [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    return "\n".join(["---", "a0: &a0 x", *lines, "license: *a11", "---"]).encode()


_WORD = base64.b64encode(b"x" * 100_000).decode()
ATTACKS: dict[str, Attack] = {
    # all memory
    "a thousand million experts": lambda: _with("latent", "params.json", "moe.num_experts", 10**9),
    "no layer of many experts": lambda: _more("latent", "config.json", n_routed_experts=10**38),
    "layers from afar": lambda: _more("latent", "config.json", first_k_dense_replace=10**38),
    "layers": lambda: _more("modelopt", "config.json", num_hidden_layers=10_000),
    "heads": lambda: _more("modelopt", "config.json", num_attention_heads=10**39),
    "special tokens": lambda: _more("modelopt", "tekken.json", config=_tokens(10**9)),
    "a large file": lambda: _text("config.json", b"{}", 1 << 28),
    "an expression of an expression": lambda: _ignore("re:((a{0,65000}){0,65000}){0,65000}b"),
    "an expression that repeats": lambda: _ignore("re:(?:(?:(?:a?){1000}){1000}){1000}"),
    # all time
    "catastrophic expression": lambda: _ignore(r"re:(.*)(.*)(.*)(.*)(.*)\1\2\3\4[A-Z]"),
    "slow expressions": lambda: _ignore(*(f"re:(.*.*){{2}}.*{n}x" for n in range(300))),
    "a long expression": lambda: _ignore("re:" + "(" * 50_000 + ")" * 50_000),
    "a long list": lambda: _ignore(*(f"re:.*{n}x" for n in range(6000))),
    "a long token": lambda: _with("pixtral", "tekken.json", "vocab.295.token_bytes", _WORD),
    "a long name": lambda: _header("layers." * 50_000 + "weight", "model." * 9000 + "norm.weight"),
    "many names": lambda: _header(*(f"a{n}b.weight" for n in range(_MANY))),
    "many layers": lambda: _header(*(f"model.layers.{n}.norm.weight" for n in range(_MANY))),
    "many shards": lambda: _index(**{f"a{n}": f"model-{n}.safetensors" for n in range(_MANY)}),
    "many types": lambda: _more("modelopt", "config.json", layer_types=["full_attention"] * 55440),
    "many keys": lambda: _more("pixtral", "params.json", **{f"k{n}": n for n in range(_MANY)}),
    "yaml": lambda: _text("README.md", _bomb()),
    "deep yaml": lambda: _text(
        "README.md", b"---\nlicense: " + b"[" * 900 + b"]" * 900 + b"\n---\n"
    ),
    # numbers that no computer likes
    "overflow": lambda: _rope(mscale_all_dim=1e300),
    "division by zero": lambda: _rope(factor=22026.465794806718, mscale_all_dim=-1),
    "digits": lambda: _text("config.json", b'{"hidden_size": ' + b"9" * 5000 + b"}"),
    "not a number": lambda: _text("config.json", b'{"hidden_size": NaN}'),
    "infinity": lambda: _text("config.json", b'{"rms_norm_eps": 1e999}'),
    # texts that no terminal likes, or no file can hold
    "half a pair": lambda: _text("config.json", b'{"model_type": "\\ud800"}'),
    "escape": lambda: _more("modelopt", "config.json", model_type="\x1b[2J\x1b]0;x\x07"),
    "a novel": lambda: _more("modelopt", "config.json", model_type="x" * 1_000_000),
    # depths
    "deep": lambda: _text("config.json", b'{"a":' * 100_000),
    "as deep as Python goes": lambda: _text("config.json", b'{"a":' * 900 + b"1" + b"}" * 900),
}


def _tokens(special: int) -> dict[str, Any]:
    said = json.loads(good_files("modelopt")["tekken.json"].head)["config"]
    counts = {"default_num_special_tokens": special, "default_vocab_size": special + 296}
    return {**said, **counts}
