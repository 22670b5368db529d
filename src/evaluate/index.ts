export { distinct, type Rate, repetition, wilson, winRate } from "./text.ts";
