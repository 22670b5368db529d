"""PyTorch's side of `npm run bench -- gemm`: torch.matmul into a result that stays."""

from protocol import THREADS, need, serve

try:
    import torch
except ImportError as error:
    need(error)

torch.set_num_threads(THREADS)
torch.set_flush_denormal(True)


def numbers(rows, columns, step):
    """The same as in workers/gemm.ts; exact in bf16."""
    at = torch.arange(rows * columns, dtype=torch.int64)
    return (((at * step) % 201 - 100) / 64).to(torch.float32).reshape(rows, columns)


def prepare(request):
    p = request["parameters"]
    m, n, k, repeat = p["m"], p["n"], p["k"], p["repeat"]
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[p["dtype"]]
    a = numbers(*((k, m) if p["layout"] == "TN" else (m, k)), 37).to(dtype)
    b = numbers(*((n, k) if p["layout"] == "NT" else (k, n)), 53).to(dtype)
    a = a.T if p["layout"] == "TN" else a
    b = b.T if p["layout"] == "NT" else b
    c = torch.empty(m, n, dtype=dtype)
    torch.matmul(a, b, out=c)
    squares = c.double().square().sum().item()

    def step():
        for _ in range(repeat):
            torch.matmul(a, b, out=c)
        return squares

    return f"PyTorch {torch.__version__}, {p['dtype']}", step


with torch.inference_mode():
    serve(prepare, torch.get_num_threads)
