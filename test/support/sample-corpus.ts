import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { buildCorpus, parseDataRecipe } from "../../src/data/build/index.ts";
import { hashBits } from "../../src/data/random.ts";

const nouns =
  "river garden winter engine teacher letter window market harbour mountain village doctor song paper bridge school".split(
    " ",
  );
const verbs = "watched remembered carried described followed painted opened crossed repaired studied".split(" ");
/** A plain text in English that no filter minds, different for every number. */
const story = (n: number) =>
  Array.from({ length: 12 }, (_, i) => {
    const pick = (list: readonly string[], k: number) => list[hashBits(n, i, k) % list.length]!;
    return `The ${pick(nouns, 1)} of the ${pick(nouns, 2)} and that ${pick(nouns, 3)} have been ${pick(verbs, 4)} by a ${pick(nouns, 5)} with ${hashBits(n, i) % 90} friends.`;
  }).join(" ");

const who = "老渔夫 小学生 邮递员 船长 医生 木匠 园丁 画家 守夜人 面包师".split(" ");
const where = "清晨的港口 下雪的山谷 旧城墙边 河对岸 火车站台 城里的图书馆 半山的茶园 拥挤的市场".split(" ");
const what =
  "等了整整一个下午 讲起了很久以前的大雪 修好了那只漏水的木船 把信读了一遍又一遍 唱着歌走回家 捡到一把生锈的钥匙".split(
    " ",
  );

/**
 * A small corpus, made by the job itself: English documents of which one is twice there and one nearly, some that filters take, and Chinese ones.
 * @param more lines of the recipe
 */
export async function buildSampleCorpus(dataDir: string, name: string, more = ""): Promise<void> {
  const from = join(dataDir, "..", `${name}-sources`);
  mkdirSync(join(from, "english"), { recursive: true });
  mkdirSync(join(from, "chinese"), { recursive: true });
  const rows = Array.from({ length: 30 }, (_, i) => ({
    text: story(i),
    title: `Story ${i}`,
    url: `https://x.example/${i}`,
  }));
  rows[4] = {
    ...rows[4]!,
    text: `${rows[4]!.text}\nThe Lighthouse\nkeeper waved at <script>window.hacked = true</script> & went on.`,
  };
  rows.push(
    { ...rows[3]!, title: "Story 3 again" },
    { ...rows[6]!, text: `${rows[6]!.text} And again.`, title: "Story 6 again" },
  );
  rows.push({ text: "Buy now, quick lighthouse lamps!", title: "Lamps", url: "https://x.example/lamps" });
  writeFileSync(join(from, "english", "rows.jsonl"), rows.map((row) => `${JSON.stringify(row)}\n`).join(""));
  for (let i = 0; i < 8; i++) {
    const pick = (list: readonly string[], k: number, j: number) => list[hashBits(900 + i, k, j) % list.length]!;
    const lines = Array.from(
      { length: 8 },
      (_, k) =>
        `${pick(who, k, 1)}在${pick(where, k, 2)}${pick(what, k, 3)}，${pick(where, k, 4)}的${pick(who, k, 5)}却${pick(what, k, 6)}。`,
    );
    writeFileSync(join(from, "chinese", `${i}.txt`), `灯塔下面的故事。\n${lines.join("\n")}`);
  }
  const recipe = `
name: ${name}
out: ${join(dataDir, name)}
sources:
  - { name: english, paths: ${from}/english, licence: CC0-1.0, keep: [title, url] }
  - { name: chinese, paths: ${from}/chinese, clean: [repair, { chinese: { min_characters: 50 } }] }
clean: [repair, { language: { languages: [en] } }, { gopher_quality: { min_words: 20 } }]
tokenizer: { vocabulary: 300 }
${more}`;
  await buildCorpus(parseDataRecipe("sample.yaml", recipe), { workers: 0 });
}
