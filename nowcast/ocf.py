"""Weights published for the public port of DGMR (PyPI ``dgmr``, openclimatefix) become a network of ours.

The port keeps a spectrally normalised weight W with the vectors u, v of its power iteration; in evaluation it
computes with W / (u^T W v), and that is what is imported. It concatenates the features of the context frames
channel by channel where ours go frame by frame, takes columns for channels in its attention (its axes are
exchanged; ``attention_over`` of our generator), and has 1x1 convolutions in its G-blocks that it never uses.
All its sizes follow from shapes, except for the number of lead times.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from data_prep.schema import RefusedInput
from nowcast.model import Generator
from nowcast.weights import UNREADABLE, reason

COMPONENTS = {"conditioning_stack": "conv1.", "latent_stack": "l_block1.", "sampler": "convGRU1."}
"""Parts of the port's generator, with how a name begins by which a file of that part alone is known."""
FILES_OF_A_SNAPSHOT = ("model.safetensors", "pytorch_model.bin")
LEVELS = 4
LEAD_STEPS = 18
SPECTRAL = ".parametrizations.weight."
WRAPPERS = re.compile(r"^(module\.|model\.)*(generator\.)?")
LEFT_OUT = re.compile(r"(spatial_|temporal_)?discriminator\.|sampler\.g\d\.conv_1x1\.|g\d\.conv_1x1\.")
"""Discriminators, and the convolutions that the port never uses."""
LAYERS = {
    "shortcut": "conv_1x1", "added": "conv_1x1", "first_conv": "first_conv_3x3",
    "last_conv": "last_conv_3x3", "first_norm": "bn1", "last_norm": "bn2", "read_gate": "read_gate_conv",
    "update_gate": "update_gate_conv", "candidate": "output_conv", "output": "last_conv",
}  # fmt: skip
"""The port's names of the layers inside blocks, by ours."""


def import_ocf(
    paths: Sequence[str | Path],
    *,
    lead_steps: int | None = None,
    grid_spacing: float = 1000.0,
    time_step_minutes: float = 5.0,
) -> tuple[Generator, dict[str, Any]]:
    """A network of ours, folded for inference, with the weights of the port, and its card.

    Args:
        paths: Files that together hold the port's generator (safetensors, what `torch.save` wrote, Lightning
            checkpoints), or folders with such a file. No code in them is run.
        lead_steps: Lead times of the network; None takes what the files or a config.json beside them say,
            and 18 where they say nothing.
        grid_spacing: Of the rain the weights were trained on, m.
        time_step_minutes: Between its frames.

    Raises:
        RefusedInput: If a file is damaged or of another kind, or the weights are not all that the port's
            generator has, no more, of the right shapes and finite.
    """
    if not (grid_spacing > 0 and time_step_minutes > 0):
        raise RefusedInput(
            "grid spacing and time step are above 0",
            came=f"{grid_spacing} m, {time_step_minutes} min",
            do="give those of the training data",
        )
    files = [_weights_file(Path(path)) for path in paths]
    contents = [_read(file) for file in files]
    weights = _effective(_merged(files, [tensors for tensors, _ in contents]))
    if lead_steps is None:
        lead_steps = _stated_lead_steps([*(known for _, known in contents), *map(_config_beside, files)])
    generator = _build({"lead_steps": lead_steps, **_sizes(weights)})
    generator.load_state_dict(_renamed(weights, generator))
    card = {
        "generator": generator.config,
        "transform": "rain_rate",
        "output": "rain",
        "frame": "fixed",
        "channels": "rain",
        "grid_spacing": grid_spacing,
        "time_step_minutes": time_step_minutes,
        "package_version": version("nowcast"),
        "source": [{"file": file.name, "sha256": _digest(file)} for file in files],
    }
    return generator, card


