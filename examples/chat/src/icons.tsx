const paths = {
  back: "M15 5l-7 7 7 7",
  plus: "M12 5v14M5 12h14",
  spark: "M12 3l1.9 5.6a3 3 0 0 0 1.9 1.9L21.5 12l-5.7 1.7a3 3 0 0 0-1.9 1.9L12 21l-1.9-5.4a3 3 0 0 0-1.9-1.9L2.5 12l5.7-1.5a3 3 0 0 0 1.9-1.9z",
  people: "M9 11a3.5 3.5 0 1 0 0-7 3.5 3.5 0 0 0 0 7zM2.5 20c.4-3.6 3-5.5 6.5-5.5s6.1 1.9 6.5 5.5M16 4.3a3.5 3.5 0 0 1 0 6.5M18 14.9c2 .7 3.2 2.4 3.5 5.1",
  picture: "M4 5h16v14H4zM4 16l4.5-4.5 4 4L15 13l5 4.5M15.5 9.5h.01",
  send: "M5 12h13M12.5 6l6 6-6 6",
  more: "M6 12h.01M12 12h.01M18 12h.01",
  down: "M6 10l6 6 6-6",
  clock: "M12 7.5V12l3 2M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18z",
  check: "M5 12.5l4.5 4.5L19 7.5",
  close: "M6 6l12 12M18 6L6 18",
  leave: "M10 5H5v14h5M15 8l4 4-4 4M19 12H9.5",
};

export function Icon({ name, size = 20 }: { name: keyof typeof paths; size?: number }) {
  return (
    <svg class="icon" width={size} height={size} viewBox="0 0 24 24" fill="none" stroke="currentColor" stroke-width={name === "more" ? 3 : 1.8} stroke-linecap="round" stroke-linejoin="round" aria-hidden="true">
      <path d={paths[name]} />
    </svg>
  );
}
