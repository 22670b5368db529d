import { createContext } from "preact";
import { useContext } from "preact/hooks";

export type Language = "en" | "zh";

/** Every text of the Studio. `{name}` is filled in by the caller. */
const english = {
  runs: "Runs",
  chat: "Chat",
  skipToContent: "Skip to the content",
  switchLanguage: "切换到中文",
  themeAuto: "Theme: as the system",
  themeLight: "Theme: light",
  themeDark: "Theme: dark",
  offline: "The server does not answer. Trying again …",
  loading: "Loading …",
  failed: "That did not work: {message}",
  close: "Close",

  keyTitle: "This server needs a key",
  keyHint: "It is kept until this tab is closed.",
  key: "API key",
  keyUse: "Use the key",

  noRuns: "No runs yet",
  noRunsHint: "Start one with “npm start” or “howdah train”. It appears here by itself.",
  allRuns: "All runs",
  statusEmpty: "not started",
  statusRunning: "running",
  statusFinished: "finished",
  statusStopped: "stopped",
  statusFailed: "failed",
  statusInterrupted: "interrupted",
  stageWaiting: "waiting",
  stageRunning: "running",
  stageFinished: "finished",
  stageSkipped: "skipped",
  stages: "Stages",
  stageOf: "{index} of {count}",
  elapsed: "{time} so far",
  took: "took {time}",
  timeLeft: "{time} left",
  perSecond: "{rate} {unit}/s",
  lastChange: "changed {time} ago",
  progress: "Progress",
  curves: "Curves",
  samples: "Samples",
  report: "Report",
  recipe: "Recipe",
  log: "Log",
  noCurves: "No measurements in this stage yet.",
  noSamples: "No samples in this stage yet.",
  noReport: "The report is written when the job ends.",
  noRecipe: "This run has no recipe on disk.",
  noLog: "Nothing was logged.",
  step: "step {step}",
  notFinite: "{count} not finite",
  trained: "training",
  heldOut: "held out",
  summary: "Result",
  talkToIt: "Talk to it",

  model: "Model",
  secondModel: "Second model",
  compare: "Two side by side",
  compareShort: "Compare",
  settings: "Settings",
  noModel: "No model to talk to yet",
  noModelHint: "The chat opens as soon as a stage of the training has one.",
  seeTraining: "See the training",
  newModel: "A new model is here: {model}",
  useIt: "Use it",
  startTitle: "Say something",
  startHint: "The model answers as far as it has learned to.",
  suggestion1: "Good morrow! What news?",
  suggestion2: "Who are you, and whom do you serve?",
  suggestion3: "Tell me what you fear the most.",
  message: "Message",
  messageHint: "Write a message",
  keys: "Enter sends, Shift+Enter breaks the line, Esc stops",
  send: "Send",
  stop: "Stop",
  youAre: "You speak as",
  replyAs: "Reply as",
  you: "You",
  anyone: "anyone",
  temperature: "Temperature",
  temperatureHint: "0 always takes the likeliest token",
  topP: "Top-p",
  topK: "Top-k",
  off: "off",
  maxTokens: "Longest reply (tokens)",
  seed: "Seed",
  seedHint: "Empty: another reply each time",
  reset: "Back to the defaults",
  copy: "Copy",
  copied: "Copied",
  regenerate: "Another reply",
  thumbUp: "Good reply",
  thumbDown: "Bad reply",
  better: "This one is better",
  best: "Preferred",
  clear: "Clear the conversation",
  clearSure: "Clear everything?",
  writing: "writing …",
  waiting: "waiting …",
  stopped: "stopped",
  cutOff: "the longest reply was reached",
  emptyReply: "(nothing)",
  speed: "{tokens} tokens, {rate}/s",
  dropped: "The oldest {count} messages no longer fit the model's context and were left out.",
  exportVotes: "Download preferences",
  voteFailed: "The vote was not kept: {message}",
} as const;

export type Text = keyof typeof english;

