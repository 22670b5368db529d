"""PyTorch's side of `npm run bench -- bert`: transformers' BertModel with scaled_dot_product_attention.

A variant is "eager" or "compile", then "f32", "autocast bf16" (weights in f32) or "bf16" (weights in bf16).
"""

from protocol import THREADS, need, serve

try:
    import torch
    from transformers import BertModel
except ImportError as error:
    need(error)

torch.set_num_threads(THREADS)
torch.set_flush_denormal(True)


def prepare(request):
    p = request["parameters"]
    style, precision = request["variant"].split(" ", 1)
    model = BertModel.from_pretrained(p["weights"], attn_implementation="sdpa").eval()
    if precision == "bf16":
        model = model.bfloat16()
    with open(p["ids"], "rb") as file:
        ids = torch.frombuffer(bytearray(file.read()), dtype=torch.int32).reshape(p["batch"], p["time"]).long()
    run = torch.compile(model) if style == "compile" else model

    def step():
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "autocast bf16"):
            pooled = run(input_ids=ids).pooler_output
        return pooled.flatten()[: p["compared"]].float().tolist()

    return f"PyTorch {torch.__version__}, {precision}", step


with torch.inference_mode():
    serve(prepare, torch.get_num_threads)
