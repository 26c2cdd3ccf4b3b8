"use strict";

const element = (id) => document.getElementById(id);
const AHEAD = 6; // photos that are fetched before they are shown
const KEPT_BEHIND = 3;
const WINDOW = 40; // positions that are asked at once
const PROGRESS_MS = 5000;
const SLOW_MS = 150;

let review = null; // identifies the start of the review, on which the numbers of the photos depend
let poses = []; // {id, name, key}; the first one is no known pose
let total = 0;
let position = 0; // in the order; total: the end
let found = null; // a photo that was searched, which is shown instead
let isZoomed = false;
let isBusy = false; // a decision is on its way to the disk
const items = new Map(); // position → item
const images = new Map(); // row → promise of an object URL

async function ask(path, body) {
  const headers = {};
  const token = sessionStorage.getItem("token");
  if (token) headers.Authorization = `Bearer ${token}`;
  if (review) headers["X-Review"] = review;
  const options = { headers };
  if (body !== undefined) {
    headers["Content-Type"] = "application/json";
    Object.assign(options, { method: "POST", body: JSON.stringify(body) });
  }
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("The review does not answer. Nothing is lost: start it again, and reload this page.");
  }
  if (response.ok) return response;
  const answer = await response.json().catch(() => null);
  if (response.status === 401) askForToken();
  if (answer?.error?.code === "restarted") location.reload();
  throw new Error(answer?.error?.message || `The review answered with status ${response.status}.`);
}

const askJson = async (path, body) => (await ask(path, body)).json();

function askForToken() {
  element("refusal").textContent = sessionStorage.getItem("token") ? "The token was refused." : "";
  sessionStorage.removeItem("token");
  element("access").hidden = false;
  element("work").hidden = true;
  element("token").focus();
}

function loadImage(row) {
  if (!images.has(row)) {
    const loading = ask(`photo/${row}`).then((response) => response.blob()).then(async (blob) => {
      const url = URL.createObjectURL(blob);
      const image = new Image();
      image.src = url;
      await image.decode(); // before it is shown, so that showing it takes no time
      return url;
    });
    loading.catch(() => {}); // shown when the photo is
    images.set(row, loading);
  }
  return images.get(row);
}

function forgetImages(rows) {
  for (const [row, loading] of images) {
    if (rows.has(row)) continue;
    images.delete(row);
    loading.then((url) => URL.revokeObjectURL(url), () => {});
  }
}

async function loadItems(start) {
  const first = Math.max(0, start);
  const answer = await askJson(`queue?from=${first}&count=${WINDOW}`);
  for (const item of answer.items) items.set(item.position, item);
  for (const at of items.keys()) if (Math.abs(at - position) > 3 * WINDOW) items.delete(at);
}

function preload() {
  const rows = new Set(found ? [found.row] : []);
  for (let at = position - KEPT_BEHIND; at <= position + AHEAD; at += 1) {
    if (items.has(at)) rows.add(items.get(at).row);
  }
  forgetImages(rows);
  for (const row of rows) loadImage(row);
  const end = position + AHEAD + 1;
  if (end < total && !items.has(end)) loadItems(end).catch(report);
}

const current = () => found || items.get(position);
const nameOf = (id) => poses.find((pose) => pose.id === id)?.name ?? `pose ${id}`;

