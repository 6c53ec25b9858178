// The latest forecast of a nowcast service. Text from the server goes into the page as text only, and its file
// names are used only below forecasts/<reference time>/.
import { drawMap } from "./map.js";
import { ageText, clock, day, facts, frameText, leadText, localTime, pageTitle, unshownText, warnings } from "./words.js";

const POLL_MS = 20_000;
const RETRY_MS = 2_000;
const TIMEOUT_MS = 15_000;
const STEP_MS = 220;
const CALM_STEP_MS = 1_000;
const HOLD_MS = 1_400;
const PICTURES_KEPT = 6;
const MARK_MINUTES = 30;
const SWIPE_PIXELS = 40;

const $ = (id) => document.getElementById(id);
const made = (name, text, className = "") =>
  Object.assign(document.createElement(name), { textContent: text, className });
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

// ---- the server

async function json(path) {
  const answer = await fetch(path, { cache: "no-cache", signal: AbortSignal.timeout(TIMEOUT_MS) });
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

function place(manifest, file) {
  const time = new Date(manifest.reference_time).toISOString().slice(0, 19).replace(/[-:]/g, "");
  if (!/^\w[\w.-]*$/.test(file)) throw new Error("not a file of a forecast");
  // A forecast that was made anew has other pictures of the same names.
  return `forecasts/${time.replace(/00$/, "")}Z/${file}?${encodeURIComponent(manifest.run_id)}`;
}

const keyOf = (manifest) => [manifest.reference_time, manifest.run_id, manifest.published].join(" ");

async function poll() {
  if (state.asking) return;
  state.asking = true;
  clearTimeout(state.next);
  try {
    await ask();
    showStatus();
  } finally {
    state.asking = false;
    state.next = setTimeout(poll, state.trouble ? RETRY_MS : POLL_MS);
  }
}

async function ask() {
  try {
    state.latest = await json("latest.json");
    state.heard = Date.now();
    state.lost = null;
  } catch {
    state.lost ??= state.latest ? `since ${clock(since().now)} UTC` : "so far";
  }
  const manifest = state.latest?.forecast;
  if (!manifest) {
    state.view = state.trouble = null;
  } else if (!state.lost) {
    try {
      if (keyOf(manifest) !== state.view?.key) {
        await load(manifest);
        state.trouble = null;
      }
      showFacts();
    } catch {
      state.trouble = unshownText(manifest);
    }
  }
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
  const needed = [...view.always, view.layer?.file];
  const spare = [...view.pictures.keys()].filter((name) => !needed.includes(name));
  for (const name of spare.slice(0, -PICTURES_KEPT)) view.pictures.delete(name);
  return kept.ready;
}

async function load(manifest) {
  const told = await json(place(manifest, "layers.json"));
  const observed = told.observed.frames.map((frame, tile) => ({ ...frame, tile, observed: true }));
  const forecast = told.forecast.frames.map((frame, tile) => ({ ...frame, tile, observed: false }));
  const frames = [...observed, ...forecast];
  const view = { key: keyOf(manifest), manifest, told, frames, pictures: new Map() };
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
  state.trouble = null;
  if (isMember(layer)) state.member = layer.id;
  showStatus();
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

function layerButton(label, act, layer) {
  const button = made("button", label);
  button.type = "button";
  button.dataset.layer = layer;
  button.addEventListener("click", act);
  return button;
}

function buildLayers() {
  const layers = state.view.told.layers;
  const key = JSON.stringify(layers.map(({ id, label }) => [id, label]));
  if ($("kinds").dataset.key === key) return; // the buttons stay, and with them the focus
  $("kinds").dataset.key = key;
  const current = (id) => state.view.told.layers.find((layer) => layer.id === id);
  const members = layers.filter(isMember);
  const buttonOf = ({ id, label }) => layerButton(label, () => choose(current(id)), id);
  const kinds = layers.filter((layer) => !isMember(layer)).map(buttonOf);
  if (members.length > 1) kinds.push(layerButton("Members", chooseMembers, "members"));
  $("kinds").replaceChildren(...kinds);
  $("kinds").hidden = !kinds.length;
  const buttons = members.map(buttonOf);
  for (const button of buttons) {
    button.setAttribute("aria-label", `Member ${button.textContent} of ${members.length}`);
  }
  $("members").replaceChildren(...buttons);
}

function showLayer() {
  const { view } = state;
  const { layer, told } = view;
  const members = membersOf(view);
  $("members").hidden = !isMember(layer) || members.length < 2;
  $("note").textContent = layer.note;
  showPressed();
  const kinds = view.frames[0].observed && layer.kind !== "rain" ? [layer.kind, "rain"] : [layer.kind];
  $("legends").replaceChildren(...kinds.map((kind) => legend(told.scales[kind], kinds.length > 1 ? kind : null)));
  const at = members.indexOf(layer);
  for (const beside of at < 0 ? [] : [members[at + 1], members[at - 1]]) {
    if (beside) picture(view, beside.file).catch(() => {});
  }
}

function showPressed() {
  const { layer, told } = state.view;
  const awaited = told.layers.find(({ id }) => id === state.wanted);
  for (const button of document.querySelectorAll("[data-layer]")) {
    const { layer: id } = button.dataset;
    const stands = (for_) => for_?.id === id || (id === "members" && for_ && isMember(for_));
    button.setAttribute("aria-pressed", Boolean(stands(layer)));
    button.setAttribute("aria-busy", Boolean(stands(awaited) && !stands(layer)));
  }
}

function legend(scale, kind) {
  const swatch = (colour, text, className) => {
    const item = made("div", "", className);
    item.append(made("i", ""), made("span", text));
    item.firstChild.style.backgroundColor = colour;
    return item;
  };
  const classes = made("div", "", "classes");
  if (scale.open_end) classes.append(swatch("#fff", "dry", "apart"));
  classes.append(...scale.colours.map((colour, n) => swatch(colour, String(scale.levels[n]))));
  classes.append(swatch(scale.no_data, "no data", "apart"));
  const whole = made("div", "", "legend");
  const frames = kind ? `, ${kind === "rain" ? "observed" : "forecast"} frames` : "";
  whole.append(made("h2", `${scale.label}${frames}`), classes);
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
    const mark = made("span", clock(frame.time));
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
  const part = frame.observed ? "Observed" : "Forecast";
  const lead = leadText(frame);
  const told = `${part.toLowerCase()}, ${lead}, valid ${clock(frame.time)} UTC`;
  document.body.classList.toggle("observed", frame.observed);
  $("part").textContent = part;
  $("lead").textContent = lead;
  $("day").textContent = day(frame.time);
  $("utc").textContent = `${clock(frame.time)} UTC`;
  $("local").textContent = `${localTime(frame.time)} local`;
  $("slider").value = index;
  $("slider").setAttribute("aria-valuetext", told);
  const member = membersOf(view).length > 1 && isMember(view.layer) ? "member " : "";
  const layer = frame.observed ? "" : `${member}${view.layer.label}, `;
  $("map").setAttribute("aria-label", `Rain map, ${layer}${told}`);
  draw();
}

function draw() {
  if (state.view) drawMap($("frame"), state.view, state.view.frames[state.index]);
}

// ---- what the forecast is, and whether it can be relied on

function since() {
  const minutes = Math.max(0, Date.now() - state.heard) / 60_000;
  const now = new Date(Date.parse(state.latest?.now) + minutes * 60_000);
  return { ...state, now, age: state.latest?.age_minutes + minutes };
}

function showStatus() {
  const known = since();
  const found = warnings(known);
  showBanner(found);
  $("viewer").hidden = !state.view;
  document.title = pageTitle(known, found);
  $("age").textContent = ageText(known);
  $("age").classList.toggle("old", found.some(({ kind }) => kind === "stale"));
}

// A line stays while its kind does, so that a screen reader says it once and not at every minute of age.
function showBanner(found) {
  const banner = $("banner");
  for (const line of [...banner.children]) {
    if (!found.some(({ kind }) => kind === line.dataset.kind)) line.remove();
  }
  for (const { kind, title, text } of found) {
    let line = banner.querySelector(`[data-kind="${kind}"]`);
    if (!line) {
      line = document.createElement("p");
      line.dataset.kind = kind;
      line.append(made("strong", title), " ", made("span", text));
      banner.append(line);
    } else if (line.lastChild.textContent !== text) {
      line.lastChild.textContent = text;
    }
  }
  banner.hidden = !found.length;
  document.documentElement.style.setProperty("--banner", `${banner.offsetHeight}px`);
}

function showFacts() {
  const rows = facts(state.view.manifest, state.latest.verification);
  $("facts").replaceChildren(...rows.flatMap(([name, text]) => [made("dt", name), made("dd", text)]));
  const items = state.view.manifest.input_frames.map((frame) =>
    made("li", frameText(frame), frame.status === "observed" ? "" : "doubtful"));
  $("inputs").replaceChildren(...items);
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
  $("map").addEventListener("pointerdown", (event) => {
    start = event;
  });
  $("map").addEventListener("pointerup", (event) => {
    const across = start ? event.clientX - start.clientX : 0;
    const up = start ? event.clientY - start.clientY : 0;
    if (Math.abs(across) > Math.max(SWIPE_PIXELS, 2 * Math.abs(up))) flip(across < 0 ? 1 : -1);
    start = null;
  });
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) poll();
  });
  new ResizeObserver(draw).observe($("map"));
  setInterval(() => {
    if (state.latest) showStatus();
  }, 5_000);
}

listen();
play(state.playing);
poll();
