// The search page: a query stands in the address, and what the page shows follows from it.

import { askToken, prepareDialogs, showLicences, showOne } from "./dialogs.js";
import { showChips, showFilters } from "./filters.js";
import { listenToKeys } from "./keys.js";
import { ask, canRerank, isEmpty, isPicture, mark, MARKS, readQuery, writeQuery } from "./query.js";
import { pictureAddress, readAbout, search, ServiceError } from "./service.js";
import { askBy, make, makeChip, makeTile } from "./tiles.js";
import { chooseLanguage, count, percent, say, switchLanguage } from "./words.js";

const PAGE = 40; // answers at once
const MOST = 200; // answers to a query
const CAPTIONS = 6; // beside the pictures like a picture
const KEPT = 30; // queries whose answers are kept for the back button
// Up to which probability that the first answer is right each sentence is said, and how many bars it has.
const VERDICTS = [
  [0.1, "nothing"],
  [0.35, "unsure"],
  [0.7, "perhaps"],
  [1, "likely"],
];

const get = (id) => document.getElementById(id);
const uploads = new Map(); // number in the address -> {file, address}
const kept = new Map(); // address of a query -> what was found
let about = null;
let query = readQuery(location.href);
let found = null; // what the service answered, with all answers so far, captions beside them, and the scroll position
let failed = null; // the error that is shown
let running = new AbortController();
const atEnd = new IntersectionObserver(
  ([{ isIntersecting }]) => {
    if (isIntersecting && hasMore() && !document.body.classList.contains("busy")) load(running.signal);
  },
  { rootMargin: "800px" },
);

start();

async function start() {
  history.scrollRestoration = "manual";
  chooseLanguage();
  prepareDialogs();
  listen();
  try {
    about = await guard(readAbout);
  } catch (error) {
    document.body.classList.remove("home");
    fail(error, start);
    return;
  }
  await run();
}

/** Call the service; where it asks for a token, ask the person, where it is about to be ready, wait, then call again. */
async function guard(call) {
  for (;;) {
    try {
      return await call();
    } catch (error) {
      if (error.status === 401) await askToken();
      else if (error.status === 503 && error.waitSeconds) {
        fail(error);
        await new Promise((resolve) => setTimeout(resolve, 1000 * error.waitSeconds));
      } else throw error;
    }
  }
}

/** Go to another query: a new step of the history, so that back leads here. */
function go(next) {
  if (found) found.scroll = scrollY;
  const [from, to] = [query, next].map(writeQuery);
  if (from === to) kept.delete(to); // asked again: find anew, and no step more
  history[from === to ? "replaceState" : "pushState"](null, "", to);
  run();
}

/** Show what the address asks for; answers that were found before come back at once, where they were left. */
async function run() {
  query = readQuery(location.href);
  running.abort();
  running = new AbortController();
  failed = null;
  const focused = ["answers", "marks"].some((id) => get(id).contains(document.activeElement)) && document.activeElement;
  found = kept.get(writeQuery(query)) ?? null;
  render();
  const goOn = () => focused && findAgain(focused)?.focus({ preventScroll: true }); // with the keyboard
  if (found) {
    scrollTo(0, found.scroll ?? 0);
    if (focused && !focused.matches("a")) goOn(); // back to where a link was followed one comes by the scroll alone
    return;
  }
  scrollTo(0, 0);
  if (isEmpty(query) || !about) return; // start runs it again, once it knows about the service
  if (query.upload && !uploads.has(query.upload)) {
    fail(new ServiceError(say("lostUpload")));
    return;
  }
  await load(running.signal);
  goOn();
}

/** Return the button by which an answer was marked, as it stands among the answers now; else the first answer. */
function findAgain({ dataset, parentElement }) {
  const { id } = parentElement.closest("li")?.dataset ?? {};
  const item = dataset.mark && [...get("answers").children].find((one) => one.dataset.id === id);
  return item ? item.querySelector(`[data-mark=${dataset.mark}]`) : get("answers").querySelector("a");
}

/** Load the first answers, or the next. */
async function load(signal) {
  const offset = found?.answers.length ?? 0;
  const options = { picture: uploads.get(query.upload)?.file, about, signal };
  const key = writeQuery(query);
  document.body.classList.add("busy");
  try {
    const k = Math.min(PAGE, MOST - offset, about.max_k);
    const page = await guard(() => search(query, { ...options, k, offset, rerank: query.rerank && canAskToRerank() }));
    if (signal.aborted) return;
    found = { ...(found ?? page), answers: [...(found?.answers ?? []), ...page.answers] };
    keep(key, found);
    failed = null;
    render(offset);
    if (!offset && isPicture(query) && query.of === "images") loadCaptions(found, options);
  } catch (error) {
    if (error.name !== "AbortError") fail(error, () => load(signal));
  } finally {
    if (!signal.aborted) document.body.classList.remove("busy");
  }
}

