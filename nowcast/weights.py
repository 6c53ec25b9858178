"""Networks in files: training checkpoints are read, published weights are written and read.

A network never travels alone. Its *card* says in plain values what it is and what it was trained on:
``generator`` (its arguments), ``transform``, ``output``, ``frame`` (see `nowcast.representation`),
``grid_spacing`` (m), ``time_step_minutes`` and ``package_version``. A checkpoint holds it under the key
`CARD`, a weights file (safetensors: tensors and text, no code) as JSON in its metadata.
"""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import torch
import yaml  # type: ignore[import-untyped]
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from data_prep.schema import RefusedInput
from nowcast.files import written_whole
from nowcast.model import Generator
from nowcast.model.blocks import normalized_once
from nowcast.representation import Representation

CARD = "nowcast"
"""Key under which a file holds the card of its network."""
SUFFIX = ".safetensors"
MADE_BY = "model weights were written by nowcast train, export or import-ocf"
PREFIX = "generator."
PRETRAINED = "pretrained"
"""Name of the weights that are shipped."""
NORM_ITERATIONS = 50
ADDITIONS = ("drift", "texture", "smooth", "grain")
"""Parts of a network that weights without them may be given."""
UNREADABLE = (
    OSError, EOFError, KeyError, TypeError, ValueError, RuntimeError, AttributeError,
    pickle.UnpicklingError, zipfile.BadZipFile, SafetensorError,
)  # fmt: skip


def pretrained_path() -> Path:
    """The weights that are shipped.

    Raises:
        RefusedInput: If this installation lacks them.
    """
    path = Path(str(resources.files("nowcast") / "pretrained" / f"{PRETRAINED}{SUFFIX}"))
    if not path.is_file():
        raise RefusedInput("the package holds its weights", came=f"no {path}", do="install nowcast anew")
    return path


def load_network(path: str | Path) -> tuple[Generator, dict[str, Any]]:
    """The network of a checkpoint or a weights file, folded for inference, and its card.

    No code in the file is run.

    Raises:
        RefusedInput: If the file is neither, is damaged, or holds weights that are not finite.
    """
    try:
        state, card = _read_weights(path) if Path(path).suffix == SUFFIX else _read_checkpoint(path)
        _check_card(card)
        if not all(value.is_floating_point() or name.endswith("tracked") for name, value in state.items()):
            raise ValueError("weights that are whole numbers")
        generator = _folded(card["generator"], state)
        if not all(value.isfinite().all() for value in generator.state_dict().values()):
            raise ValueError("weights that are not finite")
    except UNREADABLE as error:
        raise RefusedInput(
            MADE_BY, came=f"{path} ({reason(error)})", do="train a model with nowcast train fit"
        ) from error
    return generator, card


def take_weights(generator: Generator, source: str | Path) -> None:
    """Start a generator that is to be trained from the weights of a file, or from those that are shipped.

    Args:
        generator: Network of the same sizes; its spectral norms are found anew. It may have `ADDITIONS` that
            the file lacks, which then start as they are.
        source: As for `load_network`, or ``pretrained``.

    Raises:
        RefusedInput: As `load_network`, or if the sizes differ.
    """
    trained, _ = load_network(pretrained_path() if source == PRETRAINED else source)
    differing = {
        name: value
        for name, value in trained.config.items()
        if generator.config[name] != value and (value or name not in ADDITIONS)
    }
    if differing:
        raise RefusedInput(
            f"the weights of {source} are of a network of other sizes",
            came=f"{ {name: generator.config.get(name) for name in differing} }",
            do=f"set model.generator to {differing}",
        )
    state = dict(generator.state_dict())
    for name, value in trained.state_dict().items():
        parametrized = name.replace(".weight", ".parametrizations.weight.original")
        state[parametrized if parametrized in state else name] = value
    generator.load_state_dict(state)
    _find_norms(generator)


def _find_norms(generator: Generator) -> None:
    """Power iterations until the spectral norms belong to the weights."""
    training = generator.training
    generator.train()
    for _ in range(NORM_ITERATIONS):
        with torch.no_grad(), normalized_once(generator):
            pass
    generator.train(training)


