"""PyTorch's side of `npm run bench -- resnet`: trains a CIFAR ResNet (He et al. 2016, section 4.2) with channels last.

A variant is "eager" or "compile", then "f32" or "bf16": "compile bf16" is torch.compile under bf16 autocast.
"""

from protocol import THREADS, need, serve

try:
    import torch
    from safetensors.torch import load_file
except ImportError as error:
    need(error)
import torch.nn.functional as F
from torch import nn

torch.set_num_threads(THREADS)
torch.set_flush_denormal(True)


class Block(nn.Module):
    def __init__(self, channels, width, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.stride, self.more = stride, width - channels

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.more:
            low = self.more // 2
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, low, self.more - low))
        return F.relu(y + x)


class ResNet(nn.Module):
    def __init__(self, weights):
        super().__init__()
        width, channels = weights["conv1.weight"].shape[:2]
        self.conv1 = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.stages = []
        stage = 1
        while f"layer{stage}.0.conv1.weight" in weights:
            blocks, i = [], 0
            while (first := weights.get(f"layer{stage}.{i}.conv1.weight")) is not None:
                blocks.append(Block(first.shape[1], first.shape[0], 2 if stage > 1 and i == 0 else 1))
                i, width = i + 1, first.shape[0]
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
            self.stages.append(f"layer{stage}")
            stage += 1
        self.linear = nn.Linear(width, weights["linear.weight"].shape[0])
        missing = self.load_state_dict(weights, strict=False)
        assert not missing.unexpected_keys and all(k.endswith("num_batches_tracked") for k in missing.missing_keys), missing

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        for stage in self.stages:
            x = getattr(self, stage)(x)
        return self.linear(x.mean((2, 3)))


def prepare(request):
    p = request["parameters"]
    style, precision = request["variant"].split()
    model = ResNet(load_file(p["weights"])).train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=p["rate"], momentum=p["momentum"], weight_decay=p["decay"], fused=True)
    with open(p["data"], "rb") as file:
        data = bytearray(file.read())
    pixels = p["batches"] * p["batch"] * p["size"] ** 2 * p["channels"]
    images = torch.frombuffer(data, dtype=torch.float32, count=pixels)
    # (batch, channels, height, width) whose memory has the channels last.
    images = images.reshape(p["batches"], p["batch"], p["size"], p["size"], p["channels"]).permute(0, 1, 4, 2, 3)
    labels = torch.frombuffer(data, dtype=torch.int32, offset=4 * pixels).reshape(p["batches"], p["batch"]).long()
    run = torch.compile(model) if style == "compile" else model
    at = 0

    def step():
        nonlocal at
        x, y = images[at % len(images)], labels[at % len(labels)]
        at += 1
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            logits = run(x)
        loss = F.cross_entropy(logits.float(), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    return f"PyTorch {torch.__version__}, {precision}, channels last", step


serve(prepare, torch.get_num_threads)
