"use strict";

const drop = document.getElementById("drop");
const answers = document.getElementById("answers");
const access = document.getElementById("access");
const token = document.getElementById("token");
const refusal = document.getElementById("refusal");
const said = document.getElementById("said");

const TRIALS = 5; // of one photo, while the service is busy
const LONGEST_MS = 120_000; // of one trial; the service itself gives up long before
// Errors of the photo itself: no second trial would help.
const LASTING = ["empty", "too_large", "unsupported_format", "unreadable"];

// One photo at a time: so the first answer arrives soonest, and one client does not fill the service.
const queue = [];
let isBusy = false;

function add(files) {
  const photos = Array.from(files, (file) => ({ file, card: makeCard(file) }));
  answers.prepend(...photos.map(({ card }) => card)); // above earlier photos, in their own order
  queue.push(...photos);
  work();
}

function makeCard(file) {
  const card = document.getElementById("card").content.cloneNode(true).firstElementChild;
  const image = card.querySelector("img");
  image.alt = `Photo ${file.name}`;
  image.src = URL.createObjectURL(file);
  image.addEventListener("load", () => URL.revokeObjectURL(image.src));
  image.addEventListener("error", () => { // not an image, or a TIFF, which browsers do not show
    URL.revokeObjectURL(image.src);
    image.hidden = true;
    card.querySelector(".photo p").hidden = false;
  });
  card.querySelector(".file").textContent = file.name;
  card.querySelector("button").addEventListener("click", () => {
    card.classList.remove("failed");
    say(card, "Waiting …");
    queue.push({ file, card });
    work();
  });
  say(card, "Waiting …");
  return card;
}

async function work() {
  if (isBusy) return;
  isBusy = true;
  while (queue.length) {
    const { file, card } = queue[0];
    const isDone = await answer(file, card);
    if (!isDone) break; // a token is needed: the photo stays in the queue
    queue.shift();
    // Only the result: a screen reader would read too much if it read each step of each photo.
    const [heading, state] = ["h2", ".state"].map((part) => card.querySelector(part).textContent);
    said.textContent = `${file.name}: ${heading}. ${state}`;
  }
  isBusy = false;
}

async function answer(file, card) {
  for (let trial = 1; ; trial += 1) {
    say(card, "Looking …");
    if (!(await isReadable(file))) {
      fail(card, "This file cannot be read. It may be a folder, or was changed or removed. Choose again.");
      return true;
    }
    const { response, body } = await ask(file);
    if (!response) {
      fail(card, "The service cannot be reached. Check the connection and try again.", true);
    } else if (response.status === 401) {
      say(card, "Waiting for a token …");
      askForToken();
      return false;
    } else if ((response.status === 503 || response.status === 429) && trial < TRIALS) {
      const seconds = Math.min(Number(response.headers.get("Retry-After")) || 2, 30);
      say(card, "Waiting …", `The service is busy; trying again in ${seconds} s.`);
      await new Promise((resolve) => setTimeout(resolve, seconds * 1000));
      continue;
    } else if (response.ok && body?.probabilities) {
      show(card, body);
    } else {
      fail(card, inWords(response.status, body?.error), !LASTING.includes(body?.error?.code));
    }
    return true;
  }
}

async function isReadable(file) {
  // fetch gives the same error for a missing file and for an unreachable service.
  try {
    await file.slice(0, 1).arrayBuffer();
    return true;
  } catch {
    return false;
  }
}

async function ask(file) {
  const headers = { "Content-Type": file.type || "application/octet-stream" };
  const stored = sessionStorage.getItem("token");
  if (stored) headers.Authorization = `Bearer ${stored}`;
  try {
    const signal = AbortSignal.timeout(LONGEST_MS);
    const response = await fetch("v1/predict", { method: "POST", headers, body: file, signal });
    const body = await response.json().catch(() => null); // a proxy in front of the service answers in HTML
    return { response, body };
  } catch {
    return {};
  }
}

function askForToken() {
  refusal.textContent = sessionStorage.getItem("token") ? "The token was refused." : "";
  sessionStorage.removeItem("token");
  access.hidden = false;
  token.focus();
}

function inWords(status, error) {
  const known = {
    empty: "This file is empty.",
    too_large: "This photo is too large. Send a smaller one.",
    unsupported_format: "This is not a photo that can be read. Use JPEG, PNG, WebP, GIF, BMP or TIFF.",
    unreadable: "This photo is damaged: it cannot be decoded.",
    upload_timeout: "The upload took too long. Check the connection and try again.",
    busy: "The service is busy. Try again in a moment.",
    too_many_requests: "Too many photos in a short time. Try again in a minute.",
  };
  const fallback = `The service gave no answer that can be read (status ${status}). Try again in a moment.`;
  return known[error?.code] || error?.message || fallback;
}

function say(card, heading, state = "") {
  card.querySelector("h2").textContent = heading;
  card.querySelector(".state").textContent = state;
  card.querySelector("button").hidden = true;
}

function fail(card, text, canTryAgain = false) {
  card.classList.add("failed");
  say(card, "No answer", text);
  card.querySelector("button").hidden = !canTryAgain;
}

function show(card, body) {
  const percent = (share) => `${(share * 100).toFixed(1)} %`;
  if (body.pose) {
    say(card, body.pose.name, `${percent(body.confidence)} sure`);
  } else {
    const likeliest = `${body.probabilities[0].name}, with ${percent(body.confidence)}`;
    say(card, "No known pose", `Likeliest would be ${likeliest}.`);
  }
  const rows = card.querySelector("tbody");
  for (const pose of body.probabilities) {
    const row = document.getElementById("row").content.cloneNode(true).firstElementChild;
    row.querySelector("th").textContent = pose.name;
    row.querySelector(".bar").style.width = `${pose.probability * 100}%`;
    row.querySelector(".share").textContent = percent(pose.probability);
    rows.append(row);
  }
  card.querySelector("table").hidden = false;
}

function addIcon() {
  // Drawn here: without an icon, browsers request /favicon.ico, and the page's policy allows no data: address.
  const bars = `<path d="M3 4h26v6H3zM3 13h16v6H3zM3 22h8v6H3z"/>`;
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32" fill="#1769aa">${bars}</svg>`;
  const link = document.createElement("link");
  link.rel = "icon";
  link.href = URL.createObjectURL(new Blob([svg], { type: "image/svg+xml" }));
  document.head.append(link);
}

addIcon();
for (const id of ["files", "camera"]) {
  document.getElementById(id).addEventListener("change", (event) => {
    add(event.target.files);
    event.target.value = ""; // the same photo may be chosen again
  });
}
// On the whole page: a photo that is dropped outside the box must not replace the page.
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  drop.classList.add("over");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) drop.classList.remove("over"); // out of the window, not between parts of it
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  add(event.dataTransfer.files);
});
document.addEventListener("paste", (event) => add(event.clipboardData.files));
access.addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("token", token.value.trim());
  token.value = "";
  access.hidden = true;
  document.getElementById("files").focus(); // a hidden field keeps no focus, and the Tab key would start at the top
  work();
});
