export { decode, naturalDType, type StoredDType, storedName } from "./formats.ts";
export {
  readSafetensors,
  readTensor,
  SafetensorsFile,
  type StoredTensor,
  type TensorSource,
} from "./safetensors.ts";
export { loadTree, loadTreeData, saveTree } from "./tree.ts";
export { openWeights } from "./weights.ts";
export { deviceTensor, hostTensor, type TensorToWrite, writeSafetensors } from "./write.ts";
