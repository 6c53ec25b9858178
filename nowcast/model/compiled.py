"""The parts of the networks that are worth compiling."""

from typing import cast

import torch
from torch import nn

from nowcast.model.discriminators import Discriminator
from nowcast.model.generator import Generator

PROGRAMS = 64
"""Levels, times sizes and modes in which a block is used, with room to spare."""


def compile_blocks(generator: Generator, discriminator: Discriminator) -> None:
    """Compile, in place, the parts that take the time; one program for every grid size."""
    per_frame = [cast(nn.Sequential, level.per_frame) for level in generator.sampler.levels]
    parts = [block for blocks in per_frame for block in (blocks[1], blocks[2])]
    parts += [discriminator.spatial.blocks, discriminator.temporal.blocks_3d, discriminator.temporal.blocks]
    # The blocks of all levels share their code, and each is needed in several sizes.
    torch._dynamo.config.recompile_limit = PROGRAMS
    for part in parts:
        part.compile(dynamic=False)
