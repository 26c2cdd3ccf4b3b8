"use strict";

const drop = document.getElementById("drop");
const answers = document.getElementById("answers");
const access = document.getElementById("access");
const token = document.getElementById("token");

// One photo at a time: the first answer comes soonest, and a service for many is not crowded by one.
const queue = [];
let isBusy = false;

function add(files) {
  for (const file of files) {
    const card = document.getElementById("card").content.cloneNode(true).firstElementChild;
    const image = card.querySelector("img");
    image.alt = `Photo ${file.name}`;
    image.src = URL.createObjectURL(file);
    image.addEventListener("error", () => { image.hidden = true; });
    card.querySelector("h2").textContent = "…";
    card.querySelector(".file").textContent = file.name;
    answers.prepend(card);
    queue.push({ file, card });
  }
  work();
}

async function work() {
  if (isBusy) return;
  isBusy = true;
  while (queue.length) {
    const { file, card } = queue[0];
    const isDone = await answer(file, card);
    if (!isDone) break; // a token is asked for: the photo stays in the queue
    queue.shift();
  }
  isBusy = false;
}

async function answer(file, card) {
  const state = card.querySelector(".state");
  state.textContent = "Looking …";
  const headers = { "Content-Type": file.type || "application/octet-stream" };
  const stored = sessionStorage.getItem("token");
  if (stored) headers.Authorization = `Bearer ${stored}`;
  for (let trial = 1; ; trial += 1) {
    let response, body;
    try {
      response = await fetch("v1/predict", { method: "POST", headers, body: file });
      body = await response.json();
    } catch {
      return fail(card, response
        ? "The service gave no answer that can be read. Try again in a moment."
        : "The service cannot be reached. Check the connection and try again.");
    }
    if (response.ok) return show(card, body);
    if (response.status === 401) {
      state.textContent = stored ? "The token was refused." : "Waiting for a token …";
      sessionStorage.removeItem("token");
      access.hidden = false;
      token.focus();
      return false;
    }
    if ((response.status === 503 || response.status === 429) && trial < 5) {
      const seconds = Math.min(Number(response.headers.get("Retry-After")) || 2, 30);
      state.textContent = `Busy; trying again in ${seconds} s …`;
      await new Promise((resolve) => setTimeout(resolve, seconds * 1000));
      continue;
    }
    return fail(card, inWords(response.status, body.error));
  }
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
  return (error && (known[error.code] || error.message)) || `The service answered with status ${status}.`;
}

function fail(card, text) {
  card.classList.add("failed");
  card.querySelector("h2").textContent = "No answer";
  card.querySelector(".state").textContent = text;
  return true;
}

function show(card, body) {
  const percent = (share) => `${(share * 100).toFixed(1)} %`;
  card.querySelector("h2").textContent = body.pose ? body.pose.name : "No known pose";
  card.querySelector(".state").textContent = body.pose
    ? `${percent(body.confidence)} sure`
    : `Likeliest is ${body.probabilities[0].name}, but only with ${percent(body.confidence)}.`;
  const rows = card.querySelector("tbody");
  for (const pose of body.probabilities) {
    const row = rows.insertRow();
    const name = document.createElement("th");
    name.scope = "row";
    name.textContent = pose.name;
    const bar = document.createElement("div");
    bar.className = "bar";
    bar.style.width = `${pose.probability * 100}%`;
    row.append(name);
    row.insertCell().append(bar);
    row.insertCell().textContent = percent(pose.probability);
  }
  card.querySelector("table").hidden = false;
  return true;
}

for (const id of ["files", "camera"]) {
  document.getElementById(id).addEventListener("change", (event) => {
    add(event.target.files);
    event.target.value = ""; // the same photo may be chosen again
  });
}
drop.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
drop.addEventListener("dragleave", () => drop.classList.remove("over"));
// Anywhere on the page: a photo dropped beside the box must not replace the page.
document.addEventListener("dragover", (event) => event.preventDefault());
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
  work();
});
