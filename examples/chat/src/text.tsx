// Text as people see it: times, days, names' colours, links. Content stays text: nothing is ever taken as HTML.
import type { ComponentChildren } from "preact";

const time = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const weekday = new Intl.DateTimeFormat(undefined, { weekday: "short" });
const date = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });
const day = new Intl.DateTimeFormat(undefined, { weekday: "long", day: "numeric", month: "long" });

const startOfDay = (at: Date) => new Date(at.getFullYear(), at.getMonth(), at.getDate()).getTime();
const daysAgo = (at: Date) => Math.round((startOfDay(new Date()) - startOfDay(at)) / 86400000);

export function clock(timestamp: string): string {
  return time.format(new Date(timestamp));
}

/** For the list: the time today, the weekday this week, else the date. */
export function briefly(timestamp: string): string {
  const at = new Date(timestamp);
  const ago = daysAgo(at);
  return ago <= 0 ? time.format(at) : ago < 7 ? weekday.format(at) : date.format(at);
}

export function dayOf(timestamp: string): string {
  const at = new Date(timestamp);
  const ago = daysAgo(at);
  return ago <= 0 ? "Today" : ago === 1 ? "Yesterday" : day.format(at);
}

export function sameDay(a: string, b: string): boolean {
  return startOfDay(new Date(a)) === startOfDay(new Date(b));
}

/** A quiet colour that belongs to a name. */
export function hue(id: string): number {
  let sum = 0;
  for (const c of id) sum = (sum * 31 + c.codePointAt(0)!) % 360;
  return sum;
}

/** Web addresses in a text become links; all else stays as it is. */
export function linked(text: string): ComponentChildren {
  const parts = text.split(/(https?:\/\/[^\s<>"]*[^\s<>".,;:!?)\]}'])/g);
  if (parts.length === 1) return text;
  return parts.map((part, i) =>
    i % 2 === 0 ? (
      part
    ) : (
      <a href={part} target="_blank" rel="noopener noreferrer nofollow">
        {part}
      </a>
    ),
  );
}

export function listed(names: string[]): string {
  return names.length < 2 ? names.join("") : `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`;
}
