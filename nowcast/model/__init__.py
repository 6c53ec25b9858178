"""The DGMR network: generator, discriminators and ready-made sizes."""

from nowcast.model.discriminators import Discriminator
from nowcast.model.generator import Generator
from nowcast.model.presets import PRESETS

__all__ = ["PRESETS", "Discriminator", "Generator"]
