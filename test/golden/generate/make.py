"""Makes sampling.json: what transformers' logits processors leave of a few rows of logits.

    python test/golden/generate/make.py

Each case gives logits, the ids seen so far, the parameters, and the probabilities after the processors that `generate` builds for them,
in its own order.
"""

import json
from pathlib import Path

import torch
import transformers
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel

HERE = Path(__file__).parent
VOCABULARY = 40
PARAMETERS = [
    {"temperature": 1.0},
    {"temperature": 0.6},
    {"temperature": 1.0, "top_k": 5},
    {"temperature": 1.4, "top_p": 0.8},
    {"temperature": 1.0, "min_p": 0.1},
    {"temperature": 0.9, "repetition_penalty": 1.5},
    {"temperature": 1.3, "repetition_penalty": 0.7, "top_k": 12},
    {"temperature": 1.1, "top_k": 20, "top_p": 0.9, "min_p": 0.05, "repetition_penalty": 1.2},
    {"temperature": 0.8, "top_k": 3, "top_p": 0.5, "min_p": 0.3},
    {"temperature": 1.0, "top_p": 0.01},
]


def main() -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_positions=16, n_embd=8, n_layer=1, n_head=1))
    generator = torch.Generator().manual_seed(7)
    cases = []
    for number, parameters in enumerate(PARAMETERS * 3):
        logits = torch.randn(VOCABULARY, generator=generator) * (1 + number % 3)
        history = torch.randint(0, VOCABULARY, (6,), generator=generator)
        config = GenerationConfig(do_sample=True, top_k=parameters.get("top_k", 0), **{
            key: value for key, value in parameters.items() if key != "top_k"
        })
        processors = model._get_logits_processor(
            generation_config=config, input_ids_seq_length=6, encoder_input_ids=None, prefix_allowed_tokens_fn=None,
            logits_processor=[],
        )
        left = processors(history[None], logits[None].clone())[0].softmax(-1)
        cases.append({
            "parameters": parameters,
            "logits": [round(x, 6) for x in logits.tolist()],
            "history": history.tolist(),
            "probabilities": [round(x, 8) for x in left.tolist()],
        })
    versions = {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__}
    lines = ",\n".join(json.dumps(case) for case in cases)
    (HERE / "sampling.json").write_text(f'{{"versions": {json.dumps(versions)}, "cases": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