async function show() {
  const image = element("image");
  const frame = element("photo");
  frame.setAttribute("aria-busy", "true"); // no key decides about a photo that is not shown yet
  if (!found && position < total && !items.has(position)) await loadItems(position - KEPT_BEHIND);
  const item = current();
  element("empty").textContent = "";
  for (const button of element("poses").children) {
    const id = JSON.parse(button.dataset.pose);
    const isDecided = item?.decided?.pose === id && item.decided !== null;
    button.classList.toggle("suggested", item?.suggestion?.pose === id && item.suggestion !== null);
    button.classList.toggle("decided", isDecided);
    button.setAttribute("aria-pressed", String(isDecided));
    button.disabled = !item;
  }
  element("accept").disabled = !item?.suggestion;
  if (!item) {
    image.hidden = true;
    delete image.dataset.row;
    element("name").textContent = "";
    element("state").textContent = "";
    element("empty").textContent = total ? "No more photos. All decisions are on the disk." : "No photo to review.";
    element("said").textContent = element("empty").textContent;
    frame.setAttribute("aria-busy", "false");
    return;
  }
  const state = describe(item);
  element("name").textContent = `${item.bucket}/${item.key}`;
  element("state").textContent = state;
  element("said").textContent = `${found ? "Searched photo" : `Photo ${position + 1} of ${total}`}. ${state}`;
  const slow = setTimeout(() => {
    if (current() !== item) return;
    image.hidden = true;
    element("empty").textContent = "Loading …";
  }, SLOW_MS);
  try {
    const url = await loadImage(item.row);
    if (current() !== item) return; // a later key was faster
    element("empty").textContent = "";
    image.src = url;
    image.hidden = false;
    image.alt = `Photo ${item.key}`;
    image.dataset.row = item.row;
    if (isZoomed) showLarge(item);
  } catch (error) {
    if (current() !== item) return;
    images.delete(item.row);
    image.hidden = true;
    image.dataset.row = item.row;
    element("empty").textContent = `This photo cannot be shown: ${error.message}`;
  } finally {
    clearTimeout(slow);
  }
  frame.setAttribute("aria-busy", "false");
  preload();
}

function describe(item) {
  const parts = [];
  if (item.decided) parts.push(`Decided: ${nameOf(item.decided.pose)}.`);
  if (item.label) parts.push(`Label: ${nameOf(item.label.pose)}.`);
  if (item.suggestion) {
    const share = item.confidence === null ? "" : ` (${(item.confidence * 100).toFixed(0)}\u00a0%)`;
    parts.push(`Suggestion: ${nameOf(item.suggestion.pose)}${share}.`);
  }
  return parts.join(" ") || "No suggestion.";
}

async function showLarge(item) {
  try {
    const blob = await (await ask(`photo/${item.row}?zoom=1`)).blob();
    const url = URL.createObjectURL(blob);
    if (current() === item && isZoomed) element("image").src = url;
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  } catch (error) {
    report(error);
  }
}

function report(error) {
  element("trouble").textContent = error.message;
}

async function guarded(action) {
  if (isBusy) return;
  isBusy = true;
  try {
    await action();
    element("trouble").textContent = "";
  } catch (error) {
    report(error);
  } finally {
    isBusy = false;
  }
}

const decide = (pose) => guarded(async () => {
  const item = current();
  if (!item || element("photo").getAttribute("aria-busy") === "true") return;
  const answer = await askJson("decide", { row: item.row, pose }); // it is on the disk now
  item.decided = answer.decided;
  for (const other of items.values()) if (other.row === item.row) other.decided = answer.decided;
  showProgress(answer.progress);
  if (found) found = null;
  else position += 1;
  show().catch(report);
});

const accept = () => {
  const suggestion = current()?.suggestion;
  if (suggestion) decide(suggestion.pose);
};

const move = (step) => guarded(async () => {
  if (found) found = null;
  else position = Math.min(total, Math.max(0, position + step));
  show().catch(report);
});

const undo = () => guarded(async () => {
  const answer = await askJson("undo", {});
  showProgress(answer.progress);
  for (const item of items.values()) if (item.row === answer.row) item.decided = answer.decided;
  if (answer.position === undefined) {
    found = answer;
  } else {
    found = null;
    position = answer.position;
  }
  show().catch(report);
});

const zoom = () => {
  isZoomed = !isZoomed;
  element("photo").classList.toggle("zoomed", isZoomed);
  element("zoom").setAttribute("aria-pressed", String(isZoomed));
  if (isZoomed) element("photo").focus(); // arrows up and down scroll it
  show().catch(report);
};

function openSearch() {
  element("search").hidden = false;
  element("text").focus();
}

function closeSearch() {
  element("search").hidden = true;
  element("text").value = "";
  element("found").replaceChildren();
  element("photo").focus();
}

async function search() {
  const text = element("text").value;
  try {
    const answer = await askJson(`search?q=${encodeURIComponent(text)}`);
    if (text !== element("text").value) return;
    element("found").replaceChildren(...answer.items.map((item) => {
      const line = document.createElement("li");
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = `${item.bucket}/${item.key}`;
      button.addEventListener("click", () => {
        found = item;
        closeSearch();
        show().catch(report);
      });
      line.append(button);
      return line;
    }));
    element("said").textContent = `${answer.items.length} photos found`;
  } catch (error) {
    report(error);
  }
}

