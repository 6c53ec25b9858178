// The latest forecast of a nowcast service. Text from the server goes into the page as text only, and its file
// names are used only below forecasts/<reference time>/.
"use strict";

const POLL_MS = 20_000;
const RETRY_MS = 2_000;
const TIMEOUT_MS = 15_000;
const STEP_MS = 220;
const CALM_STEP_MS = 1_000;
const HOLD_MS = 1_400;
const PICTURES_KEPT = 6;
const MARK_MINUTES = 30;
const SWIPE_PIXELS = 40;
const BAR_KM = [1, 2, 5, 10, 20, 50, 100, 200, 500];

const $ = (id) => document.getElementById(id);
const calm = matchMedia("(prefers-reduced-motion: reduce)");

const state = {
  latest: null, // what /latest.json said last
  heard: 0, // when, by the clock of this machine, ms
  lost: null, // the message while the server cannot be reached
  trouble: null, // the message while something of the forecast cannot be loaded
  view: null, // the forecast that is shown
  wanted: null, // the layer that was asked for, kept while a forecast does not have it; null: its first
  member: null, // the member looked at last
  index: 0,
  playing: !calm.matches,
  timer: 0, // of the loop
  next: 0, // the timer of the next look at the server
  asking: false,
};

// ---- times and texts

const two = (number) => String(number).padStart(2, "0");
const clock = (date) => `${two(date.getUTCHours())}:${two(date.getUTCMinutes())}`;
const day = (date) =>
  date.toLocaleDateString("en-GB", { timeZone: "UTC", weekday: "short", day: "numeric", month: "short", year: "numeric" });
const signed = (minutes) => `${minutes < 0 ? "−" : "+"}${Math.abs(minutes)} min`;

function localTime(date) {
  const format = { hour: "2-digit", minute: "2-digit", timeZoneName: "short" };
  if (date.getDay() !== date.getUTCDay()) format.weekday = "short";
  return date.toLocaleTimeString("en-GB", format);
}

function duration(minutes) {
  const whole = Math.max(0, Math.floor(minutes));
  if (whole < 120) return `${whole} min`;
  if (whole < 2880) return `${Math.floor(whole / 60)} h ${whole % 60} min`;
  return `${Math.floor(whole / 1440)} days`;
}

// ---- the server

