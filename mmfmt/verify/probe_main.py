"""Load a repo's tokenizers and processor as their users do; print what they answer as JSON.

A script for a process of its own, started by `mmfmt.verify.probe`: it imports nothing of mmfmt,
runs no code of the repo, and ends when it has printed. PyTorch is hidden from transformers: what
is asked here computes with numpy and PIL, and importing torch and torchvision takes longer than
all of it (and stops at a torchvision that does not fit its torch).
"""

import gc
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = ("transformers", "mistral-common", "tokenizers")
# more than any tokenizer takes; a file that makes one take more is hostile
_MEMORY_BYTES = 8 << 30
_MOST_PIXELS = 1 << 21
_IMAGE_TOKENS = ("[IMG]", "[IMG_BREAK]", "[IMG_END]")
_PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")

Json = dict[str, Any]
CHATS: Mapping[str, list[Json]] = {
    "user": [{"role": "user", "content": "What is 2 + 2?"}],
    "system": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Why?  Because\n\n\tit is."},
    ],
    "several turns": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "na\u00efve \u5317\u4eac \U0001f600"},
    ],
}
IMAGE_CHAT: list[Json] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "What is it?"}, {"type": "image"}]},
]


def hide_torch() -> None:
    """Let transformers believe that there is no torch, and have its Pixtral processor anyway.

    That class asks for torch and torchvision and needs them for one function, whose twin stands
    in the module of the PIL image processor.
    """
    for name in ("torch", "torchvision"):
        sys.modules[name] = None  # type: ignore[assignment]
    with suppress(ImportError):
        from transformers.models import pixtral
        from transformers.models.pixtral import image_processing_pil_pixtral

        stand_in = f"{pixtral.__name__}.image_processing_pixtral"
        sys.modules.setdefault(stand_in, image_processing_pil_pixtral)
        from transformers.models.pixtral.processing_pixtral import PixtralProcessor

        pixtral.PixtralProcessor = PixtralProcessor


class Loads:
    """What each loader made of the folder: an object, and its row of the report."""

    def __init__(self) -> None:
        self.objects: dict[str, Any] = {}
        self.rows: dict[str, Json] = {}

    def attempt(self, name: str, load: Callable[[], Any]) -> None:
        """Run a loader; whatever it raises goes into its row."""
        row: Json = {"class": "", "tokenizer": "", "error": "", "missing": False}
        try:
            loaded = self.objects[name] = load()
            row["class"] = type(loaded).__name__
            if hasattr(loaded, "image_processor"):
                row["tokenizer"] = type(loaded.tokenizer).__name__
        except BaseException as error:  # a panic of the Rust library is no Exception
            row |= {"error": first_line(error), "missing": isinstance(error, ImportError)}
        self.rows[name] = row

    def get(self, *names: str) -> Any:
        """The first of these that was loaded."""
        return next((self.objects[name] for name in names if name in self.objects), None)


