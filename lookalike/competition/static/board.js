// The countdown, and a ranking that updates by itself. Without scripts, the pages do the same on a
// reload.
"use strict";

function inWords(seconds) {
  const part = (value, name) => `${value} ${name}${value === 1 ? "" : "s"}`;
  if (seconds >= 86400) return `${part(Math.floor(seconds / 86400), "day")} ${part(Math.floor(seconds / 3600) % 24, "hour")}`;
  const two = (value) => String(Math.floor(value)).padStart(2, "0");
  return `${two(seconds / 3600)}:${two((seconds / 60) % 60)}:${two(seconds % 60)}`;
}

// The seconds come from the server: the clock of a participant may be wrong. The page may get a new
// clock, where the organizer has changed a time.
function countDown() {
  const clock = document.getElementById("left");
  if (clock) {
    clock.dataset.end ??= performance.now() / 1000 + Number(clock.dataset.seconds);
    const left = Number(clock.dataset.end) - performance.now() / 1000;
    if (left <= 0) return void setTimeout(() => location.replace(location.pathname), 1500);
    clock.textContent = inWords(left);
  }
  setTimeout(countDown, 250);
}
countDown();

async function update() {
  const connection = document.getElementById("connection");
  try {
    const reply = await fetch("ranking.html", {cache: "no-store", signal: AbortSignal.timeout(9000)});
    if (!reply.ok) throw new Error(reply.status);
    // The server renders the rows with the template of the page, which escapes every name.
    const fresh = new DOMParser().parseFromString(await reply.text(), "text/html");
    document.getElementById("ranking").replaceWith(fresh.getElementById("ranking"));
    connection.textContent = "";
  } catch {
    connection.textContent = "The server does not answer. This is the last known ranking.";
  }
  setTimeout(update, 4000 + 2000 * Math.random());
}
if (document.getElementById("ranking")) setTimeout(update, 4000);