async function json(path) {
  const answer = await fetch(path, { cache: "no-cache", signal: AbortSignal.timeout(TIMEOUT_MS) });
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

function place(manifest, file) {
  const id = manifest.reference_time.replace(/^(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d)(:\d\d)?Z$/, "$1$2$3T$4$5Z");
  if (!/^\d{8}T\d{4}Z$/.test(id) || !/^\w[\w.-]*$/.test(file)) throw new Error("not a file of a forecast");
  return `forecasts/${id}/${file}`;
}

const keyOf = (manifest) => [manifest.reference_time, manifest.run_id, manifest.published].join(" ");

async function poll() {
  if (state.asking) return;
  state.asking = true;
  clearTimeout(state.next);
  await ask();
  state.asking = false;
  showStatus();
  state.next = setTimeout(poll, state.trouble ? RETRY_MS : POLL_MS);
}

async function ask() {
  try {
    state.latest = await json("latest.json");
    state.heard = Date.now();
    state.lost = null;
  } catch {
    state.lost ??= state.latest ? `since ${clock(serverNow())} UTC` : "so far";
  }
  const manifest = state.latest?.forecast;
  if (!manifest) {
    state.view = state.trouble = null;
  } else if (!state.lost && keyOf(manifest) !== state.view?.key) {
    try {
      await load(manifest);
      state.trouble = null;
    } catch {
      state.trouble = `The forecast of ${clock(new Date(manifest.reference_time))} UTC cannot be loaded.`;
    }
  }
  if (state.view) showFacts();
}

function picture(view, file) {
  const kept = view.pictures.get(file) ?? { image: new Image() };
  view.pictures.delete(file);
  view.pictures.set(file, kept);
  if (!kept.ready) {
    kept.image.src = place(view.manifest, file);
    kept.ready = kept.image.decode().then(() => kept.image);
    kept.ready.catch(() => view.pictures.delete(file));
  }
  const spare = [...view.pictures.keys()].filter((name) => !view.always.includes(name) && name !== view.layer?.file);
  for (const name of spare.slice(0, -PICTURES_KEPT)) view.pictures.delete(name);
  return kept.ready;
}

async function load(manifest) {
  const told = await json(place(manifest, "layers.json"));
  const observed = told.observed.frames.map((frame, tile) => ({ ...frame, tile, observed: true }));
  const forecast = told.forecast.frames.map((frame, tile) => ({ ...frame, tile, observed: false }));
  const view = { key: keyOf(manifest), manifest, told, frames: [...observed, ...forecast], pictures: new Map() };
  view.always = observed.length ? [told.lines, told.observed.file] : [told.lines];
  const layer = told.layers.find(({ id }) => id === state.wanted) ?? told.layers[0];
  await Promise.all([...view.always, layer.file].map((file) => picture(view, file)));
  const minutes = state.view ? state.view.frames[state.index].minutes : 0;
  state.view = Object.assign(view, { layer });
  state.index = nearest(view.frames, minutes);
  $("viewer").hidden = false;
  buildLayers();
  buildTime();
  showLayer();
  showFrame();
  schedule();
}

function nearest(frames, minutes) {
  const distances = frames.map((frame) => Math.abs(frame.minutes - minutes));
  return distances.indexOf(Math.min(...distances));
}

// ---- layers

const isMember = (layer) => layer.id.startsWith("member_");
const membersOf = (view) => view.told.layers.filter(isMember);

async function choose(layer) {
  const view = state.view;
  state.wanted = layer.id;
  showPressed();
  try {
    await picture(view, layer.file);
  } catch {
    if (view !== state.view || state.wanted !== layer.id) return;
    state.wanted = view.layer.id;
    state.trouble = `The layer “${layer.label}” cannot be loaded.`;
    showPressed();
    showStatus();
    setTimeout(poll, RETRY_MS);
    return;
  }
  if (view !== state.view || state.wanted !== layer.id) return;
  view.layer = layer;
  if (isMember(layer)) state.member = layer.id;
  showLayer();
  showFrame();
}

function chooseMembers() {
  const members = membersOf(state.view);
  choose(members.find(({ id }) => id === state.member) ?? members[0]);
}

function flip(steps) {
  const members = membersOf(state.view);
  const wanted = members.findIndex(({ id }) => id === state.wanted);
  if (wanted >= 0 && members.length > 1) choose(members[(wanted + steps + members.length) % members.length]);
}

function button(label, act, layer) {
  const made = document.createElement("button");
  made.type = "button";
  made.textContent = label;
  made.dataset.layer = layer;
  made.addEventListener("click", act);
  return made;
}

function buildLayers() {
  const layers = state.view.told.layers;
  const key = JSON.stringify(layers.map(({ id, label }) => [id, label]));
  if ($("kinds").dataset.key === key) return; // the buttons stay, and with them the focus
  $("kinds").dataset.key = key;
  const current = (id) => state.view.told.layers.find((layer) => layer.id === id);
  const members = layers.filter(isMember);
  const kinds = layers.filter((layer) => !isMember(layer)).map(({ id, label }) => button(label, () => choose(current(id)), id));
  if (members.length > 1) kinds.push(button("Members", chooseMembers, "members"));
  $("kinds").replaceChildren(...kinds);
  $("kinds").hidden = !kinds.length;
  const buttons = members.map(({ id, label }) => button(label, () => choose(current(id)), id));
  for (const made of buttons) made.setAttribute("aria-label", `Member ${made.textContent} of ${members.length}`);
  $("members").replaceChildren(...buttons);
}

function showLayer() {
  const { view } = state;
  const { layer, told } = view;
  const members = membersOf(view);
  $("members").hidden = !isMember(layer) || members.length < 2;
  $("note").textContent = isMember(layer) && members.length > 1 ? `Member ${layer.label}: ${layer.note}` : layer.note;
  showPressed();
  const kinds = view.frames[0].observed && layer.kind !== "rain" ? [layer.kind, "rain"] : [layer.kind];
  $("legends").replaceChildren(...kinds.map((kind) => legend(told.scales[kind], kinds.length > 1 ? kind : null)));
  const at = members.indexOf(layer);
  for (const beside of at < 0 ? [] : [members[at + 1], members[at - 1]]) {
    if (beside) picture(view, beside.file).catch(() => {});
  }
}

function showPressed() {
  const { layer } = state.view;
  const there = state.view.told.layers.some(({ id }) => id === state.wanted);
  for (const made of document.querySelectorAll("[data-layer]")) {
    const id = made.dataset.layer;
    const among = (name) => id === name || (id === "members" && name.startsWith("member_"));
    made.setAttribute("aria-pressed", String(among(layer.id)));
    made.setAttribute("aria-busy", String(there && among(state.wanted) && !among(layer.id)));
  }
}

function legend(scale, kind) {
  const whole = document.createElement("div");
  whole.className = "legend";
  const title = document.createElement("h2");
  title.textContent = kind ? `${scale.label}, ${kind === "rain" ? "observed" : "forecast"} frames` : scale.label;
  const row = document.createElement("div");
  row.className = "classes";
  const box = (colour, text, kindOf) => {
    const item = document.createElement("div");
    const swatch = document.createElement("i");
    const label = document.createElement("span");
    if (kindOf) item.className = kindOf;
    swatch.style.backgroundColor = colour;
    label.textContent = text;
    item.append(swatch, label);
    return item;
  };
  row.append(...scale.colours.map((colour, n) => box(colour, String(scale.levels[n]))), box(scale.no_data, "no data", "apart"));
  whole.append(title, row);
  return whole;
}

// ---- time

function buildTime() {
  const { frames, told } = state.view;
  const last = frames.length - 1;
  const observed = told.observed.frames.length;
  const slider = $("slider");
  slider.max = last;
  const share = (index) => (last ? index / last : 0);
  // Between the last observed frame and the first of the forecast, where the thumb's middle is.
  const split = share(Math.max(observed - 0.5, 0));
  slider.style.setProperty("--split", observed ? `calc(var(--thumb) / 2 + ${split} * (100% - var(--thumb)))` : "0%");
  const marks = frames.map((frame, index) => {
    if (frame.minutes % MARK_MINUTES) return null;
    const mark = document.createElement("span");
    mark.textContent = clock(new Date(frame.time));
    mark.style.left = `${100 * share(index)}%`;
    return mark;
  });
  $("marks").replaceChildren(...marks.filter(Boolean));
}

function goTo(index) {
  state.index = Math.min(Math.max(index, 0), state.view.frames.length - 1);
  showFrame();
}

function step(steps) {
  play(false);
  goTo(state.index + steps);
}

function play(on) {
  state.playing = on;
  document.body.classList.toggle("playing", on);
  $("play").setAttribute("aria-label", on ? "Pause" : "Play");
  schedule();
}

function schedule() {
  clearTimeout(state.timer);
  if (!state.playing || !state.view) return;
  const last = state.view.frames.length - 1;
  const pause = state.index === last ? HOLD_MS : calm.matches ? CALM_STEP_MS : STEP_MS;
  state.timer = setTimeout(() => {
    if (!state.view) return;
    goTo(state.index >= last ? 0 : state.index + 1);
    schedule();
  }, pause);
}

function showFrame() {
  const { view, index } = state;
  const frame = view.frames[index];
  const valid = new Date(frame.time);
  const part = frame.observed ? "Observed" : "Forecast";
  const status = { interpolated: "interpolated, no radar frame", missing: "radar frame missing" }[frame.status] ?? "";
  const lead = frame.observed ? [frame.minutes ? signed(frame.minutes) : "latest", status].filter(Boolean).join(", ") : signed(frame.minutes);
  document.body.classList.toggle("observed", frame.observed);
  $("part").textContent = part;
  $("lead").textContent = lead;
  $("valid").textContent = `${day(valid)} ${clock(valid)} UTC · ${localTime(valid)} local`;
  $("slider").value = index;
  $("slider").setAttribute("aria-valuetext", `${part}, ${lead}, valid ${clock(valid)} UTC`);
  const name = isMember(view.layer) && membersOf(view).length > 1 ? `member ${view.layer.label}` : view.layer.label;
  $("map").setAttribute("aria-label", `Rain map: ${frame.observed ? "" : `${name}, `}${part.toLowerCase()}, ${lead}, valid ${clock(valid)} UTC`);
  draw();
}

// ---- the map

function draw() {
  const { view } = state;
  if (!view) return;
  const { told } = view;
  const { width, height } = told.tile;
  $("frame").style.setProperty("--aspect", told.kilometres.across / told.kilometres.up);
  const map = $("map");
  const pixels = window.devicePixelRatio || 1;
  const size = [Math.round(map.clientWidth * pixels), Math.round(map.clientHeight * pixels)];
  if (map.width !== size[0] || map.height !== size[1]) [map.width, map.height] = size;
  const frame = view.frames[state.index];
  const sheet = frame.observed ? told.observed : { ...told.forecast, file: view.layer.file };
  const column = frame.tile % sheet.columns;
  const row = Math.floor(frame.tile / sheet.columns);
  const context = map.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, ...size);
  // Cells keep their edges where they are larger than a pixel of the screen.
  context.imageSmoothingEnabled = size[0] < width;
  context.drawImage(view.pictures.get(sheet.file).image, column * width, row * height, width, height, 0, 0, ...size);
  context.imageSmoothingEnabled = true;
  context.imageSmoothingQuality = "high";
  context.drawImage(view.pictures.get(told.lines).image, 0, 0, ...size);
  drawDegrees(context, told.degrees, size, pixels);
  drawBar(told.kilometres.across, map.clientWidth);
}