def _weights_file(path: Path) -> Path:
    """The file itself, or the one in a folder as hubs have them."""
    candidates = [path / name for name in FILES_OF_A_SNAPSHOT] if path.is_dir() else [path]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise RefusedInput(
        f"weights of the port are a file, or a folder with {' or '.join(FILES_OF_A_SNAPSHOT)}",
        came=path,
        do="correct the path",
    )


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors of a file by name, and the settings of the model that a Lightning checkpoint holds."""
    try:
        with path.open("rb") as file:
            head = file.read(9)
        if head[8:] == b"{":
            with safe_open(path, framework="pt") as tensors:
                return {name: tensors.get_tensor(name) for name in tensors.keys()}, {}  # noqa: SIM118
        if head[:2] not in (b"PK", b"\x80\x02"):
            raise ValueError("neither safetensors nor written by torch.save")
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=head[:2] == b"PK")
        state = content.get("state_dict", content)
        if not all(isinstance(value, Tensor) for value in state.values()):
            raise ValueError("not all its values are tensors")
        return state, dict(content.get("hyper_parameters", {}))
    except UNREADABLE as error:
        raise RefusedInput(
            "weights of the port are safetensors, or a state_dict or Lightning checkpoint by torch.save",
            came=f"{path} ({reason(error)})",
            do="fetch the file anew, or save its state_dict alone",
        ) from error


def _config_beside(path: Path) -> dict[str, Any]:
    """The settings in the config.json that hubs put beside weights; none without it."""
    config = path.with_name("config.json")
    try:
        return dict(json.loads(config.read_text())) if config.is_file() else {}
    except (TypeError, ValueError) as error:
        raise RefusedInput(
            "config.json beside the weights holds settings by name",
            came=f"{config} ({reason(error)})",
            do="repair it, or give --lead_steps",
        ) from error


def _stated_lead_steps(settings: Sequence[Mapping[str, Any]]) -> Any:
    stated = [known["forecast_steps"] for known in settings if "forecast_steps" in known]
    if any(steps != stated[0] for steps in stated):
        raise RefusedInput("all files state one number of lead times", came=stated, do="give --lead_steps")
    return stated[0] if stated else LEAD_STEPS


def _of_generator(tensors: Mapping[str, Tensor], path: Path) -> Iterator[tuple[str, Tensor]]:
    """Tensors of the generator under names ``component.layer...``, whatever the file puts before them."""
    found = [(WRAPPERS.sub("", name), value) for name, value in tensors.items()]
    found = [(name, value) for name, value in found if not LEFT_OUT.match(name)]
    if not found or any(name.split(".")[0] in COMPONENTS for name, _ in found):
        yield from found
        return
    for component, beginning in COMPONENTS.items():
        if any(name.startswith(beginning) for name, _ in found):
            yield from ((f"{component}.{name}", value) for name, value in found)
            return
    raise RefusedInput(
        "a file holds parts of the port's generator", came=f"{path} with {_some(tensors)}", do="leave it out"
    )


def _merged(files: Sequence[Path], contents: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors of the generator in all files.

    Raises:
        RefusedInput: If a part of it is in none, or two files do not agree.
    """
    state: dict[str, Tensor] = {}
    for file, tensors in zip(files, contents, strict=True):
        for name, value in _of_generator(tensors, file):
            known = state.setdefault(name, value)
            if known is not value and (known.dtype != value.dtype or not torch.equal(known, value)):
                raise RefusedInput(
                    "what is given twice is the same", came=f"two values of {name}, one in {file}",
                    do="give the files of one training",
                )  # fmt: skip
    missing = [part for part in COMPONENTS if not any(name.startswith(f"{part}.") for name in state)]
    if missing:
        raise RefusedInput(
            f"the files hold {', '.join(COMPONENTS)}",
            came=f"no {', no '.join(missing)}, but {_some(state) or 'nothing of the generator'}",
            do="give the files of all three parts",
        )
    return state


