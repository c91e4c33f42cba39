"""5xx: config.json against params.json."""

from pathlib import Path

from tests.damage import drop_field, set_field
from tests.defects.defect import Defect
from tests.repos import CONFIG, PARAMS

ACTIVATIONS = {"num_bits": 8, "type": "int", "dynamic": True, "strategy": "token"}
GROUP = "quantization.config_groups.group_0"


def cut_params(repo: Path) -> None:
    """Leave params.json half written."""
    (repo / PARAMS).write_text("{")


DEFECTS: list[Defect] = [
    Defect("MMF501", "text for number", set_field(PARAMS, "n_layers", "4")),
    Defect("MMF501", "zero", set_field(CONFIG, "text_config.hidden_size", 0)),
    Defect("MMF501", "not JSON", cut_params),
    Defect("MMF502", "apply_scale", set_field(PARAMS, "yarn.apply_scale", False)),
    Defect("MMF502", "theta", set_field(PARAMS, "rope_theta", 1e6)),
    Defect("MMF502", "vision theta", set_field(PARAMS, "vision_encoder.rope_theta", 2e4)),
    Defect("MMF502", "no merge size", drop_field(PARAMS, "vision_encoder.adapter_bias")),
    Defect("MMF502", "gelu", set_field(CONFIG, "vision_config.hidden_act", "gelu")),
    Defect("MMF503", "activations", set_field(PARAMS, f"{GROUP}.input_activations", ACTIVATIONS)),
]