function drawDegrees(context, degrees, [width, height], pixels) {
  context.font = `${12 * pixels}px system-ui, sans-serif`;
  context.lineWidth = 3 * pixels;
  context.strokeStyle = "#ffffffd9";
  context.fillStyle = "#3a4550";
  const write = (text, x, y) => {
    context.strokeText(text, x, y);
    context.fillText(text, x, y);
  };
  context.textAlign = "center";
  const room = 30 * pixels;
  for (const { at, label } of degrees.south) {
    // The corner at the right belongs to the scale bar.
    if (at * width > room && at * width < width - 5 * room) write(label, at * width, height - 4 * pixels);
  }
  context.textAlign = "left";
  for (const { at, label } of degrees.west) {
    if (at * height > room / 2 && at * height < height - room) write(label, 4 * pixels, at * height + 4 * pixels);
  }
}

function drawBar(across, width) {
  const length = BAR_KM.findLast((km) => (km / across) * width <= 110) ?? BAR_KM[0];
  $("kilometres").textContent = `${length} km`;
  $("bar").style.width = `${(length / across) * width}px`;
}

// ---- what the forecast is, and whether it can be relied on

const serverNow = () => new Date(Date.parse(state.latest.now) + Math.max(0, Date.now() - state.heard));
const ageNow = () => state.latest.age_minutes + Math.max(0, Date.now() - state.heard) / 60_000;

