"""PyTorch's side of `npm run bench -- gpt`: trains a GPT-2.

A variant is "eager" or "compile", then "f32" or "bf16": "compile bf16" is torch.compile under bf16 autocast.
"""

import json
import math
import os
import struct

from protocol import THREADS, need, serve

try:
    import torch
except ImportError as error:
    need(error)
import torch.nn.functional as F
from torch import nn

torch.set_num_threads(THREADS)
# Denormal gradients of a fresh model slow a step several times over; our kernels flush them as well.
torch.set_flush_denormal(True)


class Block(nn.Module):
    def __init__(self, width, heads, epsilon):
        super().__init__()
        self.heads = heads
        self.ln_1 = nn.LayerNorm(width, eps=epsilon)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.ln_2 = nn.LayerNorm(width, eps=epsilon)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x):
        batch, time_, width = x.shape
        q, k, v = self.qkv(self.ln_1(x)).view(batch, time_, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(batch, time_, width))
        return x + self.down(F.gelu(self.up(self.ln_2(x)), approximate="tanh"))


class GPT(nn.Module):
    def __init__(self, work, epsilon):
        super().__init__()
        width = work["width"]
        self.wte = nn.Embedding(work["vocabulary"], width)
        self.wpe = nn.Embedding(work["context"], width)
        self.h = nn.ModuleList(Block(width, work["heads"], epsilon) for _ in range(work["layers"]))
        self.ln_f = nn.LayerNorm(width, eps=epsilon)

    def forward(self, ids, targets):
        x = self.wte(ids) + self.wpe.weight[: ids.shape[1]]
        for block in self.h:
            x = block(x)
        logits = F.linear(self.ln_f(x), self.wte.weight)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def read_safetensors(path):
    """The f32 tensors of a safetensors file, by name."""
    with open(path, "rb") as file:
        data = bytearray(file.read())
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    out = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        assert entry["dtype"] == "F32", f"{name} is {entry['dtype']}"
        start, _ = entry["data_offsets"]
        count = math.prod(entry["shape"])
        out[name] = torch.frombuffer(data, dtype=torch.float32, count=count, offset=8 + length + start).reshape(entry["shape"])
    return out


NAMES = {"qkv": "attn.c_attn", "out": "attn.c_proj", "up": "mlp.c_fc", "down": "mlp.c_proj"}


def load(model, path):
    stored = read_safetensors(path)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            source = "transformer." + name
            for ours, theirs in NAMES.items():
                source = source.replace(f".{ours}.", f".{theirs}.")
            value = stored.pop(source)
            # GPT-2's files hold the matrices of linear layers as (in, out).
            linear = source.endswith(".weight") and ("attn.c_" in source or "mlp.c_" in source)
            parameter.copy_(value.T if linear else value)
    assert all(name == "lm_head.weight" for name in stored), f"not used: {sorted(stored)}"


class Trainer:
    def __init__(self, request):
        given = request["parameters"]
        work, training = given["work"], given["training"]
        style, precision = request["variant"].split()
        self.clip = training["clip"]
        model = GPT(work, training["normEpsilon"])
        load(model, os.path.join(given["weights"], "model.safetensors"))
        self.parameters = list(model.parameters())
        self.optimizer = torch.optim.AdamW(
            [
                {"params": [p for p in self.parameters if p.ndim >= 2], "weight_decay": training["decay"]},
                {"params": [p for p in self.parameters if p.ndim < 2], "weight_decay": 0.0},
            ],
            lr=training["rate"],
            betas=(training["beta1"], training["beta2"]),
            eps=training["epsilon"],
            fused=True,
        )
        self.model = torch.compile(model) if style == "compile" else model
        self.bf16 = precision == "bf16"
        with open(given["batches"], "rb") as file:
            numbers = torch.frombuffer(bytearray(file.read()), dtype=torch.int32).long()
        self.data = numbers.reshape(-1, 2, work["batch"], work["context"])
        self.at = 0

    def step(self):
        ids, targets = self.data[self.at % len(self.data)]
        self.at += 1
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.bf16):
            loss = self.model(ids, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.optimizer.step()
        return loss.item()


def prepare(request):
    return f"PyTorch {torch.__version__}", Trainer(request).step


serve(prepare, torch.get_num_threads)
