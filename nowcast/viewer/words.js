// What the page says about times, and about how far a forecast can be relied on.

const two = (number) => String(number).padStart(2, "0");
const DAY = { timeZone: "UTC", weekday: "short", day: "numeric", month: "short", year: "numeric" };

export function clock(time) {
  const date = new Date(time);
  return `${two(date.getUTCHours())}:${two(date.getUTCMinutes())}`;
}

export const day = (time) => new Date(time).toLocaleDateString("en-GB", DAY);

// Time of day where the reader is, with the day of the week where it is another.
export function localTime(time) {
  const date = new Date(time);
  const format = { hour: "2-digit", minute: "2-digit", timeZoneName: "short" };
  if (date.getDay() !== date.getUTCDay()) format.weekday = "short";
  return date.toLocaleTimeString("en-GB", format);
}

export function duration(minutes) {
  const whole = Math.max(0, Math.floor(minutes));
  if (whole < 120) return `${whole} min`;
  if (whole < 2880) return `${Math.floor(whole / 60)} h ${whole % 60} min`;
  return `${Math.floor(whole / 1440)} days`;
}

export function leadText({ minutes, observed, status }) {
  const signed = `${minutes < 0 ? "−" : "+"}${Math.abs(minutes)} min`;
  if (!observed) return signed;
  const doubt = { interpolated: "interpolated, no radar frame", missing: "radar frame missing" }[status];
  return [minutes ? signed : "latest", doubt].filter(Boolean).join(", ");
}

export function frameText({ time, status, reason }) {
  return `${clock(time)} UTC ${status}${reason ? `: ${reason}` : ""}`;
}

export function unshownText({ reference_time: time, problems }) {
  const why = problems?.length ? ` When it was made, this failed: ${problems.join("; ")}.` : "";
  return `The forecast of ${clock(time)} UTC cannot be loaded.${why}`;
}

function skippedText(cycle) {
  if (cycle?.outcome !== "skipped") return "";
  return ` The last cycle, ${clock(cycle.reference_time)} UTC, was skipped: ${cycle.reason}.`;
}

// What stands in the red banner: kind, title and text of each. `now` and `age` (minutes) are those of the
// server's clock at present, `lost` and `trouble` messages or null.
export function warnings({ latest, view, lost, trouble, age }) {
  const found = [];
  const warn = (kind, title, text) => found.push({ kind, title, text });
  if (lost) {
    const shown = view ? " What is shown may be out of date." : "";
    warn("contact", "No contact", `The server cannot be reached ${lost}.${shown}`);
  }
  const manifest = view?.manifest ?? latest?.forecast;
  const skipped = latest ? skippedText(latest.last_cycle) : "";
  if (latest && !manifest) {
    warn("none", "No forecast", `There is none to show.${skipped}`);
  } else if (latest && (latest.stale || age > latest.stale_after_minutes)) {
    const when = age < 0 ? `dated ${duration(Math.ceil(-age))} ahead of the server's clock` : `${duration(age)} old`;
    warn("stale", "Not current", `The radar this forecast was made from is ${when} ` +
      `(limit ${latest.stale_after_minutes} min): do not take it for the present.${skipped}`);
  }
  if (manifest?.fallback) {
    const { model, asked_model: asked, fallback } = manifest;
    warn("fallback", "Fallback", `Made by ${model} instead of ${asked}: ${fallback}`);
  }
  if (latest?.verification?.alarm) warn("alarm", "Skill", latest.verification.alarm);
  if (trouble) warn("trouble", "Not loaded", trouble);
  return found;
}

export function pageTitle({ view }, found) {
  const title = found.length ? `${found[0].title} – ` : "";
  return `${title}Rain nowcast${view ? ` ${clock(view.manifest.reference_time)} UTC` : ""}`;
}

export function ageText({ latest, view, lost, now, age }) {
  if (!latest) return lost ? "" : "Waiting for the server…";
  if (!view) return `At ${clock(now)} UTC`;
  const reference = view.manifest.reference_time;
  // The one that is shown may be older than the newest, of which the server tells the age.
  const older = (Date.parse(latest.forecast.reference_time) - Date.parse(reference)) / 60_000;
  const date = day(reference) === day(now) ? "" : `${day(reference)} `;
  return `Made from radar of ${date}${clock(reference)} UTC, ${duration(age + older)} ago`;
}

// Rows of name and text.
export function facts(manifest, verification) {
  const rows = [
    ["Model", manifest.model],
    ["Members", manifest.members],
    ["Data", manifest.title],
    ["Institution", manifest.institution],
    ["Licence", manifest.license],
    ["Region", manifest.domain],
    ["Published", manifest.published && `${day(manifest.published)} ${clock(manifest.published)} UTC`],
    ["Software", manifest.software],
    ["Problems", manifest.problems?.join("; ")],
    ["Skill", verification && skill(verification)],
  ];
  return rows.filter(([, text]) => text).map(([name, text]) => [name, String(text)]);
}

function skill({ skill: scores, reference, since }) {
  const parts = Object.entries(scores).map(([lead, score]) => `${Number(score).toFixed(2)} at ${lead} min`);
  return `${parts.join(", ")} over ${reference}, since ${day(since)} ${clock(since)} UTC`;
}
