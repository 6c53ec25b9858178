"""The generator of the public port of DGMR (PyPI ``dgmr`` 1.4.4) as it is stored, with made-up values."""

from collections.abc import Iterator

import numpy as np
import torch

Layer = tuple[str, str, tuple[int, ...]]


def ocf_state(*, seed: int, context: int = 384, latent: int = 768, noise: int = 8) -> dict[str, torch.Tensor]:
    """The state_dict of the port's generator with values that depend on the seed alone.

    They are such that the output depends on context, noise and attention alike.

    Args:
        seed: Of `np.random.RandomState`, whose stream is frozen; only its uniform numbers are used, which
            are the same on every machine.
        context: The port's ``context_channels``.
        latent: The port's ``latent_channels``, twice as many.
        noise: Channels of z.
    """
    random = np.random.RandomState(seed)
    state: dict[str, torch.Tensor] = {}
    for name, kind, shape in layers(context, latent, noise):
        state |= {f"{name}.{leaf}": torch.as_tensor(value) for leaf, value in VALUES[kind](random, shape)}
    return state


def inputs(seed: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Context (1, 4, 1, size, size) in mm/h, half of it dry, and noise (8, size / 32, size / 32)."""
    random = np.random.RandomState(seed)
    context = np.maximum(20 * random.random_sample((1, 4, 1, size, size)) - 10, 0)
    z = 2 * np.sqrt(3) * (random.random_sample((8, size // 32, size // 32)) - 0.5)
    return torch.from_numpy(context).float(), torch.from_numpy(z).float()


def layers(context: int, latent: int, noise: int) -> Iterator[Layer]:
    """Name, kind and shape of the weight of every layer."""
    frame = [4] + [context // 16 * 2**i for i in range(4)]
    for i in range(1, 5):
        narrow, wide = frame[i - 1], frame[i]
        yield from block(f"conditioning_stack.d{i}", "spectral", (wide, narrow), (wide, narrow), (wide, wide))
    for i in range(1, 5):
        yield f"conditioning_stack.conv{i}", "spectral", (context // 8 * 2 ** (i - 1), 4 * frame[i], 3, 3)
    yield "latent_stack.conv_3x3", "spectral", (noise, noise, 3, 3)
    widths = [noise, latent // 32, latent // 16, latent // 4, latent]
    for i in range(1, 5):
        narrow, wide = widths[i - 1], widths[i]
        yield from block(
            f"latent_stack.l_block{i}", "plain", (wide - narrow, narrow), (wide, narrow), (wide, wide)
        )
    for name in ("query", "key", "value"):
        yield f"latent_stack.att_block.{name}", "attention", (latent // 32, latent // 4, 1, 1)
    yield "latent_stack.att_block.last_conv", "attention", (latent // 4, latent // 32, 1, 1)
    yield "latent_stack.att_block", "gain", (1,)
    for i in range(1, 5):
        yield from sampler_level(i, latent // 2 ** (i - 1), context // 2 ** (i - 1))
    yield "sampler.bn", "norm", (latent // 16,)
    yield "sampler.conv_1x1", "spectral", (4, latent // 16, 1, 1)


def sampler_level(i: int, wide: int, narrow: int) -> Iterator[Layer]:
    for name in ("read_gate_conv", "update_gate_conv", "output_conv"):
        yield f"sampler.convGRU{i}.cell.{name}", "spectral", (narrow, wide + narrow, 3, 3)
    yield f"sampler.gru_conv_1x1{'' if i == 1 else f'_{i}'}", "spectral", (wide, narrow, 1, 1)
    for name, out in ((f"sampler.g{i}", wide), (f"sampler.up_g{i}", wide // 2)):
        yield from ((f"{name}.{norm}", "norm", (wide,)) for norm in ("bn1", "bn2"))
        yield from block(name, "spectral", (out, wide), (wide, wide), (out, wide))


def block(name: str, kind: str, shortcut: tuple, first: tuple, last: tuple) -> Iterator[Layer]:
    yield f"{name}.conv_1x1", kind, (*shortcut, 1, 1)
    yield f"{name}.first_conv_3x3", kind, (*first, 3, 3)
    yield f"{name}.last_conv_3x3", kind, (*last, 3, 3)


def uniform(random: np.random.RandomState, shape: tuple[int, ...], low: float, high: float) -> np.ndarray:
    return (low + (high - low) * random.random_sample(shape)).astype(np.float32)


def fan_in_uniform(random: np.random.RandomState, shape: tuple[int, ...], variance: float) -> np.ndarray:
    """Values whose variance is that divided by the number of values that meet in one cell of the output."""
    bound = np.sqrt(3 * variance / np.prod(shape[1:]))
    return uniform(random, shape, -bound, bound)


def attention(random: np.random.RandomState, shape: tuple[int, ...]) -> Iterator[tuple[str, np.ndarray]]:
    """Large enough that some cells are attended to more than others."""
    yield "weight", fan_in_uniform(random, shape, 4)


def plain(random: np.random.RandomState, shape: tuple[int, ...]) -> Iterator[tuple[str, np.ndarray]]:
    yield "weight", fan_in_uniform(random, shape, 1)
    yield "bias", uniform(random, shape[:1], -0.2, 0.2)


def spectral(random: np.random.RandomState, shape: tuple[int, ...]) -> Iterator[tuple[str, np.ndarray]]:
    """After one power iteration u^T W v is not yet the largest singular value: the two cannot be mixed up."""
    weight = fan_in_uniform(random, shape, 1)
    matrix = weight.reshape(shape[0], -1).astype(np.float64)
    u = matrix @ (random.random_sample(matrix.shape[1]) - 0.5)
    u /= np.linalg.norm(u)
    v = matrix.T @ u
    yield "parametrizations.weight.original", weight
    yield "parametrizations.weight.0._u", u.astype(np.float32)
    yield "parametrizations.weight.0._v", (v / np.linalg.norm(v)).astype(np.float32)
    yield "bias", uniform(random, shape[:1], -0.2, 0.2)


def norm(random: np.random.RandomState, shape: tuple[int, ...]) -> Iterator[tuple[str, np.ndarray]]:
    yield "weight", uniform(random, shape, 0.5, 1.5)
    yield "bias", uniform(random, shape, -0.2, 0.2)
    yield "running_mean", uniform(random, shape, -0.2, 0.2)
    yield "running_var", uniform(random, shape, 0.1, 0.4)
    yield "num_batches_tracked", np.array(1000)


def gain(random: np.random.RandomState, shape: tuple[int, ...]) -> Iterator[tuple[str, np.ndarray]]:
    yield "gamma", uniform(random, shape, 0.5, 1.5)


VALUES = {"spectral": spectral, "plain": plain, "attention": attention, "norm": norm, "gain": gain}
