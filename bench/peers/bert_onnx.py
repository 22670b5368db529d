"""onnxruntime's side of `npm run bench -- bert`: BertModel exported by torch.onnx, all graph optimisations on."""

import os

from protocol import THREADS, need, serve

try:
    import onnxruntime
    import torch
    from transformers import BertModel
except ImportError as error:
    need(error)


def export(p, ids, path):
    model = BertModel.from_pretrained(p["weights"], attn_implementation="sdpa").eval()

    class Outputs(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, input_ids):
            out = self.model(input_ids=input_ids)
            return out.last_hidden_state, out.pooler_output

    with torch.inference_mode():
        torch.onnx.export(
            Outputs(), (ids,), path, input_names=["ids"], output_names=["hidden", "pooled"], dynamo=True, external_data=True
        )


def prepare(request):
    p = request["parameters"]
    with open(p["ids"], "rb") as file:
        ids = torch.frombuffer(bytearray(file.read()), dtype=torch.int32).reshape(p["batch"], p["time"]).long()
    path = os.path.join(p["weights"], "model.onnx")
    if not os.path.exists(path):
        export(p, ids, path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    inputs = {"ids": ids.numpy()}

    def step():
        _, pooled = session.run(["hidden", "pooled"], inputs)
        return pooled.reshape(-1)[: p["compared"]].tolist()

    return f"onnxruntime {onnxruntime.__version__}, f32", step


serve(prepare)