def save_weights(path: str | Path, generator: Generator, card: dict[str, Any]) -> None:
    """Write the folded weights of a network and its card as safetensors.

    Raises:
        RefusedInput: If the name does not end in .safetensors or the card lacks what a forecaster needs.
    """
    if Path(path).suffix != SUFFIX:
        raise RefusedInput(f"weights are written to a file *{SUFFIX}", came=path, do="correct the name")
    try:
        _check_card(card)
    except (KeyError, TypeError, ValueError) as error:
        raise RefusedInput(
            "a card names networks, representation, grid spacing and time step",
            came=reason(error),
            do="export a checkpoint of nowcast train",
        ) from error
    state = _folded(generator.config, generator.state_dict()).state_dict()
    tensors = {name: value.cpu().contiguous() for name, value in state.items()}
    with written_whole(Path(path)) as unfinished:
        save_file(tensors, unfinished, metadata={CARD: json.dumps(card)})


def read_about(path: str | Path) -> dict[str, Any]:
    """Entries of a card from a YAML file.

    Raises:
        RefusedInput: If it is no mapping, or would replace what a checkpoint says of its network.
    """
    rule, do = "a card's further entries are a YAML mapping", "see configs/card/pretrained.yaml"
    try:
        about = yaml.safe_load(Path(path).read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RefusedInput(rule, came=f"{path} ({reason(error)})", do=do) from error
    if not isinstance(about, dict) or not all(isinstance(name, str) for name in about):
        raise RefusedInput(rule, came=f"{path}, which is none", do=do)
    fixed = {"generator", "discriminator", "grid_spacing", "time_step_minutes", *Representation().card()}
    if fixed & set(about):
        raise RefusedInput(
            "what a checkpoint says of its network stays", came=sorted(fixed & set(about)), do="leave it out"
        )
    return about


def refuse_other_card(
    card: dict[str, Any] | None, own: dict[str, Any], names: Sequence[str]
) -> dict[str, Any]:
    """The card of a checkpoint that a training is to go on from.

    Args:
        card: What the checkpoint holds, if anything.
        own: What the training would write.
        names: Entries that have to agree.

    Raises:
        RefusedInput: If there is none, or an entry differs.
    """
    if card is None:
        raise RefusedInput(
            "a checkpoint was written by nowcast train", came=f"one without '{CARD}'", do="start anew"
        )
    for name in names:
        if card.get(name) != own[name]:
            theirs, ours = _differences(card.get(name), own[name])
            raise RefusedInput(
                f"the checkpoint was trained with {name} {theirs}",
                came=ours,
                do=f"set model.{name} to the checkpoint's, or start anew",
            )
    return card


def _differences(theirs: Any, ours: Any) -> tuple[Any, Any]:
    """Of two configurations, only what differs."""
    if not (isinstance(theirs, dict) and isinstance(ours, dict)):
        return theirs, ours
    names = [name for name in ours if theirs.get(name) != ours[name]]
    return {name: theirs.get(name) for name in names}, {name: ours[name] for name in names}


def generator_weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """State of the generator in that of a training."""
    return {name.removeprefix(PREFIX): value for name, value in state.items() if name.startswith(PREFIX)}


def reason(error: Exception) -> str:
    """Why a file cannot be loaded, without torch's advice to load it unsafely."""
    if isinstance(error, pickle.UnpicklingError):
        return "it holds more than plain values and tensors"
    if "weights_only" in str(error):
        return "it is damaged"
    return " ".join(f"{type(error).__name__}: {error}".splitlines()[:1])


def _check_card(card: dict[str, Any]) -> None:
    """What a forecaster needs.

    Raises:
        KeyError, TypeError, ValueError: If something is missing or senseless.
    """
    Representation.of(card)
    for name in ("grid_spacing", "time_step_minutes"):
        value = card[name]
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e9:
            raise ValueError(f"{name} {value}")


def _folded(config: dict[str, Any], state: dict[str, Tensor]) -> Generator:
    """A new generator with these weights, folded (a copy of a module would share its class with it)."""
    with torch.random.fork_rng(devices=[]):
        generator = Generator(**config)
    if not any(".parametrizations." in name for name in state):
        generator.fold()
    generator.load_state_dict(state)
    return generator.fold()


def _read_checkpoint(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    return generator_weights(checkpoint["state_dict"]), checkpoint[CARD]


def _read_weights(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with safe_open(path, framework="pt") as file:
        card = json.loads(file.metadata()[CARD])
        return {name: file.get_tensor(name) for name in file.keys()}, card  # noqa: SIM118 (no mapping)
