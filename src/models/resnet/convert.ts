import { SafetensorsFile } from "../../checkpoint/index.ts";
import { writeSafetensors } from "../../checkpoint/write.ts";
import { InputError } from "../../tensor/errors.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { type Mapped, type Mapping, readMapped, skeleton, writeMapped } from "../mapping.ts";
import { buildResNet, initResNetStatistics, type ResNet, type ResNetConfig, type ResNetStatistics } from "./model.ts";

/** A network with what its norms have gathered. */
export interface TrainedResNet {
  readonly model: ResNet;
  readonly statistics: ResNetStatistics;
}

/** Our paths -> the names that torchvision's layout gives the CIFAR networks: `layer1.0.conv1.weight`, `layer1.0.bn1.running_mean`. */
export function resNetMapping(config: ResNetConfig): Mapping {
  const map = new Map<string, Mapped>();
  const same = (path: string, name: string) => map.set(path, { parts: [{ name }] });
  const norm = (path: string, name: string) => {
    same(`model.${path}.scale`, `${name}.weight`);
    same(`model.${path}.bias`, `${name}.bias`);
    same(`statistics.${path}.mean`, `${name}.running_mean`);
    same(`statistics.${path}.variance`, `${name}.running_var`);
  };
  same("model.stem.weight", "conv1.weight");
  norm("norm", "bn1");
  config.widths.forEach((_, stage) => {
    for (let i = 0; i < config.blocks; i++) {
      const [ours, theirs] = [`h.${stage * config.blocks + i}`, `layer${stage + 1}.${i}`];
      for (const k of [1, 2]) {
        same(`model.${ours}.conv${k}.weight`, `${theirs}.conv${k}.weight`);
        norm(`${ours}.norm${k}`, `${theirs}.bn${k}`);
      }
    }
  });
  same("model.head.weight", "linear.weight");
  same("model.head.bias", "linear.bias");
  return map;
}

/**
 * Reads a CIFAR ResNet from a safetensors file with PyTorch's names; the sizes are those of the tensors.
 * @throws InputError naming each tensor that is missing, not expected, or of another shape
 */
export async function loadResNet(file: string): Promise<TrainedResNet> {
  const source = await SafetensorsFile.open(file);
  try {
    const strip = [...source.tensors.keys()].every((name) => name.startsWith("module.")) ? "module." : "";
    const shape = (name: string) => {
      const found = source.tensors.get(strip + name);
      if (!found) throw new InputError(`${file}: ${name} is missing, so this is not a CIFAR ResNet.`);
      return found.shape;
    };
    const [first, channels] = shape("conv1.weight") as [number, number];
    const widths = [first];
    while (source.tensors.has(`${strip}layer${widths.length + 1}.0.conv1.weight`))
      widths.push(shape(`layer${widths.length + 1}.0.conv1.weight`)[0]!);
    let blocks = 0;
    while (source.tensors.has(`${strip}layer1.${blocks}.conv1.weight`)) blocks++;
    const config: ResNetConfig = { classes: shape("linear.weight")[0]!, channels, blocks, widths };
    const like = skeleton(
      (key: Tensor<"i32">): TrainedResNet => ({
        model: buildResNet(config, key),
        statistics: initResNetStatistics(config),
      }),
    );
    return await readMapped(like, resNetMapping(config), source, {
      where: file,
      ignore: (name) => name.endsWith(".num_batches_tracked"),
      rename: (name) => strip + name,
    });
  } finally {
    await source.close();
  }
}

/** Writes a network and its statistics under PyTorch's names. */
export async function saveResNet(trained: TrainedResNet, file: string): Promise<void> {
  await writeSafetensors(file, writeMapped(trained, resNetMapping(trained.model.config)));
}
