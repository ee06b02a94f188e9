// The panel of filters, made of what /about says that can be filtered by, and the chips of those in use.

import { LISTS, RANGES } from "./query.js";
import { make, makeChip } from "./tiles.js";
import { count, say } from "./words.js";

/** Fill the panel, and leave the focus where it was; change: is called with the new filter. */
export function showFilters(panel, filters, filter, change) {
  const shown = JSON.stringify([filters, filter, say("filter")]);
  if (panel.dataset.shown === shown) return; // somebody may be typing in it
  panel.dataset.shown = shown;
  const focused = [...panel.querySelectorAll("input")].indexOf(document.activeElement);
  panel.replaceChildren();
  for (const name of LISTS) {
    const values = Object.entries(filters[name] ?? {});
    if (values.length > 1) panel.append(makeList(name, values, filter, change));
  }
  for (const name of RANGES) {
    const [least, most] = filters[name] ?? [0, 0];
    if (least < most) panel.append(makeRange(name, least, most, filter, change));
  }
  panel.querySelectorAll("input")[focused]?.focus();
}

function makeList(name, values, filter, change) {
  const chosen = new Set(filter[name] ?? []);
  const group = make("fieldset", {}, make("legend", { textContent: say(name) }));
  for (const [value, number] of values) {
    const box = make("input", { type: "checkbox", value, checked: chosen.has(value) });
    box.addEventListener("change", () => {
      chosen[box.checked ? "add" : "delete"](value);
      change(set(filter, name, chosen.size ? [...chosen] : null));
    });
    group.append(
      make("label", { className: "box" }, box, make("span", { textContent: value, lang: "zh-CN" }), make("small", { textContent: count(number) })),
    );
  }
  return group;
}

function makeRange(name, least, most, filter, change) {
  const [low, high] = filter[name] ?? [least, most];
  const group = make("fieldset", { className: "range" }, make("legend", { textContent: say(name) }));
  const fields = [["from", low], ["to", high]].map(([key, value]) => {
    const field = make("input", { type: "number", min: least, max: most, value, ariaLabel: `${say(name)}, ${say(key)}` });
    field.addEventListener("change", () => {
      const ends = fields.map(({ value }, end) => Math.min(most, Math.max(least, Number(value) || [least, most][end])));
      ends.sort((a, b) => a - b);
      change(set(filter, name, ends[0] === least && ends[1] === most ? null : ends));
    });
    return field;
  });
  group.append(fields[0], make("span", { textContent: "–", ariaHidden: "true" }), fields[1]);
  return group;
}

/** Show a chip for each filter in use; return how many there are. */
export function showChips(list, filter, change) {
  list.replaceChildren();
  const used = [];
  for (const name of LISTS) for (const value of filter[name] ?? []) used.push([name, value]);
  for (const name of RANGES) if (filter[name]) used.push([name, null]);
  for (const [name, value] of used) {
    const text = value ?? `${say(name)} ${filter[name].join("–")}`;
    const rest = value === null ? null : filter[name].filter((one) => one !== value);
    list.append(makeChip(text, say("remove", { name: text }), () => change(set(filter, name, rest?.length ? rest : null))));
  }
  if (used.length > 1) {
    const all = make("button", { type: "button", className: "plain", textContent: say("clear") });
    all.addEventListener("click", () => change({}));
    list.append(make("li", {}, all));
  }
  return used.length;
}

function set(filter, name, value) {
  const { [name]: _, ...others } = filter;
  return value === null ? others : { ...others, [name]: value };
}
