"""Tokenizer, processor and generation files of the HF layout, made from mistral-common's file."""

import json
import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmfmt.convert.shards import json_text
from mmfmt.errors import MmfmtError
from mmfmt.tokenizer import control_ids

# per channel, of CLIP: what mistral-common normalizes pixels with (DATASET_MEAN, DATASET_STD)
_MEAN = [0.48145466, 0.4578275, 0.40821073]
_STD = [0.26862954, 0.26130258, 0.27577711]
_BICUBIC = 3

Texts = dict[str, str]
Warnings = list[str]


def tokenizer_files(tokenizer: Path) -> tuple[Texts, Warnings]:
    """tokenizer.json, tokenizer_config.json and chat_template.jinja, by transformers' converter.

    SentencePiece files give nothing but a warning: transformers' conversion of them encodes
    runs of spaces otherwise than mistral-common. Raises MmfmtError for a file that the
    converter refuses, and where transformers is not installed.
    """
    if tokenizer.suffix != ".json":
        return {}, [f"{tokenizer.name}: no exact tokenizer.json can be made of SentencePiece files"]
    with tempfile.TemporaryDirectory() as folder, _quiet_transformers():
        _convert(tokenizer).save_pretrained(folder)
        texts = {path.name: path.read_text(encoding="utf-8") for path in Path(folder).iterdir()}
    if "chat_template.jinja" not in texts:
        problem = "mistral-common makes no chat template of this version"
        return texts, [f"{tokenizer.name}: {problem}; add chat_template.jinja by hand"]
    return texts, []


def _convert(tokenizer: Path) -> Any:
    try:
        from transformers.integrations.mistral import convert_tekken_tokenizer
    except ImportError as error:
        fix = "pip install 'mmfmt[hf]', or put tokenizer.json into the repo"
        raise MmfmtError(
            tokenizer.name, "needs transformers to become tokenizer.json", fix
        ) from error
    with tempfile.TemporaryDirectory() as folder:
        # alone in a folder: the converter takes a chat template that lies beside it
        alone = Path(folder, tokenizer.name)
        alone.symlink_to(tokenizer.resolve())
        try:
            return convert_tekken_tokenizer(str(alone))
        except Exception as error:  # transformers and tokenizers raise many kinds for a bad file
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            problem = f"transformers cannot convert it: {reason}"
            raise MmfmtError(tokenizer.name, problem) from error


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Without its remarks on which optional packages are missing."""
    logger = logging.getLogger("transformers")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def processor_files(params: Mapping[str, Any], processor: Mapping[str, Any]) -> Texts:
    """The processor's file of a model that takes images or audio; a text model has none.

    `processor` is the image section of tekken.json, for what params.json does not say.
    """
    if vision := params.get("vision_encoder"):
        return {"processor_config.json": json_text(_pixtral_processor(vision, processor))}
    if audio := params.get("multimodal", {}).get("whisper_model_args"):
        return {"preprocessor_config.json": json_text(_feature_extractor(audio["encoder_args"]))}
    return {}


def _pixtral_processor(vision: Mapping[str, Any], processor: Mapping[str, Any]) -> dict[str, Any]:
    edge = vision.get("max_image_size") or processor.get("max_image_size") or vision["image_size"]
    patch = vision["patch_size"]
    return {
        "processor_class": "PixtralProcessor",
        "image_processor": _image_processor(patch, edge),
        "patch_size": patch,
        "spatial_merge_size": vision.get("spatial_merge_size", 1),
        "image_token": "[IMG]",
        "image_break_token": "[IMG_BREAK]",
        "image_end_token": "[IMG_END]",
    }


def _image_processor(patch: int, edge: int) -> dict[str, Any]:
    """Settings of PixtralImageProcessor; sizes in pixels."""
    return {
        "image_processor_type": "PixtralImageProcessor",
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": _MEAN,
        "image_std": _STD,
        "patch_size": {"height": patch, "width": patch},
        "resample": _BICUBIC,
        "rescale_factor": 1 / 255,
        "size": {"longest_edge": edge},
    }


def _feature_extractor(encoder: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the mel spectrogram; lengths in samples, chunks in seconds."""
    frames = encoder["audio_encoding_args"]
    body = {
        "feature_size": frames["num_mel_bins"],
        "hop_length": frames["hop_length"],
        "n_fft": frames["window_size"],
        "sampling_rate": frames["sampling_rate"],
    }
    if encoder.get("causal"):
        body |= {"win_length": body["n_fft"], "global_log_mel_max": frames["global_log_mel_max"]}
        return {**_names_of("VoxtralRealtime"), **body}
    # mistral-common and the encoder take chunks of half a minute
    body |= {"chunk_length": frames.get("chunk_length_s") or 30}
    return {**_names_of("Voxtral"), "feature_extractor_type": "WhisperFeatureExtractor", **body}


def _names_of(model: str) -> dict[str, Any]:
    extractor = f"{model}FeatureExtractor"
    return {"processor_class": f"{model}Processor", "feature_extractor_type": extractor}


def generation_config(tokenizer: Path) -> Texts:
    """generation_config.json with the ids that end and pad a text."""
    ids = control_ids(tokenizer)
    return {"generation_config.json": json_text({**ids, "transformers_version": "5.0.0"})}


def image_section(tokenizer: Path) -> Mapping[str, Any]:
    """What a tekken.json says of images: `image`, or `multimodal` up to v11; else nothing."""
    if tokenizer.suffix != ".json":
        return {}
    body = json.loads(tokenizer.read_text(encoding="utf-8"))
    section = body.get("image") or body.get("multimodal") or {}
    return section if isinstance(section, Mapping) else {}
