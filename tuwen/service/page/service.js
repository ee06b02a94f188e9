// The service's HTTP face; every failure is an Error that says in words what to do.

import { knows, say } from "./words.js";

const address = (path) => new URL(path, document.baseURI);

export class ServiceError extends Error {
  constructor(message, status = 0, waitSeconds = 0) {
    super(message);
    this.status = status;
    this.waitSeconds = waitSeconds;
  }
}

/** Return what model and index there are, and what can be filtered by. */
export function readAbout() {
  return call("about");
}

/**
 * Return a page of answers.
 * query: as readQuery has it; picture: the File that an upload stands for; about: its limits are told in errors.
 */
export function search(query, { picture, k, offset = 0, rerank = false, about, signal }) {
  const body = { of: query.of, k, offset, filter: query.filter, rerank, more: query.more, less: query.less };
  if (query.imageId) body.image_id = query.imageId;
  else if (query.textId) body.text_id = query.textId;
  else if (!picture && query.text) body.text = query.text;
  if (!picture) return call("search", { json: body, about, signal });
  const form = new FormData();
  for (const [name, value] of Object.entries(body)) form.set(name, typeof value === "object" ? JSON.stringify(value) : value);
  form.set("image", picture);
  return call("search", { form, about, signal });
}

/** Return where in a picture each word of a text is. */
export function readAttention(imageId, text, signal) {
  return call("attention", { json: { image_id: imageId, text }, signal });
}

/** Exchange the token for a cookie, which pictures need as well. */
export function openSession(token) {
  return call("session", { json: { token } });
}

export function pictureAddress(image, size) {
  return image && `${address(image.replace(/^\//, ""))}?size=${size}`;
}

async function call(path, { json, form, about, signal } = {}) {
  const options = json
    ? { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(json), signal }
    : { method: form ? "POST" : "GET", body: form, signal };
  let response;
  try {
    response = await fetch(address(path), options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServiceError(say("offline"));
  }
  if (!response.ok) throw await readError(response, about);
  if (response.status === 204) return null;
  try {
    return await response.json();
  } catch {
    throw new ServiceError(say("unreadable"));
  }
}

async function readError(response, about) {
  const { status } = response;
  const body = await response.json().catch(() => null);
  const limit = about ? `${Math.floor(about.max_body_bytes / 2 ** 20)} MB` : "";
  const own = say(knows(`e${status}`) ? `e${status}` : "e500", { limit });
  const wait = Number(response.headers.get("Retry-After")) || 0;
  const detail = body?.error?.message ?? "";
  const error = new ServiceError(wait ? `${own}${say("wait", { seconds: wait })}` : own, status, wait);
  error.detail = detail; // the service's own words, which name the value that was wrong
  return error;
}