def _effective(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights as the port's evaluation uses them, under plain names.

    Raises:
        RefusedInput: If one is not finite, or not what a spectral norm can be computed of.
    """
    weights = {}
    for name, value in state.items():
        _refuse_not_finite(name, value)
        module, _, leaf = name.partition(SPECTRAL)
        if leaf == "original":
            weights[f"{module}.weight"] = _normalized(state, module)
            _refuse_not_finite(name, weights[f"{module}.weight"])
        elif leaf not in ("0._u", "0._v"):
            weights[name] = value.float() if value.is_floating_point() else value
    return weights


def _normalized(state: Mapping[str, Tensor], module: str) -> Tensor:
    """W / (u^T W v) of a spectrally normalised layer."""
    names = [f"{module}{SPECTRAL}{leaf}" for leaf in ("original", "0._u", "0._v")]
    if not all(name in state for name in names):
        raise _unlike([f"{name} is missing" for name in names if name not in state])
    weight, u, v = (state[name].double() for name in names)
    if weight.ndim != 4 or u.shape != weight.shape[:1] or v.shape != weight.flatten(1).shape[1:]:
        raise _unlike([f"{name} has shape {tuple(state[name].shape)}" for name in names])
    return (weight / (u @ weight.flatten(1) @ v)).float()


def _sizes(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of `Generator`, read from the shapes."""

    def width(layer: str, axis: int = 0) -> int:
        weight = weights.get(f"{layer}.weight")
        if weight is None or weight.ndim != 4 or weight.numel() == 0:
            came = "missing" if weight is None else f"of shape {tuple(weight.shape)}"
            raise _unlike([f"{layer}.weight is {came}"])
        return weight.shape[axis]

    levels = range(1, LEVELS + 1)
    frame_channels = [width(f"conditioning_stack.d{i}.last_conv_3x3") for i in levels]
    return {
        "context_frames": width("conditioning_stack.conv1", 1) // frame_channels[0],
        "input_channels": width("conditioning_stack.d1.first_conv_3x3", 1) // 4,
        "output_channels": width("sampler.conv_1x1") // 4,
        "conditioning_channels": [width(f"conditioning_stack.conv{i}") for i in levels],
        "latent_channels": [width(f"latent_stack.l_block{i}.first_conv_3x3") for i in levels],
        "z_channels": width("latent_stack.conv_3x3"),
        "frame_channels": frame_channels,
        "frame_hidden_channels": [width(f"conditioning_stack.d{i}.first_conv_3x3") for i in levels],
        "upsample_hidden_channels": [width(f"sampler.up_g{i}.first_conv_3x3") for i in reversed(levels)],
        "attention_over": "rows",
    }


def _build(config: dict[str, Any]) -> Generator:
    try:
        with torch.random.fork_rng(devices=[]):
            return Generator(**config).fold()
    except (ValueError, TypeError) as error:
        raise RefusedInput(
            "weights are of a network that can be built", came=error, do="check them"
        ) from error


def _renamed(weights: Mapping[str, Tensor], generator: Generator) -> dict[str, Tensor]:
    """The weights under our names and in our order of channels.

    Raises:
        RefusedInput: If they are not exactly those of the generator.
    """
    expected = generator.state_dict()
    theirs = {name: _name_in_port(name) for name in expected}
    problems = [f"{name} is missing" for name in theirs.values() if name not in weights]
    problems += [f"{name} is unknown" for name in weights if name not in theirs.values()]
    for name, value in expected.items():
        came = weights.get(theirs[name], value).shape
        if came != value.shape:
            problems.append(f"{theirs[name]} has shape {tuple(came)}, not {tuple(value.shape)}")
    if problems:
        raise _unlike(problems)
    frames = generator.config["context_frames"]
    return {
        name: _frame_by_frame(weights[their], frames) if _mixes_frames(name) else weights[their]
        for name, their in theirs.items()
    }


def _name_in_port(name: str) -> str:
    """What the port calls one of our weights."""
    parents = _parents()
    parent = next(parent for parent in parents if name.startswith(f"{parent}."))
    layers = name.removeprefix(f"{parent}.").split(".")
    return ".".join([parents[parent], *(LAYERS.get(layer, layer) for layer in layers)])


def _parents() -> dict[str, str]:
    """The port's names of blocks and of layers outside blocks, by ours."""
    names = {
        "latent_stack.layers.0": "latent_stack.conv_3x3",
        f"latent_stack.layers.{LEVELS}": "latent_stack.att_block",
        "sampler.norm": "sampler.bn",
        "sampler.output": "sampler.conv_1x1",
    }
    for i in range(1, LEVELS + 1):
        level = f"sampler.levels.{LEVELS - i}"  # The port counts from the coarsest.
        names |= {
            f"conditioning_stack.blocks.{i - 1}": f"conditioning_stack.d{i}",
            f"conditioning_stack.mixing.{i - 1}": f"conditioning_stack.conv{i}",
            f"latent_stack.layers.{i + (i == LEVELS)}": f"latent_stack.l_block{i}",
            f"{level}.gru": f"sampler.convGRU{i}.cell",
            f"{level}.per_frame.0": f"sampler.gru_conv_1x1{'' if i == 1 else f'_{i}'}",
            f"{level}.per_frame.1": f"sampler.g{i}",
            f"{level}.per_frame.2": f"sampler.up_g{i}",
        }
    return names


def _mixes_frames(name: str) -> bool:
    return re.fullmatch(r"conditioning_stack\.mixing\.\d\.weight", name) is not None


def _frame_by_frame(weight: Tensor, frames: int) -> Tensor:
    """Input channel c * frames + t becomes t * channels + c."""
    return weight.unflatten(1, (-1, frames)).transpose(1, 2).flatten(1, 2)


def _refuse_not_finite(name: str, value: Tensor) -> None:
    if not value.isfinite().all():
        raise RefusedInput("weights are finite", came=f"{name} is not", do="fetch the file anew")


def _unlike(problems: Sequence[str]) -> RefusedInput:
    return RefusedInput(
        "weights are those of the generator of dgmr 1.4.4", came=_some(problems), do="give that network's"
    )


def _some(names: Iterable[str], count: int = 4) -> str:
    names = list(names)
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
