"""Makes the golden files of recurrent layers and of the residual network: tiny random ones, run by PyTorch in f32 on the CPU.

    python test/golden/layers/make.py

`lstm`, `gru`: two layers over a padded-free batch from given states, with all gradients of a weighted sum of outputs and last states.
`resnet`: a CIFAR network of one block per stage (He et al. 2016, section 4.2): a training pass with the statistics afterwards, gradients,
and the logits of an evaluation with those statistics.
"""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

HERE = Path(__file__).parent


def stored(tensors: dict[str, torch.Tensor], path: Path) -> None:
    save_file(
        {k: (v if v.is_floating_point() else v.to(torch.int32)).detach().contiguous().clone() for k, v in tensors.items()}, path
    )


def recurrent(name: str, kind: type[nn.RNNBase]) -> None:
    torch.manual_seed(3)
    time, batch, width, hidden = 5, 3, 7, 6
    layers = kind(width, hidden, num_layers=2)
    with torch.no_grad():
        for p in layers.parameters():
            p.mul_(2)
    x = torch.randn(time, batch, width, requires_grad=True)
    states = [torch.randn(2, batch, hidden, requires_grad=True) for _ in range(2 if kind is nn.LSTM else 1)]
    y, last = layers(x, tuple(states) if kind is nn.LSTM else states[0])
    last = list(last) if kind is nn.LSTM else [last]
    weights = [torch.randn_like(t) for t in [y, *last]]
    sum((a * b).sum() for a, b in zip([y, *last], weights)).backward()
    out = {"x": x, "y": y, "dx": x.grad, "weigh.y": weights[0]}
    for letter, state, end, weigh in zip("hc", states, last, weights[1:]):
        out |= {f"{letter}0": state, letter: end, f"d{letter}0": state.grad, f"weigh.{letter}": weigh}
    for key, p in layers.named_parameters():
        out |= {f"parameters.{key}": p, f"gradients.{key}": p.grad}
    stored(out, HERE / f"{name}.safetensors")


class Block(nn.Module):
    def __init__(self, channels: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.stride, self.more = stride, width - channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.more:
            low = self.more // 2
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, low, self.more - low))
        return F.relu(y + x)


class ResNet(nn.Module):
    def __init__(self, widths: list[int]):
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.layer1 = nn.Sequential(Block(widths[0], widths[0], 1))
        self.layer2 = nn.Sequential(Block(widths[0], widths[1], 2))
        self.layer3 = nn.Sequential(Block(widths[1], widths[2], 2))
        self.linear = nn.Linear(widths[2], 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        return self.linear(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


def resnet() -> None:
    torch.manual_seed(5)
    model = ResNet([8, 12, 20])
    with torch.no_grad():
        for key, p in model.named_parameters():
            if p.dim() == 1:
                p.copy_((1.0 if key.endswith("weight") else 0.0) + 0.2 * torch.randn_like(p))
    stored(dict(model.state_dict()), HERE / "resnet.safetensors")
    images, labels = torch.randn(4, 3, 12, 12), torch.randint(0, 10, (4,))
    logits = model.train()(images)
    loss = F.cross_entropy(logits, labels)
    loss.backward()
    out = {"images": images.permute(0, 2, 3, 1), "labels": labels, "logits": logits, "loss": loss}
    for key, p in model.named_parameters():
        out[f"gradients.{key}"] = p.grad
    for key, b in model.named_buffers():
        if not key.endswith("num_batches_tracked"):
            out[f"statistics.{key}"] = b
    with torch.no_grad():
        out["evaluated"] = model.eval()(images)
    stored(out, HERE / "resnet.expected.safetensors")


if __name__ == "__main__":
    recurrent("lstm", nn.LSTM)
    recurrent("gru", nn.GRU)
    resnet()
    (HERE / "versions.json").write_text(json.dumps({"torch": torch.__version__.split("+")[0]}, indent=2) + "\n")
