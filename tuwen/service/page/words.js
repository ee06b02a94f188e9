// Every word that the page says, in Chinese and in English; index.html names them in its data- attributes.

const ZH = {
  skip: "跳到结果",
  brand: "图文，回到开始",
  search: "搜索",
  ask: "描述一幅画面，或拖入一张图片",
  askLabel: "用一句话描述要找的图片",
  askMore: "换一句话",
  upload: "用一张图片搜索",
  go: "搜索",
  welcome: "说出画面，找到图片。",
  size: "{images} 张图片，{texts} 条文字",
  drop: "也可以把图片拖进来、粘贴进来，找相似的图片和贴切的描述。",
  options: "结果选项",
  of: "找什么",
  images: "图片",
  texts: "文字",
  filter: "筛选",
  filtersActive: "{count} 项筛选",
  clear: "全部清除",
  remove: "去掉 {name}",
  rerank: "重新排序",
  rerankTitle: "让模型把前面的结果和你的话一起细看一遍，再排一次",
  source: "来源",
  category: "类别",
  split: "数据集",
  width_px: "宽度（像素）",
  height_px: "高度（像素）",
  caption_chars: "描述长度（字）",
  from: "最小",
  to: "最大",
  captions: "贴切的描述",
  answers: "结果",
  release: "松开，用这张图片搜索",
  likely: "第一个结果很可能就是你要的",
  perhaps: "第一个结果也许就是你要的",
  unsure: "拿不准，请多看几个",
  nothing: "这里可能没有合适的结果",
  nothingMore: "下面是最接近的。",
  chance: "按同类查询的经验，第一个结果正确的可能约 {percent}",
  found: "{total} 个结果",
  empty: "没有符合这些筛选的结果。",
  emptyAll: "索引里还没有可找的内容。",
  moved: "重新排序后，前 {read} 个里有 {moved} 个换了位置",
  unmoved: "重新排序没有改变前 {read} 个的次序",
  up: "上升 {places} 位",
  down: "下降 {places} 位",
  score: "余弦 {score}",
  match: "匹配 {percent}",
  end: "就到这里：最接近的 {count} 个。",
  alike: "用它搜索",
  alikeName: "用“{caption}”搜索",
  more: "更像这张",
  less: "不像这张",
  moreName: "找更像“{caption}”的",
  lessName: "找不像“{caption}”的",
  moreShort: "更像",
  lessShort: "不像",
  marks: "更像和不像的图片",
  unmark: "去掉标记：{name}",
  details: "看大图和详情",
  detailsName: "“{caption}”的大图和详情",
  close: "关闭",
  where: "每个词说的是图里的哪里",
  whole: "原图",
  mapAlt: "“{word}”在图中的位置",
  noMaps: "这句话里没有可以在图中找的词。",
  id: "编号",
  pixels: "尺寸",
  cosine: "余弦",
  matchProbability: "匹配概率",
  licences: "图片与文字的许可",
  noLicences: "这个索引没有写明许可。",
  keys: "键盘",
  keySlash: "到搜索框",
  keyArrows: "在结果间移动",
  keyEnter: "用这个结果搜索",
  keySpace: "看大图和详情",
  keyMarks: "更像、不像这个结果",
  keyEsc: "关闭，或回到搜索框",
  tokenTitle: "需要口令",
  tokenWhy: "这个服务要先输入口令。向运行它的人要一个，只需输入一次。",
  tokenLabel: "口令",
  tokenGo: "进入",
  tokenWrong: "口令不对，请再试一次。",
  yourPicture: "你的图片",
  thisPicture: "这张图片",
  removeQuery: "去掉图片，改用文字",
  noCaption: "没有描述",
  model: "模型 {model}（{digest}）· 索引 {index}",
  took: "{seconds} 秒",
  again: "重试",
  wait: "{seconds} 秒后可再试。",
  lostUpload: "刷新之后，那张图片已经不在了。请再拖入一次。",
  notPicture: "这不是图片。请用 JPEG、PNG、WebP 或 GIF。",
  offline: "连不上服务。请看它是否在运行、网络是否正常，再试一次。",
  unreadable: "服务的回答看不懂。它和这个页面可能不是同一个版本，请刷新页面。",
  e401: "需要口令。",
  e403: "服务不接受从这里来的访问。",
  e404: "这一项不在索引里了，索引可能刚换过。请重新搜索。",
  e413: "图片太大，最大 {limit}。请缩小后再试。",
  e422: "这个查询读不懂：图片可能已损坏，或文字是空的。",
  e429: "现在用的人太多，或你搜得太快。",
  e500: "服务出错了。请再试一次；若还不行，请告诉运行它的人。",
  e503: "模型正在载入。请稍等片刻。",
  e504: "太久没有答复，已经停下。请再试一次。",
};

