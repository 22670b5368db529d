"""Makes the golden files of the models: tiny random ones, run by transformers in f32 on the CPU.

    python test/golden/models/make.py

Each case is a folder that transformers saved (config.json, model.safetensors, generation_config.json) and an expected.safetensors
with inputs, outputs, gradients and greedy continuations. The weights, the norms' scales and the biases too, are drawn wide enough that every
term of the computation shows in the logits.
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
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() == 1:
                centre = 1.0 if name.endswith("norm.weight") or ".ln_" in name and name.endswith("weight") else 0.0
                parameter.copy_(centre + 0.2 * noise)
            else:
                parameter.copy_(noise * (0.5 if "emb" in name or "wte" in name else 0.2))


def draw(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.randint(3, VOCABULARY, shape, generator=generator)


def case(name: str, config: transformers.PretrainedConfig, seed: int, time: int) -> None:
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    perturb(model, seed)
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    generator = torch.Generator().manual_seed(seed + 1)
    out: dict[str, torch.Tensor] = {}

    ids = draw(generator, 2, time)
    labels = ids.clone()
    labels[0, :4] = -100
    labels[1, time - 3] = -100
    result = model(input_ids=ids, labels=labels, output_hidden_states=True)
    model.zero_grad()
    result.loss.backward()
    out |= {"input_ids": ids, "labels": labels, "logits": result.logits, "loss": result.loss}
    out["last_hidden_state"] = result.hidden_states[-1]
    for key, parameter in model.named_parameters():
        out[f"gradients.{key}"] = parameter.grad

    # Rows padded at the left and at the right, and rows that start at other positions.
    ids = draw(generator, 3, 9)
    mask = torch.ones(3, 9, dtype=torch.long)
    mask[1, :4] = 0
    mask[2, 6:] = 0
    positions = torch.stack([torch.arange(9) + 2, torch.arange(9).sub(4).clamp(min=0), torch.arange(9)])
    with torch.no_grad():
        out |= {"padded.input_ids": ids, "padded.attention_mask": mask, "padded.position_ids": positions}
        out["padded.logits"] = model(input_ids=ids, attention_mask=mask, position_ids=positions).logits
        out["padded.logits_without_position_ids"] = model(input_ids=ids, attention_mask=mask).logits

        # Greedy continuations of prompts of different lengths.
        for length in (2, 5, 7):
            prompt = draw(generator, 1, length)
            whole = model.generate(
                prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=12, pad_token_id=0
            )
            out[f"greedy.{length}"] = whole

    def stored(tensor: torch.Tensor) -> torch.Tensor:
        return (tensor if tensor.is_floating_point() else tensor.to(torch.int32)).detach().contiguous()

    save_file({key: stored(value) for key, value in out.items()}, folder / "expected.safetensors")
    print(name, sum(p.numel() for p in model.parameters()), f"loss {result.loss.item():.4f}")


def main() -> None:
    tokens = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    case(
        "gpt2",
        transformers.GPT2Config(
            vocab_size=VOCABULARY, n_positions=32, n_embd=32, n_layer=2, n_head=4, n_inner=80, **tokens
        ),
        seed=1,
        time=12,
    )
    llama = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 56,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        **tokens,
    }
    case(
        "llama-grouped",
        transformers.LlamaConfig(**llama, num_key_value_heads=2, rms_norm_eps=1e-5, tie_word_embeddings=False),
        seed=2,
        time=12,
    )
    case(
        "llama-scaled",
        transformers.LlamaConfig(
            **llama,
            num_key_value_heads=1,
            head_dim=16,
            tie_word_embeddings=True,
            attention_bias=True,
            mlp_bias=True,
            rope_parameters={
                "rope_type": "llama3",
                "rope_theta": 1000.0,
                "factor": 4.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 16,
            },
        ),
        seed=3,
        time=24,
    )
    case(
        "qwen2",
        transformers.Qwen2Config(**llama, num_key_value_heads=2, tie_word_embeddings=True),
        seed=4,
        time=12,
    )
    versions = {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__}
    (HERE / "versions.json").write_text(json.dumps(versions, indent=2) + "\n")


if __name__ == "__main__":
    main()