const chinese: Record<Text, string> = {
  runs: "训练",
  chat: "对话",
  skipToContent: "跳到正文",
  switchLanguage: "Switch to English",
  themeAuto: "主题：跟随系统",
  themeLight: "主题：浅色",
  themeDark: "主题：深色",
  offline: "服务器没有响应，正在重试……",
  loading: "正在载入……",
  failed: "没有成功：{message}",
  close: "关闭",

  keyTitle: "此服务器需要密钥",
  keyHint: "密钥只保留到关闭此标签页为止。",
  key: "API 密钥",
  keyUse: "使用此密钥",

  noRuns: "还没有训练",
  noRunsHint: "用 npm start 或 howdah train 开始一次训练，它会自动出现在这里。",
  allRuns: "全部训练",
  statusEmpty: "尚未开始",
  statusRunning: "进行中",
  statusFinished: "已完成",
  statusStopped: "已停止",
  statusFailed: "失败",
  statusInterrupted: "已中断",
  stageWaiting: "等待",
  stageRunning: "进行中",
  stageFinished: "已完成",
  stageSkipped: "已跳过",
  stages: "阶段",
  stageOf: "第 {index} 步，共 {count} 步",
  elapsed: "已用 {time}",
  took: "用时 {time}",
  timeLeft: "还需 {time}",
  perSecond: "每秒 {rate} {unit}",
  lastChange: "{time}前更新",
  progress: "进度",
  curves: "曲线",
  samples: "样例",
  report: "报告",
  recipe: "配方",
  log: "日志",
  noCurves: "这个阶段还没有数据。",
  noSamples: "这个阶段还没有样例。",
  noReport: "任务结束时会写出报告。",
  noRecipe: "磁盘上没有这次训练的配方。",
  noLog: "没有日志。",
  step: "第 {step} 步",
  notFinite: "{count} 个非有限值",
  trained: "训练",
  heldOut: "留出",
  summary: "结果",
  talkToIt: "与它对话",

  model: "模型",
  secondModel: "第二个模型",
  compare: "两个模型并排",
  compareShort: "对比",
  settings: "设置",
  noModel: "还没有可以对话的模型",
  noModelHint: "训练的某个阶段一有模型，对话就会开放。",
  seeTraining: "查看训练",
  newModel: "有新模型了：{model}",
  useIt: "使用它",
  startTitle: "说点什么吧",
  startHint: "模型会用它已经学到的来回答。",
  suggestion1: "Good morrow! What news?",
  suggestion2: "Who are you, and whom do you serve?",
  suggestion3: "Tell me what you fear the most.",
  message: "消息",
  messageHint: "写一条消息",
  keys: "Enter 发送，Shift+Enter 换行，Esc 停止",
  send: "发送",
  stop: "停止",
  youAre: "你的身份",
  replyAs: "由谁回答",
  you: "你",
  anyone: "任何人",
  temperature: "温度",
  temperatureHint: "0 表示总取最可能的词元",
  topP: "Top-p",
  topK: "Top-k",
  off: "关",
  maxTokens: "回复长度上限（词元）",
  seed: "随机种子",
  seedHint: "留空则每次回复都不同",
  reset: "恢复默认",
  copy: "复制",
  copied: "已复制",
  regenerate: "换一个回复",
  thumbUp: "回复得好",
  thumbDown: "回复得不好",
  better: "这个更好",
  best: "已选为更好",
  clear: "清空对话",
  clearSure: "全部清空？",
  writing: "正在写……",
  waiting: "正在等待……",
  stopped: "已停止",
  cutOff: "已达到长度上限",
  emptyReply: "（空）",
  speed: "{tokens} 个词元，每秒 {rate} 个",
  dropped: "最早的 {count} 条消息超出了模型的上下文，没有发送。",
  exportVotes: "下载偏好数据",
  voteFailed: "评价没有保存：{message}",
};

