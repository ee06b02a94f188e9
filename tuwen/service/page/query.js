// A query as the address of the page has it, so that it can be kept, sent and gone back to; and as the service reads it.

export const MARKS = ["more", "less"]; // pictures that the answers should be like, and unlike
export const LISTS = ["source", "category", "split"];
export const RANGES = ["width_px", "height_px", "caption_chars"];
const MOST_MARKED = 20; // that the service takes of each kind

/** Read a query from an address. A picture that was dropped is in no address: it has a number in this page's memory. */
export function readQuery(address) {
  const values = new URL(address).searchParams;
  const filter = {};
  for (const name of LISTS) if (values.has(name)) filter[name] = values.getAll(name);
  for (const name of RANGES) {
    const ends = /^(\d+)-(\d+)$/.exec(values.get(name) ?? "");
    if (ends) filter[name] = [Number(ends[1]), Number(ends[2])];
  }
  return {
    text: values.get("q") ?? "",
    imageId: values.get("image"),
    textId: values.get("text"),
    upload: values.get("upload"),
    of: values.get("of") === "texts" ? "texts" : "images",
    rerank: values.get("rerank") === "1",
    more: values.getAll("more").slice(-MOST_MARKED),
    less: values.getAll("less").slice(-MOST_MARKED),
    filter,
  };
}

/** Return the address of a query, relative to the page. */
export function writeQuery(query) {
  const values = new URLSearchParams();
  if (query.upload) values.set("upload", query.upload);
  else if (query.imageId) values.set("image", query.imageId);
  else if (query.textId) values.set("text", query.textId);
  else if (query.text) values.set("q", query.text);
  for (const kind of MARKS) for (const id of query[kind]) values.append(kind, id);
  if (query.of === "texts") values.set("of", "texts");
  if (query.rerank) values.set("rerank", "1");
  for (const name of LISTS) for (const value of query.filter[name] ?? []) values.append(name, value);
  for (const name of RANGES) if (query.filter[name]) values.set(name, query.filter[name].join("-"));
  const written = values.toString();
  return written ? `?${written}` : "./";
}

/** Return the query that asks by a text, an item or an upload, with the options of another. */
export function ask(query, what) {
  return { ...query, text: "", imageId: null, textId: null, upload: null, more: [], less: [], ...what };
}

/** Return the query with a picture marked as more or less; without the mark where it has it. Of too many the oldest goes. */
export function mark(query, kind, id) {
  const without = (ids) => ids.filter((one) => one !== id);
  const next = { ...query, more: without(query.more), less: without(query.less) };
  if (!query[kind].includes(id)) next[kind] = [...next[kind], id].slice(-MOST_MARKED);
  return next;
}

export function isEmpty(query) {
  return !(query.text || query.imageId || query.textId || query.upload || query.more.length);
}

/** Whether a picture asks; a picture asked for pictures is not re-ranked, since a match is of a picture and a text. */
export function isPicture(query) {
  return Boolean(query.imageId || query.upload);
}

/** What marks moved is a vector, and a re-ranker reads words and pictures. */
export function canRerank(query) {
  return !query.more.length && !query.less.length && isPicture(query) !== (query.of === "images");
}
