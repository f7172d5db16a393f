// Numbers, times and addresses as the page writes them.

const UNITS = [["d", 86400, "h", 3600], ["h", 3600, "m", 60], ["m", 60], ["s", 1]];

// As `loadsheet status`: 42s, 12m, 3h 5m, 2d 4h, 30d.
export function age(seconds) {
  const whole = Math.max(Math.floor(seconds), 0);
  const [unit, size, smaller, smallerSize] = UNITS.find((one) => whole >= one[1]) ?? UNITS[3];
  const count = Math.floor(whole / size);
  const more = smaller && count < 10 ? Math.floor((whole % size) / smallerSize) : 0;
  return more ? `${count}${unit} ${more}${smaller}` : `${count}${unit}`;
}

export const ago = (seconds) => (seconds === null ? "" : `${age(seconds)} ago`);

export function number(value, exact = true) {
  if (value === null || value === undefined) return "";
  return `${exact ? "" : "~"}${value.toLocaleString("en-US")}`;
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "";
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  return seconds < 60 ? `${seconds.toFixed(1)} s` : age(seconds);
}

export function bytes(value) {
  if (value === null || value === undefined) return "";
  const units = ["B", "kB", "MB", "GB", "TB"];
  let size = value;
  let unit = 0;
  while (size >= 1000 && unit < units.length - 1) {
    size /= 1000;
    unit += 1;
  }
  return `${unit && size < 10 ? size.toFixed(1) : Math.round(size)} ${units[unit]}`;
}

// A time of the server in UTC; a text that is none stays.
export function time(text) {
  const moment = new Date(text);
  if (!text || Number.isNaN(moment.getTime())) return text ?? "";
  return `${moment.toISOString().slice(0, 19).replace("T", " ")} UTC`;
}

// A watermark that is a time, without its fraction and zone, as in `loadsheet status`.
export function watermark(one) {
  const text = one.watermark ?? "";
  return one.watermark_age_seconds === null ? text : text.replace(/[.+].*$/, "");
}

export const STATES = {
  failed: "failed",
  gone: "table is gone",
  held_back: "held back",
  behind: "behind",
  due: "due",
  never: "never loaded",
  loaded: "loaded",
  current: "up to date",
  unknown: "not known",
};

export function lag(one) {
  if (!one.lag) return "";
  if (!one.lag.ahead) return "0";
  if (one.lag.seconds !== null) return age(one.lag.seconds);
  return one.lag.distance === null ? "ahead" : number(Math.round(one.lag.distance));
}

const part = encodeURIComponent;
export const pipelineUrl = (pipeline) => `#/p/${part(pipeline)}`;
export const targetUrl = (pipeline, kind, name) => `#/p/${part(pipeline)}/${kind}/${part(name)}`;
export const runUrl = (pipeline, run) => `#/p/${part(pipeline)}/run/${part(run)}`;