/** Metrics that have a name in people's words; others are shown by their own. */
const metricNames: Record<string, readonly [english: string, chinese: string]> = {
  loss: ["Loss", "损失"],
  bits_per_byte: ["Bits per byte", "每字节比特数"],
  perplexity: ["Perplexity", "困惑度"],
  learning_rate: ["Learning rate", "学习率"],
  policy_loss: ["Policy loss", "策略损失"],
  value_loss: ["Value loss", "价值损失"],
  gradient_norm: ["Gradient norm", "梯度范数"],
  tokens_per_second: ["Tokens per second", "每秒词元数"],
  reward: ["Reward", "奖励"],
  score: ["Score", "得分"],
  kl: ["KL to the reference", "与参考模型的 KL"],
  accuracy: ["Accuracy", "准确率"],
  margin: ["Margin", "间隔"],
  entropy: ["Entropy", "熵"],
  "objective/kl": ["KL to the reference", "与参考模型的 KL"],
  "objective/entropy": ["Entropy", "熵"],
  "objective/scores": ["Reward", "奖励"],
  "objective/rlhf_reward": ["Reward less KL", "扣除 KL 后的奖励"],
  "policy/approxkl_avg": ["KL of the update", "更新的 KL"],
  "policy/clipfrac_avg": ["Clipped share", "截断比例"],
  "val/ratio": ["Probability ratio", "概率比"],
  "val/ratio_var": ["Variance of the ratio", "概率比方差"],
  "val/clipfrac_avg": ["Clipped share of values", "价值截断比例"],
  "objective/non_score_reward": ["KL penalty", "KL 惩罚"],
  win_rate: ["Win rate", "胜率"],
  parameters: ["Parameters", "参数量"],
  vocabulary: ["Vocabulary", "词表大小"],
  "loss/policy_avg": ["Policy loss", "策略损失"],
  "loss/value_avg": ["Value loss", "价值损失"],
};

/** Stages that recipes know, in people's words. */
const stageNames: Record<string, readonly [english: string, chinese: string]> = {
  tokenizer: ["Tokenizer", "分词器"],
  pretrain: ["Pre-training", "预训练"],
  sft: ["Fine-tuning", "监督微调"],
  reward: ["Reward model", "奖励模型"],
  ppo: ["PPO", "PPO"],
  judge: ["Judge", "评判"],
  report: ["Report", "报告"],
};

const unitNames: Record<string, readonly [english: string, chinese: string]> = {
  steps: ["steps", "步"],
  tokens: ["tokens", "词元"],
  bytes: ["bytes", "字节"],
  pairs: ["pairs", "对"],
  merges: ["merges", "次合并"],
  samples: ["samples", "个样例"],
  batches: ["batches", "批"],
};

export interface Words {
  readonly language: Language;
  t(text: Text, values?: Readonly<Record<string, string | number>>): string;
  metric(name: string): string;
  stage(name: string): string;
  /** A unit of progress, such as steps. */
  unit(name: string): string;
  /** At most three significant digits where they matter, whole numbers whole. */
  number(value: number): string;
  duration(seconds: number): string;
}

export function words(language: Language): Words {
  const texts = language === "zh" ? chinese : english;
  const column = language === "zh" ? 1 : 0;
  const whole = new Intl.NumberFormat(language === "zh" ? "zh-CN" : "en", { maximumFractionDigits: 0 });
  const fine = new Intl.NumberFormat(language === "zh" ? "zh-CN" : "en", { maximumSignificantDigits: 4 });
  const t: Words["t"] = (text, values = {}) =>
    texts[text].replace(/\{(\w+)\}/g, (_, name) => String(values[name] ?? ""));
  return {
    language,
    t,
    metric(name) {
      const heldOut = /^held_?out_(.+)$/.exec(name)?.[1];
      const known = (plain: string) => metricNames[plain]?.[column] ?? plain;
      return heldOut === undefined ? known(name) : `${known(heldOut)} (${texts.heldOut})`;
    },
    unit: (name) => unitNames[name]?.[column] ?? name,
    stage: (name) => stageNames[name]?.[column] ?? name,
    number(value) {
      if (!Number.isFinite(value)) return Number.isNaN(value) ? "NaN" : value > 0 ? "∞" : "−∞";
      if (value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e9))
        return value.toExponential(2).replace(/\.?0+e/, "e");
      return Math.abs(value) >= 1000 ? whole.format(value) : fine.format(value);
    },
    duration(seconds) {
      if (!Number.isFinite(seconds)) return "–";
      const [s, minutes, h] = language === "zh" ? [" 秒", " 分", " 小时"] : ["s", "m", "h"];
      if (seconds < 9.95) return `${seconds.toFixed(1)}${s}`;
      const total = Math.round(seconds);
      if (total < 60) return `${total}${s}`;
      if (total < 3600) return `${Math.floor(total / 60)}${minutes} ${total % 60}${s}`;
      return `${Math.floor(total / 3600)}${h} ${Math.floor((total % 3600) / 60)}${minutes}`;
    },
  };
}

export const WordsContext = createContext<Words>(words("en"));
export const useWords = () => useContext(WordsContext);

/** The language that was chosen last, or else the browser's. */
export function initialLanguage(): Language {
  return document.documentElement.lang.startsWith("zh") ? "zh" : "en";
}
