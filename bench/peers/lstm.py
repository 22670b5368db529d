"""PyTorch's side of `npm run bench -- lstm`: trains nn.LSTM on whole sequences.

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


def prepare(request):
    p = request["parameters"]
    style, precision = request["variant"].split()
    model = nn.LSTM(p["width"], p["width"], p["layers"])
    model.load_state_dict(load_file(p["weights"]))
    optimizer = torch.optim.SGD(model.parameters(), lr=p["rate"], momentum=p["momentum"], fused=True)
    with open(p["data"], "rb") as file:
        data = torch.frombuffer(bytearray(file.read()), dtype=torch.float32)
    x, y = data.reshape(2, p["time"], p["batch"], p["width"])
    run = torch.compile(model) if style == "compile" else model

    def step():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            out, _ = run(x)
        loss = F.mse_loss(out.float(), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    return f"PyTorch {torch.__version__}, {precision}", step


serve(prepare, torch.get_num_threads)
