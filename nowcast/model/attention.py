"""Spatial self-attention of the latent stack."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nowcast.model.blocks import conv2d

AttentionOver = Literal["cells", "rows"]


class Attention(nn.Module):
    """Self-attention over all cells of a feature map, added to it with a learned weight that starts at zero.

    y = x + gamma * W_o(softmax(q . k) v) with 1x1 convolutions q, k, v without bias and no scaling of q . k.
    Source: pseudocode of DOI 10.1038/s41586-021-03854-z.

    Args:
        channels: width C of input and output.
        ratio: C divided by the width of queries, keys and values, which is at least 1.
        over: what attends to what: ``cells``, or ``rows`` of single channels, whose columns then play the
            part of the channels. The latter is what the public port (PyPI dgmr 1.4.4) does, by an exchange
            of axes; weights that it trained need it.
    """

    def __init__(self, channels: int, *, ratio: int = 8, over: AttentionOver = "cells") -> None:
        super().__init__()
        self.over = over
        width = max(1, channels // ratio)
        self.query = conv2d(channels, width, 1, bias=False)
        self.key = conv2d(channels, width, 1, bias=False)
        self.value = conv2d(channels, width, 1, bias=False)
        self.output = conv2d(width, channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, C, H, W) to the same shape; each of the H * W cells attends to all of them."""
        query, key, value = (layer(x) for layer in (self.query, self.key, self.value))
        if self.over == "rows":
            rows = (part.flatten(1, 2) for part in (query, key, value))
            attended = _attend(*rows).unflatten(1, query.shape[1:3])
        else:
            cells = (part.flatten(2).transpose(1, 2) for part in (query, key, value))
            attended = _attend(*cells).transpose(1, 2).unflatten(2, x.shape[-2:])
        return x + self.gamma * self.output(attended)


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(q . k) v of (N, places, values) each."""
    query, key, value = (part.unsqueeze(1) for part in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value, scale=1.0).squeeze(1)
