"""Makes the golden files of the encoders: a tiny random BERT, run by transformers in f32 on the CPU.

    python test/golden/encoders/make.py

The folder `bert` is what transformers saved (config.json, model.safetensors) and an expected.safetensors with inputs, outputs and gradients:
whole rows of two segments, and rows padded at the right and at the left.
"""

import json
import shutil
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file

HERE = Path(__file__).parent
VOCABULARY = 61


def perturb(model: torch.nn.Module, seed: int) -> None:
    """Weights wide enough that every term of the computation shows in the results."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() == 1:
                parameter.copy_((1.0 if name.endswith("LayerNorm.weight") else 0.0) + 0.2 * noise)
            else:
                parameter.copy_(noise * (0.5 if "embeddings" in name else 0.2))


def main() -> None:
    config = transformers.BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=56,
        max_position_embeddings=24,
        pad_token_id=0,
    )
    model = transformers.BertForPreTraining._from_config(config, attn_implementation="eager").float().eval()
    perturb(model, 1)
    folder = HERE / "bert"
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)

    generator = torch.Generator().manual_seed(2)
    draw = lambda *shape: torch.randint(3, VOCABULARY, shape, generator=generator)
    out: dict[str, torch.Tensor] = {}
    ids, time = draw(2, 12), 12
    segments = (torch.arange(time) >= torch.tensor([[5], [9]])).long()
    labels = torch.full_like(ids, -100)
    for row, column in ((0, 1), (0, 6), (1, 2), (1, 3), (1, 11)):
        labels[row, column] = ids[row, column]
        ids[row, column] = 2
    result = model(input_ids=ids, token_type_ids=segments, output_hidden_states=True)
    # The next-sentence head is not part of ours: only the loss of the masked tokens, plus a term through the pooler.
    pooled = model.bert(input_ids=ids, token_type_ids=segments).pooler_output
    loss = torch.nn.functional.cross_entropy(result.prediction_logits.flatten(0, 1), labels.flatten())
    (loss + pooled.square().mean()).backward()
    out |= {"input_ids": ids, "token_type_ids": segments, "labels": labels, "logits": result.prediction_logits, "loss": loss}
    out |= {"last_hidden_state": result.hidden_states[-1], "pooled": pooled}
    for key, parameter in model.named_parameters():
        if parameter.grad is not None:
            out[f"gradients.{key}"] = parameter.grad

    ids = draw(3, 9)
    mask = torch.ones(3, 9, dtype=torch.long)
    mask[1, 4:] = 0
    mask[2, :3] = 0
    with torch.no_grad():
        padded = model.bert(input_ids=ids, attention_mask=mask).last_hidden_state
    out |= {"padded.input_ids": ids, "padded.attention_mask": mask, "padded.last_hidden_state": padded}

    def stored(tensor: torch.Tensor) -> torch.Tensor:
        return (tensor if tensor.is_floating_point() else tensor.to(torch.int32)).detach().contiguous()

    save_file({key: stored(value) for key, value in out.items()}, folder / "expected.safetensors")
    versions = {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__}
    (HERE / "versions.json").write_text(json.dumps(versions, indent=2) + "\n")
    print("bert", sum(p.numel() for p in model.parameters()), f"loss {loss.item():.4f}")


if __name__ == "__main__":
    main()
