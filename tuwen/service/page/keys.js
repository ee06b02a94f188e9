// The keyboard: / to the field, arrows over the answers, Space for a closer look, + and - to mark, Esc back.

const isField = (element) => element.matches("input:not([type=checkbox], [type=radio]), textarea, select");

/** Listen; look: is called with the list item that Space is pressed on. */
export function listenToKeys({ field, answers, look }) {
  document.addEventListener("keydown", (event) => {
    if (event.isComposing || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    const focused = document.activeElement;
    if (event.key === "/" && !isField(focused)) {
      event.preventDefault();
      field.focus();
      field.select();
    } else if (event.key === "Escape" && focused !== field) {
      field.focus();
    } else if (event.key === "ArrowDown" && focused === field && answers.children.length) {
      event.preventDefault();
      answers.querySelector("a").focus();
    } else if (focused.closest?.("li")?.parentElement === answers) {
      moveInAnswers(event, focused.closest("li"), look, field);
    }
  });
}

function moveInAnswers(event, item, look, field) {
  if (event.key === " " && event.target.matches("a")) {
    event.preventDefault();
    look(item);
    return;
  }
  const kind = { "+": "more", "-": "less" }[event.key];
  if (kind) item.querySelector(`[data-mark=${kind}]`)?.click();
  const next = {
    ArrowRight: () => item.nextElementSibling,
    ArrowLeft: () => item.previousElementSibling,
    ArrowDown: () => findInRow(item, "nextElementSibling"),
    ArrowUp: () => findInRow(item, "previousElementSibling"),
  }[event.key];
  if (!next) return;
  event.preventDefault();
  const found = next();
  if (found) found.querySelector("a").focus();
  else if (event.key === "ArrowUp") field.focus();
}

/** Return the item of the row above or below whose middle is nearest. */
function findInRow(item, sibling) {
  const middle = (one) => one.offsetLeft + one.offsetWidth / 2;
  let row = null;
  let best = null;
  for (let other = item[sibling]; other; other = other[sibling]) {
    if (other.offsetTop === item.offsetTop) continue;
    row ??= other.offsetTop;
    if (other.offsetTop !== row) break;
    if (!best || Math.abs(middle(other) - middle(item)) < Math.abs(middle(best) - middle(item))) best = other;
  }
  return best;
}