async function loadCaptions(own, options) {
  try {
    const asked = { ...query, of: "texts", filter: {}, more: [], less: [] };
    const { answers } = await search(asked, { ...options, k: Math.min(CAPTIONS, about.max_k) });
    own.captions = answers.map((answer) => [answer.caption, writeQuery(askBy(answer, asked))]);
  } catch {
    return; // the pictures stand for themselves
  }
  if (found === own) renderCaptions();
}

function keep(key, own) {
  kept.delete(key);
  kept.set(key, own);
  if (kept.size > KEPT) kept.delete(kept.keys().next().value);
}

const canAskToRerank = () => about.rerank && canRerank(query);

function hasMore() {
  return Boolean(found) && !failed && found.answers.length < Math.min(found.total, MOST);
}

function fail(error, again = null) {
  failed = { error, again };
  document.body.classList.remove("busy");
  render();
}

/** Ask by a picture that was dropped, pasted or chosen. */
function upload(file) {
  if (!about) return; // its limits are not known yet
  if (!file.type.startsWith("image/")) {
    fail(new ServiceError(say("notPicture")));
    return;
  }
  if (file.size > about.max_body_bytes) {
    fail(new ServiceError(say("e413", { limit: `${Math.floor(about.max_body_bytes / 2 ** 20)} MB` })));
    return;
  }
  const number = `${uploads.size + 1}`;
  uploads.set(number, { file, address: URL.createObjectURL(file) });
  go(ask(query, { upload: number }));
}

/** Draw the whole page; from: the first answer that is not there yet. */
function render(from = 0) {
  document.body.classList.toggle("home", isEmpty(query) && !failed);
  document.title = [query.text, say("brand").split(/[，,]/)[0]].filter(Boolean).join(" · ");
  get("text").value = query.text;
  renderAsked();
  renderMarks();
  for (const radio of document.querySelectorAll("[name=of]")) radio.checked = radio.value === query.of;
  if (about) renderOptions();
  renderError();
  renderSummary();
  renderCaptions();
  const list = get("answers");
  list.className = `answers ${query.of}`;
  const answers = found?.answers ?? [];
  if (!from) list.replaceChildren();
  list.append(...answers.slice(from).map((answer, n) => makeTile(answer, from + n + 1, query)));
  get("end").hidden = !answers.length || hasMore() || Boolean(failed);
  get("end").textContent = say("end", { count: count(answers.length) });
  get("more").hidden = !hasMore();
  atEnd.disconnect(); // observed anew, it tells of an end that a short page left in view
  atEnd.observe(get("more"));
}

/** Show in the field the picture that asks. */
function renderAsked() {
  const asked = get("asked");
  const address = query.upload ? uploads.get(query.upload)?.address : query.imageId && pictureAddress(nameImage(query.imageId), 160);
  asked.hidden = !address;
  asked.replaceChildren();
  get("text").placeholder = say(address ? "askMore" : "ask");
  if (!address) return;
  const name = say(query.upload ? "yourPicture" : "thisPicture");
  const chip = makeChip(name, say("removeQuery"), () => {
    go(ask(query, {}));
    get("text").focus();
  }).firstChild;
  chip.prepend(make("img", { src: address, alt: "" }));
  asked.append(chip);
}

/** Show a chip for each marked picture, which removes the mark. */
function renderMarks() {
  const chips = MARKS.flatMap((kind) =>
    query[kind].map((id) => {
      const item = makeChip(say(`${kind}Short`), say("unmark", { name: `${say(`${kind}Short`)} ${id}` }), () => go(mark(query, kind, id)));
      item.firstChild.prepend(make("img", { src: pictureAddress(nameImage(id), 160), alt: "" }));
      return item;
    }),
  );
  get("marks").replaceChildren(...chips);
}

const nameImage = (id) => `image/${id.split("/").map(encodeURIComponent).join("/")}`;

function renderOptions() {
  const change = (filter) => go({ ...query, filter });
  const used = showChips(get("chips"), query.filter, change);
  get("active").hidden = !used;
  get("active").textContent = used;
  get("active").ariaLabel = say("filtersActive", { count: used });
  showFilters(get("filters"), about.filters, query.filter, change);
  get("filter").hidden = !get("filters").children.length;
  get("rerank").hidden = !about.rerank;
  const box = get("rerank").querySelector("input");
  [box.checked, box.disabled] = [query.rerank && canRerank(query), !canRerank(query)];
  get("size").textContent = say("size", { images: count(about.index.images), texts: count(about.index.texts) });
  const model = [about.model.name, about.model.version && `v${about.model.version}`].filter(Boolean).join(" ");
  const short = (digest) => digest.replace(/^\w+:/, "").slice(0, 8);
  get("model").textContent = say("model", { model, digest: short(about.model.digest), index: short(about.index.digest) });
}

function renderError() {
  const box = get("error");
  box.hidden = !failed;
  box.replaceChildren();
  if (!failed) return;
  const { error, again } = failed;
  box.append(make("p", { textContent: error instanceof ServiceError ? error.message : say("e500") }));
  if (error.detail) box.append(make("p", { className: "soft", lang: "en", textContent: error.detail }));
  if (!again) return;
  const button = make("button", { type: "button", className: "strong", textContent: say("again") });
  button.addEventListener("click", () => {
    failed = null;
    again();
  });
  box.append(button);
}

