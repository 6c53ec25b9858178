"""The DGMR network: generator, discriminators and ready-made sizes."""

from nowcast.model import presets
from nowcast.model.discriminators import Discriminator
from nowcast.model.generator import Generator

__all__ = ["Discriminator", "Generator", "presets"]
