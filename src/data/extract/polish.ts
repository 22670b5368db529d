import type { Block } from "./blocks.ts";
import type { Entry } from "./main-text.ts";

/** Headings after which a page goes on with what readers say, or with other pages. The whole line, in several languages. */
const ENDINGS =
  /^(?:(?:related|recommended|popular|recent|other|further) (?:articles?|posts?|stor(?:y|ies)|news|content|topics|reading|links|coverage|videos?)(?: .{0,20})?|you (?:may|might) (?:also )?(?:like|enjoy|be interested in).*|more (?:great )?(?:\w+ )?(?:articles|stories|news|posts)(?: .{0,20})?|what to read next|read next|up next|trending(?: now)?|most (?:read|popular|viewed)|don['’]t miss|(?:leave|post|write|add) a (?:comment|reply)(?: .{0,30})?|(?:\d+ )?(?:(?:top|all|reader|user|view|show)[ -]*(?:rated )?)?(?:comments|responses|replies)(?: \(?\d+\)?| on .*)?|join the (?:conversation|discussion)|about the authors?|sponsored(?: content)?|相关(?:新闻|阅读|文章|推荐|链接)|推荐(?:阅读|文章)|热门(?:文章|新闻|推荐)|延伸阅读|猜你喜欢|(?:网友|最新|全部)?评论(?:\(\d+\))?|関連記事|おすすめ記事|人気記事|コメント|ähnliche (?:artikel|beiträge)|mehr zum thema|das könnte (?:sie|dich) auch interessieren|kommentare?|articles? (?:liés|similaires)|à lire aussi|commentaires?|artículos? relacionad[oa]s?|noticias relacionadas|también te puede interesar|comentarios?|notícias relacionadas|você pode gostar.*|comentários?|articoli correlati|commenti|похожие (?:статьи|новости)|комментарии)\s*[:.…]*$/i;

/** Lines that lead to another page from the middle of a text: they go, and the links right after them. */
const ASIDES =
  /^(?:related|recommended|read (?:more|also|next|this)|see (?:also|more)|(?:also|more|read more) (?:on|from|about) .{1,40}|watch(?: now| more| this)?|share(?: this.*| on.*)?|newsletter|sign up.*|subscribe.*|tags?|topics?|更多(?:新闻|文章|内容)?|leggi anche|veja também|leia (?:também|mais)|lire aussi|lee también|читайте также)\s*(?:[:.…].*)?$/i;

/** Lines that are about the page, not of the text. Short ones only. */
const NOTICES =
  /^(?:advertisement|advert|ad|sponsored|promoted|loading\.*|share(?: this)?(?: (?:article|story|post|page))?|print|e-?mail|tweet|pin it|copy link|reply|save|close|menu|search|home|top|follow|subscribe|sign up|log in|login|sign in|register|read more|learn more|continue reading|show more|view more|see more|more|next|previous|back to top|skip to .*|scroll down.*|click here.*|tap here.*|photos?|video|gallery|image|广告|分享|打印|阅读全文|查看更多|上一篇.*|下一篇.*|责任编辑.*|编辑[:：].*|广告|シェア|ツイート|anzeige|werbung|publicité|publicidad|publicidade|реклама)\s*[.:…»>›]*$/i;

const PROMOTIONS =
  /\b(?:sign up (?:for|to|now|here)|subscribe (?:to|now|here|for)|(?:our|free|daily|weekly) newsletters?|follow (?:us|me|him|her|them|@\w+)|like us on|find us on|join us on|click here (?:to|for)|download (?:the|our) app|all rights reserved|terms of (?:use|service)|privacy policy|uses? cookies|(?:this|our) (?:web)?site uses|cookie policy|may (?:earn|receive) (?:a|an|some) (?:\w+ )?commission|enable javascript|this material may not be published|in your inbox|have a tip|send (?:us )?(?:a|your) tips?|advertisement|thanks for subscribing|already a subscriber|contact the (?:writer|reporter|author)|can be reached at|(?:email|contact) (?:him|her|them) at|photo(?:graph)?s? (?:by|credit|courtesy)|image (?:credit|via|source|courtesy))\b|(?:©|\(c\)|copyright)\s*(?:\d{4}|by)|版权所有|未经(?:授权|许可)|关注(?:我们|微信)|扫(?:描|一扫)二维码|转载请注明/i;

/** "By Jane Doe", "Published: 3 May 2019, 10:15", "5 min read", "3 May 2019". */
const BYLINE =
  /^(?:by|von|par|por|di|автор|作者|文|记者)[\s:：]+\S.{0,80}$|^(?:written|posted|published|updated|last (?:updated|modified)|first published|submitted|reviewed|created|date|发布时间|发表于|更新时间|时间|来源|公開日|更新日)(?:[^a-z].{0,80})?$|^\d+\s*(?:min(?:ute)?s?\.?)(?: read)?$|^\(?(?:\w+day,?\s+)?(?:\d{1,2}(?:st|nd|rd|th)?[\s./-]+)?(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)\w*\.?[\s./-]+\d{1,4}.{0,40}$|^\d{1,4}[./年-]\d{1,2}[./月-]\d{1,4}日?.{0,30}$/i;

/** A paragraph of so many characters that stands twice is there twice by mistake; shorter ones may be a refrain, or the meals of another day. */
const REPEATED = 200;

const MARKUP = /^<(?:img|div|script|iframe|a|p|span)\b/i;

/**
 * What remains of a chosen block once lines that do not belong to the text are gone: what stands before its title, dates and bylines
 * before its first sentence, notices, promotions, headings with nothing under them, repeated paragraphs, and everything after a heading
 * such as "Related articles".
 */
export function polish(entries: readonly Entry[], title: Block | undefined): Entry[] {
  const total = entries.reduce((sum, entry) => sum + entry.line.prose, 0);
  let rest = [...entries];
  const at =
    title === undefined ? -1 : rest.findLastIndex((entry) => entry.block === title || entry.block.parent === title);
  if (at >= 0 && proseOf(rest.slice(0, at)) <= total * 0.3) rest = rest.slice(at + 1);
  rest = untilEnding(rest, total);

  const seen = new Set<string>();
  let started = false;
  const kept: Entry[] = [];
  for (const entry of rest) {
    const { text, links, prose } = entry.line;
    if (entry.kind === "code") {
      kept.push(entry);
      continue;
    }
    if (text.length < 90 && NOTICES.test(text)) continue;
    if (text.length < 300 && PROMOTIONS.test(text) && (prose < total * 0.1 || text.length < 120)) continue;
    if (MARKUP.test(text)) continue;
    if (!started && text.length < 120 && BYLINE.test(text)) continue;
    if (
      prose === 0 &&
      entry.kind !== "item" &&
      entry.kind !== "row" &&
      links > text.length * 0.8 &&
      entry.kind !== "heading"
    )
      continue;
    if (text.length >= REPEATED) {
      if (seen.has(text)) continue;
      seen.add(text);
    }
    if (prose > 0) started = true;
    kept.push(entry);
  }
  return withoutTail(kept);
}

const proseOf = (entries: readonly Entry[]): number => entries.reduce((sum, entry) => sum + entry.line.prose, 0);

/** Up to a heading that says the text is over, if most of it came before; without lines that lead elsewhere. */
function untilEnding(entries: Entry[], total: number): Entry[] {
  const kept: Entry[] = [];
  let before = 0;
  let aside = false;
  for (const entry of entries) {
    const { text, links, prose } = entry.line;
    if (text.length <= 70 && before >= total * 0.4 && ENDINGS.test(text)) break;
    before += prose;
    if (text.length <= 120 && ASIDES.test(text)) {
      aside = true;
      continue;
    }
    if (aside && links > text.length * 0.5) continue;
    aside = false;
    kept.push(entry);
  }
  return kept;
}

/** Without headings at the end that have nothing under them. */
function withoutTail(entries: Entry[]): Entry[] {
  let end = entries.length;
  while (end > 0 && entries[end - 1]!.kind === "heading") end--;
  return entries.slice(0, end);
}