/** Say how likely the first answer is right, in words; then how many there are, and what re-ranking moved. */
function renderSummary() {
  const summary = get("summary");
  summary.replaceChildren();
  summary.removeAttribute("data-level");
  if (!found || (failed && !found.answers.length)) return;
  if (!found.total) {
    summary.append(make("p", { className: "verdict", textContent: say(Object.keys(query.filter).length ? "empty" : "emptyAll") }));
    return;
  }
  if (found.probability !== null) {
    const level = VERDICTS.findIndex(([most]) => found.probability <= most);
    const [, key] = VERDICTS[level];
    summary.dataset.level = level;
    const verdict = make("p", { className: "verdict", title: say("chance", { percent: percent(found.probability) }) });
    verdict.append(make("span", { className: "bars", ariaHidden: "true" }, ...VERDICTS.map(() => make("i"))), say(key));
    if (key === "nothing") verdict.append(make("span", { className: "soft", textContent: ` ${say("nothingMore")}` }));
    summary.append(verdict);
  }
  const seconds = found.milliseconds.total / 1000;
  const facts = [say("found", { total: count(found.total) }), say("took", { seconds: seconds.toFixed(2) }), describeMoves()];
  summary.append(make("p", { className: "soft", textContent: facts.filter(Boolean).join(" · ") }));
}

function describeMoves() {
  const read = found.answers.filter(({ match }) => match !== null);
  if (!query.rerank || !read.length) return "";
  const moved = found.answers.filter(({ rank_before }, n) => rank_before !== null && rank_before !== n + 1).length;
  return say(moved ? "moved" : "unmoved", { read: count(read.length), moved: count(moved) });
}

function renderCaptions() {
  const captions = found?.captions ?? [];
  get("captions").hidden = !captions.length;
  const links = captions.map(([caption, href]) => make("a", { href, textContent: caption, lang: "zh-CN" }));
  get("captions").querySelector("ul").replaceChildren(...links.map((link) => make("li", {}, link)));
}

function look(item) {
  const answer = found.answers.find(({ id }) => id === item.dataset.id);
  if (answer && query.of === "images") showOne(answer, { text: about.attention && query.text, searchAddress: writeQuery(askBy(answer, query)) });
}

function listen() {
  const field = get("text");
  get("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = field.value.trim();
    if (!text) return;
    if (matchMedia("(pointer: coarse)").matches) field.blur();
    go(ask(query, { text }));
  });
  get("file").addEventListener("change", ({ target }) => {
    if (target.files[0]) upload(target.files[0]);
    target.value = "";
  });
  get("language").addEventListener("click", () => {
    switchLanguage();
    render();
  });
  get("licences").addEventListener("click", () => showLicences(about?.licences ?? []));
  get("filter").addEventListener("click", ({ currentTarget }) => {
    const isOpen = currentTarget.ariaExpanded !== "true";
    currentTarget.ariaExpanded = String(isOpen);
    get("filters").hidden = !isOpen;
  });
  get("rerank").addEventListener("change", ({ target }) => go({ ...query, rerank: target.checked }));
  for (const radio of document.querySelectorAll("[name=of]")) {
    radio.addEventListener("change", () => go({ ...query, of: radio.value }));
  }
  document.addEventListener("click", (event) => {
    const item = event.target.closest(".closer")?.closest("li");
    if (item) look(item);
    const button = event.target.closest(".mark");
    if (button) go(mark(query, button.dataset.mark, button.closest("li").dataset.id));
    const link = event.target.closest("a[href]");
    if (!link || link.target || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
    if (link.getAttribute("href").startsWith("#")) return;
    event.preventDefault();
    get("one").close();
    go(readQuery(link.href));
    if (link.classList.contains("brand")) field.focus();
  });
  addEventListener("popstate", () => {
    document.querySelectorAll("dialog[open]").forEach((dialog) => dialog.close());
    run();
  });
  addEventListener("scroll", () => found && (found.scroll = scrollY), { passive: true });
  listenToKeys({ field, answers: get("answers"), look });
  listenToDrops();
}

function listenToDrops() {
  const cover = get("cover");
  const hasFile = (event) => event.dataTransfer.types.includes("Files");
  let depth = 0; // dragenter and dragleave come for every element on the way
  addEventListener("dragenter", (event) => {
    if (hasFile(event)) cover.hidden = ++depth === 0;
  });
  addEventListener("dragleave", (event) => {
    if (hasFile(event)) cover.hidden = --depth === 0;
  });
  addEventListener("dragover", (event) => hasFile(event) && event.preventDefault());
  addEventListener("drop", (event) => {
    if (!hasFile(event)) return;
    event.preventDefault();
    [depth, cover.hidden] = [0, true];
    upload(event.dataTransfer.files[0]);
  });
  addEventListener("paste", ({ clipboardData }) => {
    const file = [...clipboardData.files].find(({ type }) => type.startsWith("image/"));
    if (file) upload(file);
  });
}