function warnings() {
  const { latest, lost, trouble } = state;
  const found = [];
  if (lost) {
    found.push(["contact", "No contact", `The server cannot be reached ${lost}. ${state.view ? "What is shown may be out of date." : ""}`]);
  }
  if (!latest) return found;
  const manifest = state.view?.manifest ?? latest.forecast;
  const skipped = latest.last_cycle?.outcome === "skipped" ? ` The last cycle was skipped: ${latest.last_cycle.reason}.` : "";
  if (!latest.forecast) {
    found.push(["none", "No forecast", `There is none to show yet, or no longer.${skipped}`]);
  } else if (latest.stale || ageNow() > latest.stale_after_minutes) {
    const limit = `more than ${latest.stale_after_minutes} min`;
    found.push(["stale", "Not current", `This forecast was made from radar ${duration(ageNow())} old (${limit}): do not take it for the present.${skipped}`]);
  }
  if (latest.forecast && manifest.fallback) {
    found.push(["fallback", "Fallback", `Made by ${manifest.model} instead of ${manifest.asked_model}: ${manifest.fallback}`]);
  }
  if (latest.verification?.alarm) found.push(["alarm", "Skill", latest.verification.alarm]);
  if (trouble) found.push(["trouble", "Not loaded", trouble]);
  return found;
}

