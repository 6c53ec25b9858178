"""What the sampler of DGMR starts from: the states of the context, and the latent noise.

Source: Ravuri et al. 2021, DOI 10.1038/s41586-021-03854-z, and its published pseudocode.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from nowcast.model.attention import Attention, AttentionOver
from nowcast.model.blocks import DBlock, LBlock, sn_conv2d


class ConditioningStack(nn.Module):
    """Turns the context into one initial hidden state per level of the sampler.

    Each frame goes through the same space-to-depth and D-blocks; at each level the features of all frames are
    concatenated (frame by frame) and mixed by an SN conv3x3 and a ReLU.

    Args:
        context_frames: number T of frames.
        input_channels: channels C per frame.
        frame_channels: widths of the D-blocks, finest level first.
        frame_hidden_channels: widths inside the D-blocks; None takes those of their inputs.
        conditioning_channels: widths of the states, finest level first.
    """

    def __init__(
        self,
        *,
        context_frames: int,
        input_channels: int,
        frame_channels: Sequence[int],
        frame_hidden_channels: Sequence[int] | None,
        conditioning_channels: Sequence[int],
    ) -> None:
        super().__init__()
        widths = [4 * input_channels, *frame_channels]
        self.blocks = nn.ModuleList(
            DBlock(width, wider, hidden_channels=hidden)
            for width, wider, hidden in zip(
                widths[:-1], widths[1:], frame_hidden_channels or widths[:-1], strict=True
            )
        )
        self.mixing = nn.ModuleList(
            sn_conv2d(context_frames * frame_width, width, 3)
            for frame_width, width in zip(frame_channels, conditioning_channels, strict=True)
        )

    def forward(self, context: Tensor) -> list[Tensor]:
        """Maps (B, T, C, H, W) to states (B, conditioning_channels[i], H / 2**(i + 2), ...), finest first."""
        batch, frames = context.shape[:2]
        features = F.pixel_unshuffle(context.flatten(0, 1), 2)
        states = []
        for block, mix in zip(self.blocks, self.mixing, strict=True):
            features = block(features)
            frame_by_frame = features.unflatten(0, (batch, frames)).flatten(1, 2)
            states.append(F.relu(mix(frame_by_frame)))
        return states


class LatentStack(nn.Module):
    """Turns latent noise into the input of the sampler: SN conv3x3, L-blocks, attention before the last one.

    Args:
        z_channels: channels of the noise.
        latent_channels: widths of the L-blocks, at least two, not decreasing.
        attention_over: see `Attention`.
    """

    def __init__(
        self, *, z_channels: int, latent_channels: Sequence[int], attention_over: AttentionOver
    ) -> None:
        super().__init__()
        widths = [z_channels, *latent_channels]
        blocks: list[nn.Module] = list(map(LBlock, widths[:-1], widths[1:]))
        blocks.insert(-1, Attention(widths[-2], over=attention_over))
        self.layers = nn.Sequential(sn_conv2d(z_channels, z_channels, 3), *blocks)

    def forward(self, z: Tensor) -> Tensor:
        """Maps (N, z_channels, h, w) to (N, latent_channels[-1], h, w)."""
        return self.layers(z)
