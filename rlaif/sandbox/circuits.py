"""Heads that copy from the first step: the initial weights of an induction circuit.

Copying is "what followed this token before?" (Olsson et al. 2022, "In-context Learning and
Induction Heads"): a head of the first layer notes the previous token, heads of the second look for
the place that noted the current one, and say what stands there. Found by chance, this takes a model
of this size millions of tokens; set up here, training only has to keep and refine it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

CONSTANT = 0.5  # what every embedding has in common: it lets a head attend by position alone
NOTING, COPYING = 2, 2  # heads of the first layer, and of the second for each of them
QUIET = 0.05  # gain of all that is written by chance
SHARP, NOTE, MATCH, SAY = 6.0, 0.45, 2.2, 0.5  # logit of a plane; gains


@torch.no_grad()
def install(model: LlamaForCausalLM, *, heads: int, theta: float = 10_000.0) -> None:
    """Overwrite some heads of the first two layers of a Llama with rotary positions, in place."""
    body: Any = model.model
    embeddings: Tensor = body.embed_tokens.weight  # (V, W)
    width = embeddings.shape[1]
    size = width // heads  # of a head
    basis = nn.init.orthogonal_(torch.empty(width, width))  # rows; the first is the constant
    embeddings += CONSTANT * basis[0]
    for layer in body.layers:  # a quiet residual stream, in which the circuit can be heard
        layer.self_attn.o_proj.weight *= QUIET
        layer.mlp.down_proj.weight *= QUIET
    first, second = body.layers[0].self_attn, body.layers[1].self_attn
    rms = ((1 + CONSTANT**2) / width) ** 0.5
    gain = (SHARP * size**0.5) ** 0.5 * rms / CONSTANT
    for head in range(min(NOTING, heads // COPYING)):
        rows = slice(head * size, (head + 1) * size)
        read = _part(basis, head, size)  # what is noted of a token
        write = nn.init.orthogonal_(torch.empty(width, size))  # where
        query, key = _one_back(size, theta)
        first.q_proj.weight[rows] = gain * torch.outer(query, basis[0])
        first.k_proj.weight[rows] = gain * torch.outer(key, basis[0])
        first.v_proj.weight[rows] = NOTE * read
        first.o_proj.weight[:, rows] = NOTE * write
        for n in range(COPYING):
            _copying(second, head * COPYING + n, read, write, n, basis)


def _copying(attention: Any, head: int, read: Tensor, write: Tensor, n: int, basis: Tensor) -> None:
    """A head that looks for the note of the current token; only slow planes match far apart."""
    size = read.shape[0]
    slow = [*range(size // 2 - 7, size // 2), *range(size - 7, size)]
    chosen = slice(n * len(slow), (n + 1) * len(slow))
    rows = slice(head * size, (head + 1) * size)
    query, key = torch.zeros_like(read), torch.zeros_like(read)
    query[slow], key[slow] = read[chosen], write.T[chosen]
    said = _part(basis, head, size)
    attention.q_proj.weight[rows] = MATCH * query
    attention.k_proj.weight[rows] = MATCH * key
    attention.v_proj.weight[rows] = said
    attention.o_proj.weight[:, rows] = SAY * said.T


def _part(basis: Tensor, number: int, size: int) -> Tensor:
    """So many rows of the basis, others for each number as long as there are any; (size, W)."""
    return basis[1 + number * size % (len(basis) - size) :][:size]


def _one_back(size: int, theta: float) -> tuple[Tensor, Tensor]:
    """Query and key whose rotated product is largest one token back: (size,) each."""
    planes = size // 2
    turn = theta ** (-torch.arange(3) / planes)  # the three fastest planes
    query, key = torch.zeros(size), torch.zeros(size)
    query[:3] = 1.0
    key[:3], key[planes : planes + 3] = turn.cos(), turn.sin()
    return query, key
