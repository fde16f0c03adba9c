"""Training a tuned lens as one would first write it: one layer at a time, logits whole, autograd through it all."""

from typing import Any

import torch
from torch import Tensor, nn

import lenskit as lk


def train(
    of: lk.Model, batches: list[list[Tensor]], start: tuple[Tensor, Tensor], layers: list[int], recipe: dict[str, Any]
) -> tuple[Tensor, Tensor, list[list[float]]]:
    """Weights (layer, d, d) and biases (layer, d) after all steps, and the losses; a step is a list of batches."""
    trained = [
        (start[0][n].clone().requires_grad_(not recipe["bias_only"]), start[1][n].clone().requires_grad_())
        for n in range(len(layers))
    ]
    optimizers = []
    for weight, bias in trained:
        parameters = [bias] if recipe["bias_only"] else [weight, bias]
        optimizers.append(
            torch.optim.AdamW(parameters, recipe["lr"], weight_decay=recipe["weight_decay"])
            if recipe["optimizer"] == "adam"
            else torch.optim.SGD(
                parameters, recipe["lr"] * 0.1, momentum=0.9, nesterov=True, weight_decay=recipe["weight_decay"]
            )
        )
    history = []
    for step, passes in enumerate(batches):
        history.append([0.0] * len(layers))
        for n, (layer, (weight, bias), optimizer) in enumerate(zip(layers, trained, optimizers, strict=True)):
            optimizer.zero_grad()
            for ids in passes:
                loss = loss_of(of, ids, layer, weight, bias, recipe) / len(passes)
                loss.backward()
                history[-1][n] += loss.item()
            if recipe["clip"] is not None:
                nn.utils.clip_grad_norm_([weight, bias], recipe["clip"])
            rise, total = recipe["warmup"], len(batches)
            factor = (step + 1) / rise if step < rise else (total - step) / (total - rise)
            for group in optimizer.param_groups:
                group["lr"] = recipe["lr"] * factor * (1.0 if recipe["optimizer"] == "adam" else 0.1)
            optimizer.step()
    weights, biases = zip(*trained, strict=True)
    return torch.stack(weights).detach(), torch.stack(biases).detach(), history


def loss_of(of: lk.Model, ids: Tensor, layer: int, weight: Tensor, bias: Tensor, recipe: dict[str, Any]) -> Tensor:
    """The mean loss of a batch (chunk, pos) at one layer."""
    with torch.no_grad():
        output = of.hf_model(ids, output_hidden_states=True)
    h, length = output.hidden_states[layer], ids.shape[1]
    log_q = of.unembed(h + h @ weight.T + bias).log_softmax(-1)
    log_p = output.logits.log_softmax(-1)
    losses = []
    for pos in range(recipe["skip_first"], length):
        there = pos + recipe["token_shift"]
        if 0 <= there < length:
            if recipe["loss"] == "kl":
                losses.append((log_p[:, there].exp() * (log_p[:, there] - log_q[:, pos])).sum(-1))
            else:
                losses.append(-log_q[:, pos].gather(-1, ids[:, there, None])[:, 0])
    return torch.stack(losses).mean()
