// What opens over the page: one answer from near, with where its words are; licences; keys; the token.

import { openSession, pictureAddress, readAttention } from "./service.js";
import { make } from "./tiles.js";
import { percent, say } from "./words.js";

const get = (id) => document.getElementById(id);
let reading = new AbortController();

/** Let every dialog close by its button, by Esc and by a click beside it. */
export function prepareDialogs() {
  for (const dialog of document.querySelectorAll("dialog")) {
    dialog.querySelector(".close")?.addEventListener("click", () => dialog.close());
    if (dialog.id !== "token") dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  }
  get("one").addEventListener("close", () => reading.abort());
  get("keys").addEventListener("click", () => get("key-list").showModal());
}

/** Show one picture from near; text: what was asked, whose words are looked for in it; null: none. */
export function showOne(answer, { text, searchAddress }) {
  const image = get("one-image");
  image.src = pictureAddress(answer.image, 640);
  image.alt = answer.caption ?? "";
  image.classList.toggle("small", Boolean(answer.width_px && answer.width_px < 200));
  showMap(null);
  get("one-caption").textContent = answer.caption || say("noCaption");
  get("one-caption").lang = "zh-CN";
  get("one-search").href = searchAddress;
  const facts = [
    ["cosine", answer.score.toFixed(3)],
    ["matchProbability", answer.match === null ? null : percent(answer.match)],
    ["source", answer.source],
    ["category", answer.category],
    ["split", answer.split],
    ["pixels", answer.width_px ? `${answer.width_px} × ${answer.height_px}` : null],
    ["id", answer.id],
  ];
  get("one-facts").replaceChildren(
    ...facts
      .filter(([, value]) => value !== null && value !== undefined && value !== "")
      .map(([key, value]) => make("div", {}, make("dt", { textContent: say(key) }), make("dd", { textContent: value }))),
  );
  get("one-words").hidden = true;
  get("one").showModal();
  if (text) showWords(answer.id, text);
}

function showMap(map) {
  const shown = get("one-map");
  shown.hidden = !map;
  if (map) [shown.src, shown.alt] = [map.image, say("mapAlt", { word: map.word })];
}

async function showWords(imageId, text) {
  reading.abort();
  reading = new AbortController();
  const part = get("one-words");
  const list = part.querySelector(".chips");
  list.replaceChildren(make("span", { className: "waiting" }));
  part.hidden = false;
  try {
    const { maps } = await readAttention(imageId, text, reading.signal);
    if (!maps.length) {
      list.replaceChildren(make("span", { className: "soft", textContent: say("noMaps") }));
      return;
    }
    const choices = [{ word: say("whole"), image: null }, ...maps].map((map, n) => {
      const button = make("button", { type: "button", className: "chip", ariaPressed: String(n === 0) });
      button.append(make("span", { textContent: map.word, lang: n ? "zh-CN" : "" }));
      button.addEventListener("click", () => {
        for (const other of choices) other.ariaPressed = String(other === button);
        showMap(map.image && map);
      });
      return button;
    });
    list.replaceChildren(...choices);
  } catch (error) {
    if (error.name !== "AbortError") part.hidden = true; // a picture without its words is still worth a look
  }
}

export function showLicences(licences) {
  const rows = licences.map(({ source, text, link }) => {
    const row = make("li", {}, make("strong", { textContent: source }), make("span", { textContent: text }));
    if (/^https?:\/\//.test(link ?? "")) row.append(make("a", { href: link, textContent: link, rel: "noopener noreferrer", target: "_blank" }));
    return row;
  });
  const list = get("licence-list");
  list.querySelector("ul").replaceChildren(...(rows.length ? rows : [make("li", { textContent: say("noLicences") })]));
  list.showModal();
}

/** Ask for the token until the service takes it. */
export function askToken() {
  const dialog = get("token");
  const field = get("token-text");
  const form = dialog.querySelector("form");
  get("token-error").textContent = "";
  return new Promise((resolve) => {
    dialog.oncancel = (event) => event.preventDefault();
    form.onsubmit = async (event) => {
      event.preventDefault();
      try {
        await openSession(field.value);
        field.value = "";
        dialog.close();
        resolve();
      } catch (error) {
        get("token-error").textContent = error.status === 401 || error.status === 403 ? say("tokenWrong") : error.message;
        field.select();
      }
    };
    if (!dialog.open) dialog.showModal();
    field.focus();
  });
}