function showStatus() {
  const banner = $("banner");
  const found = warnings();
  const shown = new Map([...banner.children].map((line) => [line.dataset.kind, line]));
  for (const [kind, line] of shown) if (!found.some((warning) => warning[0] === kind)) line.remove();
  // Lines stay while their kind does, so that a screen reader says each once and not at every minute of age.
  for (const [kind, title, text] of found) {
    const line = shown.get(kind) ?? document.createElement("p");
    if (!shown.has(kind)) {
      line.dataset.kind = kind;
      line.append(document.createElement("strong"), " ", document.createElement("span"));
    }
    const [first, , second] = line.childNodes;
    if (first.textContent !== title) first.textContent = title;
    if (second.textContent !== text) second.textContent = text;
    if (!line.isConnected) banner.append(line);
  }
  banner.hidden = !found.length;
  $("viewer").hidden = !state.view;
  showAge(found);
}

function showAge(found) {
  const { latest, view } = state;
  const title = found.length ? `${found[0][1]} – ` : "";
  document.title = `${title}Rain nowcast${view ? ` ${clock(new Date(view.manifest.reference_time))} UTC` : ""}`;
  $("age").classList.toggle("old", found.some(([kind]) => kind === "stale"));
  if (!latest) {
    $("age").textContent = state.lost ? "" : "Waiting for the server…";
  } else if (!view) {
    $("age").textContent = `At ${clock(serverNow())} UTC`;
  } else {
    const reference = new Date(view.manifest.reference_time);
    const newer = (Date.parse(latest.forecast.reference_time) - reference) / 60_000;
    const date = day(reference) === day(serverNow()) ? "" : `${day(reference)} `;
    $("age").textContent = `Made from radar of ${date}${clock(reference)} UTC, ${duration(ageNow() + newer)} ago`;
  }
}

function showFacts() {
  const { manifest } = state.view;
  const rows = [
    ["Model", manifest.model],
    ["Members", manifest.members],
    ["Data", manifest.title],
    ["Institution", manifest.institution],
    ["Licence", manifest.license],
    ["Region", manifest.domain],
    ["Published", manifest.published && `${clock(new Date(manifest.published))} UTC`],
    ["Software", manifest.software],
    ["Skill", skill()],
  ];
  const cell = (name, text) => Object.assign(document.createElement(name), { textContent: text });
  $("facts").replaceChildren(
    ...rows.filter(([, text]) => text).flatMap(([name, text]) => [cell("dt", name), cell("dd", String(text))]),
  );
  $("inputs").replaceChildren(
    ...manifest.input_frames.map(({ time, status }) => {
      const item = cell("li", `${clock(new Date(time))} UTC ${status}`);
      item.className = status === "observed" ? "" : "doubtful";
      return item;
    }),
  );
}

function skill() {
  const verification = state.latest.verification;
  if (!verification) return "";
  const scores = Object.entries(verification.skill).map(([lead, score]) => `${Number(score).toFixed(2)} at ${lead} min`);
  return `${scores.join(", ")} over ${verification.reference}, since ${verification.since}`;
}

// ---- hands

function onKey(event) {
  if (!state.view || event.ctrlKey || event.altKey || event.metaKey) return;
  const slides = event.target === $("slider");
  const last = state.view.frames.length - 1;
  const acts = { ArrowLeft: () => step(-1), ArrowRight: () => step(1), Home: () => step(-last), End: () => step(last) };
  if (isMember(state.view.layer)) Object.assign(acts, { ArrowUp: () => flip(-1), ArrowDown: () => flip(1) });
  const act = slides ? undefined : acts[event.key];
  if (event.key === " " && !(event.target instanceof HTMLButtonElement)) play(!state.playing);
  else if (act) act();
  else return;
  event.preventDefault();
}

function listen() {
  document.addEventListener("keydown", onKey);
  $("play").addEventListener("click", () => play(!state.playing));
  $("back").addEventListener("click", () => step(-1));
  $("on").addEventListener("click", () => step(1));
  $("slider").addEventListener("input", () => step(Number($("slider").value) - state.index));
  let start = null;
  $("map").addEventListener("pointerdown", (event) => { start = event; });
  $("map").addEventListener("pointerup", (event) => {
    const across = start ? event.clientX - start.clientX : 0;
    if (start && Math.abs(across) > Math.max(SWIPE_PIXELS, 2 * Math.abs(event.clientY - start.clientY))) flip(across < 0 ? 1 : -1);
    start = null;
  });
  document.addEventListener("visibilitychange", () => { if (!document.hidden) poll(); });
  new ResizeObserver(draw).observe($("map"));
  setInterval(() => { if (state.latest) showStatus(); }, 5_000);
}

listen();
play(state.playing);
poll();