def first_line(error: BaseException) -> str:
    """What an exception says, in one line of bearable length."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}"[:300] if lines else type(error).__name__


def load_all(folder: Path, loads: Loads) -> None:
    """Every loader that the files of the folder are meant for."""
    names = {path.name for path in folder.iterdir()}
    if names & {"config.json", "tokenizer.json", "tokenizer_config.json"}:
        _load_transformers(folder, names, loads)
    mistral = loads.get("AutoTokenizer")
    if type(mistral).__name__ == "MistralCommonBackend":  # it has loaded the file already
        loads.attempt("mistral-common", lambda: mistral.tokenizer)
    elif any(name == "tekken.json" or name.startswith("tokenizer.model") for name in names):
        loads.attempt("mistral-common", lambda: _mistral_tokenizer(folder, names))


def _load_transformers(folder: Path, names: set[str], loads: Loads) -> None:
    def load(name: str, **options: bool) -> Any:
        loader = working("transformers", name)
        return loader.from_pretrained(folder, trust_remote_code=False, **options)

    loads.attempt("AutoTokenizer", partial(load, "AutoTokenizer"))
    if _is_pixtral(folder):
        loads.attempt("AutoProcessor", partial(load, "AutoProcessor"))
    # a second or more of a large vocabulary; a processor has loaded the same class of the same file
    if "tokenizer.json" in names and not loads.get("AutoProcessor"):
        fast = partial(load, "AutoTokenizer", mistral_format=False)
        loads.attempt("AutoTokenizer(mistral_format=False)", fast)


def working(module: str, name: str) -> Any:
    """A name of an installed package; ImportError where the package does not work."""
    try:
        return getattr(import_module(module), name)
    except Exception as error:
        raise ImportError(first_line(error)) from error


def _is_pixtral(folder: Path) -> bool:
    """Whether the processor files are those of the one processor that runs without torch."""
    found = [folder / name for name in _PROCESSOR_FILES if (folder / name).exists()]
    said = set()
    for path in found:
        with suppress(ValueError, TypeError, AttributeError, RecursionError):
            said.add(json.loads(path.read_text(encoding="utf-8")).get("processor_class"))
    return bool(found) and said <= {"PixtralProcessor", None}


def _mistral_tokenizer(folder: Path, names: set[str]) -> Any:
    package = "mistral_common.tokens.tokenizers"
    choose = working(f"{package}.utils", "get_one_valid_tokenizer_file")
    path = folder / choose(sorted(names))
    return working(f"{package}.mistral", "MistralTokenizer").from_file(str(path))


def split_tokens(fast: Any) -> Mapping[str, list[int]]:
    """The added tokens that do not encode to their own id, with what they encode to."""
    own = fast.added_tokens_encoder
    found = zip(own, fast(list(own), add_special_tokens=False)["input_ids"], strict=True)
    return {token: ids for token, ids in found if ids != [own[token]]}


def image_rows(native: Any, processor: Any) -> Iterator[Json]:
    """The ids that stand for images of telling sizes, from both sides."""
    from PIL import Image

    for size in sizes(native, processor):
        image = Image.new("RGB", size)
        yield {
            "size": size,
            "native": answer(native, partial(native_image, native, image)),
            "processor": answer(processor, partial(hf_image, processor, image)),
        }


def answer(asked: Any, ask: Callable[[], list[int]]) -> Json | None:
    """The ids that somebody gives, or why not; None where nobody is there."""
    if asked is None:
        return None
    try:
        return {"ids": ask(), "error": "", "missing": False}
    except BaseException as error:
        missing = isinstance(error, ImportError)
        return {"ids": [], "error": first_line(error), "missing": missing}


def sizes(native: Any, processor: Any) -> list[tuple[int, int]]:
    """Widths and heights in pixels at which both sides must agree.

    Images that are resized to a fraction of a pixel are left out: mistral-common rounds there,
    transformers takes the floor.
    """
    cell, edge = geometry(native, processor)
    plain = [(cell, cell), (cell + 1, cell), (3 * cell - 1, 2 * cell), (edge, cell)]
    found = [size for size in plain if max(size) <= edge] + [(2 * edge, 2 * cell)]
    return [(width, height) for width, height in found if width * height <= _MOST_PIXELS]


def geometry(native: Any, processor: Any) -> tuple[int, int]:
    """Pixels of a token's side, and of the longest edge."""
    if native is not None:
        config = native.instruct_tokenizer.image_encoder.image_config
        return config.image_patch_size * config.spatial_merge_size, config.max_image_size
    edge = processor.image_processor.size["longest_edge"]
    return processor.patch_size * processor.spatial_merge_size, edge


def native_image(native: Any, image: Any) -> list[int]:
    """What mistral-common encodes a chat to that is nothing but an image."""
    from mistral_common.protocol.instruct.chunk import ImageChunk
    from mistral_common.protocol.instruct.messages import UserMessage
    from mistral_common.protocol.instruct.request import ChatCompletionRequest

    working("cv2", "resize")  # mistral-common goes on with one that does not work
    message = UserMessage(content=[ImageChunk(image=image)])
    return _ids(native.encode_chat_completion(ChatCompletionRequest(messages=[message])).tokens)


def hf_image(processor: Any, image: Any, text: str = "[IMG]") -> list[int]:
    """What a PixtralProcessor encodes a text with an image to."""
    options = {"add_special_tokens": False, "return_tensors": "np"}
    return _ids(processor(text=text, images=[image], **options)["input_ids"][0])


def _ids(tokens: Any) -> list[int]:
    return [int(token) for token in tokens]


def mismatch(processor: Any, tokenizer: Any) -> str:
    """What PixtralProcessor says over AutoTokenizer's pick; nothing if it works."""
    from PIL import Image

    sides = {"patch_size": processor.patch_size, "spatial_merge_size": processor.spatial_merge_size}
    mixed = type(processor)(image_processor=processor.image_processor, tokenizer=tokenizer, **sides)
    found = answer(mixed, lambda: hf_image(mixed, Image.new("RGB", (60, 100)), "[INST][IMG]hi"))
    return str(found["error"]) if found else ""


