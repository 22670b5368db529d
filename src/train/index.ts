export { DivergenceError, type LoopOptions, StoppedError, trainLoop } from "./loop.ts";
export {
  type LearningRates,
  Optimizer,
  type OptimizerConfig,
  type OptimizerState,
  orthogonalize,
} from "./optimizer.ts";
export { type Schedule, scheduleAt } from "./schedule.ts";
export { type SGDConfig, sgdUpdate } from "./sgd.ts";
export { type Metrics, type StepLoss, type StepOptions, type StepResult, type TrainState, trainStep } from "./step.ts";
