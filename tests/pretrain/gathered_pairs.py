"""One step on a batch that several processes share, to be run by torchrun; rank 0 writes what came of it."""

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from engine.optim import OptimConfig, Player
from pretrain.clip.losses import LogitScale, cx_loss

BATCH, INPUTS, AUDIO, IMAGE = 8, 6, 5, 4


def step(rank: int = 0, count: int = 1) -> dict[str, torch.Tensor]:
    """Take a step on this process's share of the pairs; return the mean loss, gradients and parameters."""
    torch.manual_seed(0)
    heard, image = torch.randn(BATCH, INPUTS), torch.randn(BATCH, IMAGE)
    parts = nn.ModuleDict(
        {
            "encoder": nn.Linear(INPUTS, AUDIO),
            "to_image": nn.Linear(AUDIO, IMAGE),
            "to_audio": nn.Linear(IMAGE, AUDIO),
            "scale_audio": LogitScale(),
            "scale_image": LogitScale(),
        }
    )
    player = Player(parts, OptimConfig(lr=0.01))
    share = slice(rank * BATCH // count, (rank + 1) * BATCH // count)
    audio, image = parts["encoder"](heard[share]), image[share]
    loss = cx_loss(
        audio,
        image,
        parts["to_image"](audio),
        parts["to_audio"](image),
        parts["scale_audio"](),
        parts["scale_image"](),
    )
    gradients = torch.autograd.grad(loss, player.parameters, retain_graph=True)
    flat = torch.cat([g.reshape(-1) for g in gradients])
    player.step(loss)
    mean = loss.detach().clone()
    if count > 1:
        for tensor in (flat, mean):
            dist.all_reduce(tensor)
            tensor /= count
    return {"loss": mean, "gradients": flat, **parts.state_dict()}


if __name__ == "__main__":
    dist.init_process_group("gloo")
    outcome = step(dist.get_rank(), dist.get_world_size())
    if dist.get_rank() == 0:
        torch.save(outcome, sys.argv[1])
    dist.barrier()  # nobody leaves while another still needs him
    dist.destroy_process_group()
    os._exit(0)  # gloo's threads may outlive the interpreter's end and abort a process whose work is done
