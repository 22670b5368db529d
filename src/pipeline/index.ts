export { type JobOptions, type JobResult, runJob } from "./job.ts";
export type { ModelNews } from "./workshop.ts";
