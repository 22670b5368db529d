export { perplexity, type TextLoss, textLoss } from "./perplexity.ts";
export { distinct, type Rate, repetition, wilson, winRate } from "./text.ts";