const EN = {
  skip: "Skip to the results",
  brand: "tuwen, back to the start",
  search: "Search",
  ask: "Describe a picture in Chinese, or drop one here",
  askLabel: "Describe in Chinese what you are looking for",
  askMore: "Ask something else",
  upload: "Search by a picture",
  go: "Search",
  welcome: "Say it in Chinese. See it.",
  size: "{images} pictures, {texts} texts",
  drop: "Or drop or paste a picture, and see pictures like it and captions that fit.",
  options: "Options of the results",
  of: "What to find",
  images: "Pictures",
  texts: "Texts",
  filter: "Filter",
  filtersActive: "{count} filters",
  clear: "Clear all",
  remove: "Remove {name}",
  rerank: "Re-rank",
  rerankTitle: "Let the model read the first results once more beside your words, and order them anew",
  source: "Source",
  category: "Category",
  split: "Split",
  width_px: "Width in pixels",
  height_px: "Height in pixels",
  caption_chars: "Characters of the caption",
  from: "from",
  to: "to",
  captions: "Captions that fit",
  answers: "Results",
  release: "Let go to search by this picture",
  likely: "The first result is very likely what you want",
  perhaps: "The first result may be what you want",
  unsure: "Not sure, look at a few",
  nothing: "Probably nothing here fits",
  nothingMore: "These come closest.",
  chance: "By the experience of queries like this, the first result is right in about {percent}",
  found: "{total} results",
  empty: "Nothing passes these filters.",
  emptyAll: "The index holds nothing to find yet.",
  moved: "Re-ranking moved {moved} of the first {read}",
  unmoved: "Re-ranking left the first {read} in their order",
  up: "up by {places}",
  down: "down by {places}",
  score: "cosine {score}",
  match: "match {percent}",
  end: "That is all: the {count} that come closest.",
  alike: "Search by it",
  alikeName: "Search by “{caption}”",
  more: "More like this",
  less: "Less like this",
  moreName: "More like “{caption}”",
  lessName: "Less like “{caption}”",
  moreShort: "more like",
  lessShort: "less like",
  marks: "Pictures to be more and less like",
  unmark: "Remove the mark: {name}",
  details: "Look closer",
  detailsName: "Look closer at “{caption}”",
  close: "Close",
  where: "Where in the picture each word is",
  whole: "Whole picture",
  mapAlt: "Where “{word}” is in the picture",
  noMaps: "No word of this text can be looked for in the picture.",
  id: "Id",
  pixels: "Size",
  cosine: "Cosine",
  matchProbability: "Probability of a match",
  licences: "Licences of pictures and texts",
  noLicences: "This index names no licences.",
  keys: "Keyboard",
  keySlash: "to the search field",
  keyArrows: "from result to result",
  keyEnter: "search by the result",
  keySpace: "look closer",
  keyMarks: "more or less like the result",
  keyEsc: "close, or back to the field",
  tokenTitle: "A token is needed",
  tokenWhy: "This service asks for a token once. Whoever runs it can give you one.",
  tokenLabel: "Token",
  tokenGo: "Enter",
  tokenWrong: "That token is not the right one. Try again.",
  yourPicture: "your picture",
  thisPicture: "this picture",
  removeQuery: "Remove the picture and ask by words",
  noCaption: "no caption",
  model: "model {model} ({digest}) · index {index}",
  took: "{seconds} s",
  again: "Try again",
  wait: " Possible again in {seconds} s.",
  lostUpload: "That picture was lost when the page was loaded anew. Drop it once more.",
  notPicture: "That is not a picture. Take a JPEG, PNG, WebP or GIF.",
  offline: "The service cannot be reached. See whether it runs and the network is up, then try again.",
  unreadable: "The service's answer cannot be read. It may be of another version than this page: reload the page.",
  e401: "A token is needed.",
  e403: "The service takes no requests from here.",
  e404: "That item is no longer in the index, which may just have changed. Search again.",
  e413: "The picture is too large, {limit} at most. Make it smaller and try again.",
  e422: "The query cannot be read: the picture may be broken, or the text empty.",
  e429: "Too many are searching now, or you search too fast.",
  e500: "The service failed. Try again; if that does not help, tell whoever runs it.",
  e503: "The model is being loaded. Wait a moment.",
  e504: "No answer for too long, so it was stopped. Try again.",
};

const KEPT = "tuwen-language";
let words = ZH;

/** Return a sentence in the language of the page, its {places} filled. */
export function say(key, values = {}) {
  return words[key].replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

/** Return whether there is such a sentence. */
export function knows(key) {
  return key in words;
}

/** Return a number as people read it in the language of the page. */
export function count(number) {
  return new Intl.NumberFormat(getLanguage()).format(number);
}

/** Return a share as a percentage. */
export function percent(share) {
  return new Intl.NumberFormat(getLanguage(), { style: "percent", maximumFractionDigits: 0 }).format(share);
}

export function getLanguage() {
  return words === ZH ? "zh-CN" : "en";
}

/** Take the language that was chosen last, else the browser's. */
export function chooseLanguage() {
  const kept = localStorage.getItem(KEPT) ?? navigator.language;
  setLanguage(kept.startsWith("zh") ? "zh-CN" : "en");
}

export function switchLanguage() {
  setLanguage(words === ZH ? "en" : "zh-CN");
  localStorage.setItem(KEPT, getLanguage());
}

function setLanguage(language) {
  words = language === "zh-CN" ? ZH : EN;
  document.documentElement.lang = language;
  for (const [attribute, name] of [["words", "textContent"], ["label", "ariaLabel"], ["title", "title"], ["placeholder", "placeholder"]]) {
    for (const element of document.querySelectorAll(`[data-${attribute}]`)) element[name] = say(element.dataset[attribute]);
  }
  const other = document.getElementById("language");
  [other.textContent, other.lang, other.ariaLabel] =
    words === ZH ? ["EN", "en", "Switch to English"] : ["中", "zh-CN", "换成中文"];
}
