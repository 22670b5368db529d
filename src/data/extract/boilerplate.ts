import type { HtmlElement } from "./html-tree.ts";

/**
 * What names of classes and ids say about an element. Names are cut into words (`relatedPosts`, `related-posts` and `related_posts` are
 * "related posts"), so that "ad" is not found in "header", nor "nav" in "navy".
 */
const set = (text: string): Set<string> => new Set(text.trim().split(/\s+/));

/** Elements that never hold a page's text. */
const droppedTags = set(`
  script style noscript template svg math iframe object embed canvas audio video button select input textarea datalist nav footer menu dialog
  form-field map area head link meta title progress meter figcaption`);

/** One of these words is enough. */
const junkWords = set(`
  comment comments disqus livefyre respond replies related recommended recommendations recommend outbrain taboola share sharing sharebar
  shareline sharedaddy social socials addthis addtoany newsletter newsletters subscribe subscription signup sidebar sidebars advert adverts
  advertisement advertisements advertising adsense adslot sponsor sponsored promo promos promotion breadcrumb breadcrumbs breadcrump cookie
  cookies gdpr consent popup modal overlay lightbox footer navbar navigation nav menu submenu pagination pager paging byline bylines
  teaser teasers trending popular mostread toolbar skip sr tags tagcloud toc copyright disclaimer print
  widget widgets carousel slider slideshow banner banners caption captions login signin paywall outbrain rating ratings infinite
  follow masthead legal tooltip dropdown noprint screenreader correction corrections
`);
// `correction` notes and the like are about the text, not of it.

/** Two words in a row. */
const junkPairs = set(`
  author_bio author_box author_info about_author author_card read_more read_next more_from more_stories more_articles more_on
  most_read most_popular up_next next_post prev_post previous_post post_nav post_navigation post_meta entry_meta article_meta
  post_tags article_tags entry_tags tag_list post_footer article_footer entry_footer story_footer see_also you_may also_like visually_hidden
  screen_reader sr_only ad_container ad_wrapper ad_slot ad_unit ad_box google_ad dfp_ad image_credit photo_credit site_header page_header
  global_header reader_comments social_links post_info jp_relatedposts mailing_list email_signup call_to to_action inline_ad
  trc_related rss_feed back_top publish_date pub_date published_date related_posts news_ticker skip_link
`);

/** Whole names. */
const junkNames = set(
  "ad ads adv advt adbox meta sharethis jp-relatedposts dpsp-content-top secondary rail right-rail left-rail hidden hide invisible is-hidden d-none visuallyhidden",
);

/** Names of elements around everything that happen to hold a junk word (`has-sidebar`, `no-comments`): these say nothing. */
const modifiers = set(
  "has no not with without is single show js can is-hidden page layout template theme enable enabled disable disabled",
);

const wordsOf = (name: string): string[] =>
  name
    .replace(/([a-z0-9])([A-Z])/g, "$1-$2")
    .toLowerCase()
    .split(/[^a-z0-9]+/);

const remembered = new Map<string, boolean>();

/** Whether one class name or id is that of an element beside the text. */
function isJunkName(name: string): boolean {
  const before = remembered.get(name);
  if (before !== undefined) return before;
  const junk = judge(name);
  // Sites make up names; what is remembered stays small.
  if (remembered.size > 50_000) remembered.clear();
  remembered.set(name, junk);
  return junk;
}

function judge(name: string): boolean {
  if (name.length > 80) return false;
  if (junkNames.has(name.toLowerCase())) return true;
  const words = wordsOf(name);
  if (modifiers.has(words[0]!)) return false;
  for (let i = 0; i < words.length; i++) {
    if (junkWords.has(words[i]!)) return true;
    if (i > 0 && junkPairs.has(`${words[i - 1]}_${words[i]}`)) return true;
  }
  return false;
}

const HIDDEN = /display\s*:\s*none|visibility\s*:\s*hidden/i;

/** Elements that hold no text of the page, whatever they are called. */
export const isDropped = (element: HtmlElement): boolean => droppedTags.has(element.name);

function isInArticle(element: HtmlElement): boolean {
  for (let outer = element.parent; outer !== undefined; outer = outer.parent) {
    if (outer.name === "article" || outer.name === "main") return true;
  }
  return false;
}

/** Whether an element says that it stands beside the text: by its role, visibility, class or id. */
export function isBoilerplate(element: HtmlElement): boolean {
  const { name } = element;
  if (name === "body" || name === "html" || name === "main" || name === "article") return false;
  if (name === "aside") return true;
  if (name === "header") return !isInArticle(element);
  const { attributes } = element;
  if (attributes.size === 0) return false;
  for (const [key, value] of attributes) {
    if (value === "" && key !== "hidden") continue;
    switch (key) {
      case "class":
        for (const one of value.split(" ")) if (one !== "" && isJunkName(one.trim())) return true;
        break;
      case "id":
        if (isJunkName(value)) return true;
        break;
      case "role":
        if (/^(?:navigation|banner|contentinfo|complementary|search|menu|menubar|dialog|alert|toolbar)$/i.test(value))
          return true;
        break;
      case "hidden":
        return true;
      case "aria-hidden":
        if (value === "true") return true;
        break;
      case "style":
        if (HIDDEN.test(value)) return true;
        break;
    }
  }
  return false;
}

const strongNames = new RegExp(
  "^(?:(?:[a-z]+[-_]+)?(?:article|post|entry|story|news|blog|single|theme|art|node|page)[-_]*(?:body|content|text|copy|bodycopy|main)(?:[-_]*(?:inner|wrapper|container|text|copy))?" +
    "|(?:body|content|main)[-_]*(?:text|body|copy|article)|articlebody|fulltext|post|entry|story|story-body-text|field-name-body|field--name-body)$",
  "i",
);
const weakNames =
  /^(?:content|main|main[-_]?content|page[-_]?content|content[-_]?main|article|text|body|primary|container-content|main[-_]column)$/i;

/** 2: says it is the text; 1: says that the text is in it; 0: says nothing. */
export function contentHint(element: HtmlElement): 0 | 1 | 2 {
  const { name, attributes } = element;
  if (attributes.get("itemprop")?.toLowerCase().includes("articlebody")) return 2;
  if (name !== "div" && name !== "section" && name !== "article" && name !== "main" && name !== "td") return 0;
  let hint: 0 | 1 | 2 = name === "article" || name === "main" ? 1 : 0;
  if (attributes.size === 0) return hint;
  const names = `${attributes.get("class") ?? ""} ${attributes.get("id") ?? ""}`;
  for (const one of names.split(/\s+/)) {
    if (one === "" || one.length > 60) continue;
    if (strongNames.test(one)) return 2;
    if (weakNames.test(one)) hint = 1;
  }
  if (hint === 0 && /^(?:main|article)$/i.test(attributes.get("role") ?? "")) hint = 1;
  return hint;
}