function showProgress(progress) {
  const rate = progress.per_hour === null ? "" : `, ${progress.per_hour} an hour`;
  element("done").textContent = `${progress.done} of ${progress.total} photos done${rate}`;
  element("bar").max = Math.max(1, progress.total);
  element("bar").value = progress.done;
  element("counts").replaceChildren(...progress.poses.map((pose) => {
    const row = document.createElement("tr");
    const name = document.createElement("th");
    const count = document.createElement("td");
    name.scope = "row";
    name.textContent = nameOf(pose.id);
    const sign = pose.added < 0 ? "−" : "+";
    const added = pose.added ? ` ${sign} ${Math.abs(pose.added)}` : "";
    count.textContent = `${pose.labelled}${added}${pose.thin ? ", too few" : ""}`;
    if (pose.thin) {
      count.className = "thin";
      count.title = pose.thin;
    }
    row.append(name, count);
    return row;
  }));
  const conflicts = element("conflicts");
  conflicts.hidden = !progress.num_conflicts;
  conflicts.querySelector("summary").textContent = `${progress.num_conflicts} contradictions with the label file`;
  conflicts.querySelector("ul").replaceChildren(...progress.conflicts.map((sentence) => {
    const line = document.createElement("li");
    line.textContent = sentence;
    return line;
  }));
}

function makePoses() {
  element("poses").replaceChildren(...poses.map((pose) => {
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.pose = JSON.stringify(pose.id);
    button.textContent = `${pose.name} `;
    if (pose.key) {
      const key = document.createElement("kbd");
      key.textContent = pose.key;
      button.append(key);
      button.setAttribute("aria-keyshortcuts", pose.key);
    }
    button.addEventListener("click", () => decide(pose.id));
    return button;
  }));
}

async function start() {
  try {
    const session = await askJson("session");
    poses = [...session.poses, { id: null, name: "No known pose", key: "0" }];
    ({ total, review, first: position } = session);
    element("access").hidden = true;
    element("work").hidden = false;
    makePoses();
    showProgress(session.progress);
    await show();
    element("photo").focus();
  } catch (error) {
    report(error);
  }
}

function addIcon() {
  // Drawn here: without an icon, browsers request /favicon.ico, and the page's policy allows no data: address.
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32" fill="#1769aa"><path
    d="M3 5h14l12 11-12 11H3zM9 13v6h6v-6z"/></svg>`;
  const link = document.createElement("link");
  link.rel = "icon";
  link.href = URL.createObjectURL(new Blob([svg], { type: "image/svg+xml" }));
  document.head.append(link);
}

document.addEventListener("keydown", (event) => {
  if (element("work").hidden || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape" && !element("search").hidden) {
    closeSearch();
    return;
  }
  if (event.target.matches("input, summary")) return;
  // Space on a button that has the focus presses this button.
  if (event.key === " " && event.target.matches("button")) return;
  const pose = poses.find((each) => each.key === event.key.toLowerCase());
  const actions = { " ": accept, ArrowLeft: () => move(-1), ArrowRight: () => move(1), u: undo, z: zoom, "/": openSearch };
  const action = pose ? () => decide(pose.id) : actions[event.key];
  if (!action || (event.repeat && pose)) return; // a key that is held down labels one photo
  event.preventDefault();
  action();
});
for (const [id, action] of Object.entries({ accept, back: () => move(-1), next: () => move(1), undo, zoom, find: openSearch })) {
  element(id).addEventListener("click", action);
}
// After a click, Space must accept the next suggestion, and not press the same button again.
document.addEventListener("click", (event) => {
  const isPointer = event.detail > 0;
  if (isPointer && event.target.closest("#poses button, #tools button:not(#find)")) element("photo").focus();
});
element("text").addEventListener("input", search);
element("search").addEventListener("submit", (event) => {
  event.preventDefault();
  element("found").querySelector("button")?.click();
});
element("access").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("token", element("token").value.trim());
  element("token").value = "";
  element("trouble").textContent = "";
  start();
});
setInterval(async () => {
  if (element("work").hidden || document.hidden || isBusy) return;
  try {
    showProgress(await askJson("progress"));
  } catch {
    // The next key press reports it.
  }
}, PROGRESS_MS);
addIcon();
start();
