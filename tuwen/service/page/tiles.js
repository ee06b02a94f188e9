// Answers as elements. What comes from the index is only ever set as text.

import { ask, MARKS, writeQuery } from "./query.js";
import { pictureAddress } from "./service.js";
import { percent, say } from "./words.js";

const MOST_RATIO = 2.6;
const LEAST_RATIO = 0.5;
const SIZES = [160, 320, 640]; // thumbnails that the service has

export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** Return an answer as a list item with one link, which searches by it; place: 1-based; query: what it answers. */
export function makeTile(answer, place, query) {
  const isPicture = query.of === "images";
  const link = make("a", {
    href: writeQuery(askBy(answer, query)),
    className: "answer",
    ariaLabel: say("alikeName", { caption: answer.caption || answer.id }),
  });
  if (answer.image) link.append(makePicture(answer, place, isPicture));
  const caption = make("span", { className: "caption", lang: "zh-CN", textContent: answer.caption || say("noCaption") });
  link.append(make("span", { className: "under" }, caption, makeNumbers(answer, place)));
  const item = make("li", { className: isPicture ? "tile" : "line" }, link);
  item.dataset.id = answer.id;
  if (isPicture) {
    item.style.setProperty("--ratio", limitRatio(answer));
    item.append(makeMarks(answer, query), makeCloser(answer));
  }
  return item;
}

/** Return the query that asks by an answer to another. A text asks by its words, so that they stand in the field. */
export function askBy(answer, query) {
  return ask(query, { ...(query.of === "images" ? { imageId: answer.id } : { text: answer.caption }), of: "images" });
}

function makePicture(answer, place, isLarge) {
  const rowPx = window.innerWidth < 640 ? 170 : 230; // about
  const wanted = isLarge ? rowPx * Math.max(1, limitRatio(answer)) * Math.min(window.devicePixelRatio, 2) : 0;
  const image = make("img", {
    src: pictureAddress(answer.image, SIZES.find((size) => size >= wanted) ?? SIZES.at(-1)),
    alt: "",
    loading: place > 12 ? "lazy" : "eager",
    decoding: "async",
  });
  if (answer.width_px && answer.width_px < 200) image.classList.add("small");
  image.addEventListener("error", () => image.closest("li").classList.add("gone"), { once: true });
  return make("span", { className: "picture" }, image);
}

function limitRatio({ width_px, height_px }) {
  return width_px && height_px ? Math.min(MOST_RATIO, Math.max(LEAST_RATIO, width_px / height_px)) : 1;
}

/** Return the score, and where re-ranking moved it, how far. */
function makeNumbers(answer, place) {
  const numbers = make("span", { className: "numbers" });
  if (answer.rank_before !== null && answer.rank_before !== place) {
    const places = Math.abs(answer.rank_before - place);
    const isUp = answer.rank_before > place;
    numbers.append(
      make("span", {
        className: isUp ? "moved up" : "moved",
        textContent: `${isUp ? "↑" : "↓"}${places}`,
        title: say(isUp ? "up" : "down", { places }),
      }),
    );
  }
  numbers.append(
    make("span", {
      textContent: answer.match === null ? answer.score.toFixed(2) : percent(answer.match),
      title: [say("score", { score: answer.score.toFixed(3) }), answer.match !== null && say("match", { percent: percent(answer.match) })]
        .filter(Boolean)
        .join(" · "),
    }),
  );
  return numbers;
}

const MARK_ICONS = { more: "M12 6v12M6 12h12", less: "M6 12h12" };

/** Return the buttons that say whether answers should be more like this one, or less. */
function makeMarks(answer, query) {
  const buttons = MARKS.map((kind) => {
    const button = make("button", {
      type: "button",
      className: "mark over",
      title: say(kind),
      ariaLabel: say(`${kind}Name`, { caption: answer.caption || answer.id }),
      ariaPressed: String(query[kind].includes(answer.id)),
    });
    button.dataset.mark = kind;
    button.append(drawIcon(MARK_ICONS[kind]));
    return button;
  });
  return make("span", { className: "marks" }, ...buttons);
}

function makeCloser(answer) {
  const button = make("button", {
    type: "button",
    className: "closer over",
    title: say("details"),
    ariaLabel: say("detailsName", { caption: answer.caption || answer.id }),
  });
  button.append(drawIcon("M9 4H4v5M15 4h5v5M9 20H4v-5M15 20h5v-5"));
  return button;
}

function drawIcon(path) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  const line = document.createElementNS("http://www.w3.org/2000/svg", "path");
  line.setAttribute("d", path);
  svg.append(line);
  return svg;
}

/** Return a chip with a cross that removes something. */
export function makeChip(text, label, remove) {
  const button = make("button", { type: "button", className: "chip", ariaLabel: label }, make("span", { textContent: text }));
  button.append(drawIcon("m7 7 10 10M17 7 7 17"));
  button.addEventListener("click", remove);
  return make("li", {}, button);
}