def chat_rows(native: Any, fast: Any, processor: Any) -> Iterator[Json]:
    """The same chats, as mistral-common encodes them and as the chat template does."""
    for name, messages in CHATS.items():
        theirs = answer(native, partial(native_chat, native, messages))
        yield {"chat": name, "native": theirs, "fast": answer(fast, partial(_hf, fast, messages))}
    if processor is not None and native.instruct_tokenizer.image_encoder is not None:
        yield _image_chat(native, processor)


def _hf(fast: Any, messages: list[Json]) -> list[int]:
    return _ids(fast.apply_chat_template(messages, tokenize=True, return_dict=False))


def native_chat(native: Any, messages: list[Json], image: Any = None) -> list[int]:
    """mistral-common's ids of a chat; parts of type image show the one image."""
    from mistral_common.protocol.instruct.chunk import ImageChunk, TextChunk
    from mistral_common.protocol.instruct.messages import (
        AssistantMessage,
        SystemMessage,
        UserMessage,
    )
    from mistral_common.protocol.instruct.request import ChatCompletionRequest

    def content(parts: str | list[Json]) -> Any:
        if isinstance(parts, str):
            return parts
        return [
            TextChunk(text=p["text"]) if "text" in p else ImageChunk(image=image) for p in parts
        ]

    kinds = {"system": SystemMessage, "user": UserMessage, "assistant": AssistantMessage}
    spoken = [kinds[m["role"]](content=content(m["content"])) for m in messages]
    return _ids(native.encode_chat_completion(ChatCompletionRequest(messages=spoken)).tokens)


def _image_chat(native: Any, processor: Any) -> Json:
    from PIL import Image

    cell, _ = geometry(native, processor)
    image = Image.new("RGB", (cell, cell))

    def ours() -> list[int]:
        text = processor.apply_chat_template(IMAGE_CHAT, tokenize=False)
        return hf_image(processor, image, text)

    theirs = answer(native, lambda: native_chat(native, IMAGE_CHAT, image))
    return {"chat": "image", "native": theirs, "fast": answer(processor, ours)}


def look(folder: Path) -> Json:
    """The whole report."""
    loads = Loads()
    load_all(folder, loads)
    asked: Mapping[str, Callable[[Asked], Any]] = {
        "split": lambda a: dict(split_tokens(a.fast)) if a.fast else {},
        "images": lambda a: list(image_rows(a.sees, a.pixtral)) if a.sees or a.pixtral else [],
        "mismatch": lambda a: mismatch(a.pixtral, a.picked) if a.pixtral and a.apart else "",
        "chats": lambda a: list(chat_rows(a.native, a.fast, a.pixtral)) if a.template else [],
    }
    report: Json = {"loads": loads.rows, "versions": versions(), "faults": {}}
    who = Asked(loads)
    for name, ask in asked.items():
        try:
            report[name] = ask(who)
        except BaseException as error:  # as in `attempt`
            report["faults"][name] = first_line(error)
    return report


class Asked:
    """Who is asked what: the loaded objects by what they can do, None where nobody can."""

    def __init__(self, loads: Loads) -> None:
        processor = loads.get("AutoProcessor")
        self.picked, self.native = loads.get("AutoTokenizer"), loads.get("mistral-common")
        self.apart = type(self.picked).__name__ == "MistralCommonBackend"
        self.pixtral = processor if type(processor).__name__ == "PixtralProcessor" else None
        fast = loads.get("AutoTokenizer(mistral_format=False)", "AutoTokenizer")
        self.fast = getattr(self.pixtral, "tokenizer", fast)
        if type(self.fast).__name__ == "MistralCommonBackend":
            self.fast = None
        encoder = self.native.instruct_tokenizer.image_encoder if self.native else None
        self.sees = self.native if encoder is not None else None
        self.template = self.native and getattr(self.fast, "chat_template", None)


def versions() -> Mapping[str, str]:
    """The packages that were asked, as far as they are installed."""
    found = {}
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def bound_memory() -> None:
    """Fail on a hostile file rather than take the machine's memory."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))


def main() -> None:
    """Look at the folder that the first argument names."""
    gc.disable()  # nothing here lives long enough to be collected
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what loaders print is not ours
    bound_memory()
    hide_torch()
    json.dump(look(Path(sys.argv[1])), out)
    out.flush()
    os._exit(0)  # taking a large vocabulary apart takes a second


if __name__ == "__main__":
    main()
