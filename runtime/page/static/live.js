// Live pictures, the cameras' health, and new visits. Pauses while the page is hidden.
"use strict";

(() => {
  const root = document.body.dataset.root;
  const MAX_STREAMS = 3; // a browser opens at most six connections to a server, and each stream holds one
  const MAX_VISITS = 12;
  const RETRY_MS = 2000;
  const STILL_MS = 1000;
  const HEALTH_MS = 3000;
  const pictures = [...document.querySelectorAll("img.live")];
  const inView = new Set();
  const visits = document.getElementById("visits");
  const pause = document.getElementById("pause");
  let paused = matchMedia("(prefers-reduced-motion: reduce)").matches;
  let feed = null;
  let lost = false; // the feed ended, and is not open again

  const idle = () => paused || document.hidden;
  const fresh = (path) => `${path}?${Date.now()}`; // a browser may answer a repeated address from its cache
  const markup = (node) => node.outerHTML.replace(/ open=""/g, "").replace(/\s+/g, " ");
  const same = (one, other) => markup(one) === markup(other);

  function showPictures() {
    let streams = MAX_STREAMS;
    for (const picture of pictures) {
      const shown = !idle() && inView.has(picture);
      const stream = shown && streams-- > 0;
      if (stream !== (picture.dataset.shows === "stream")) {
        picture.dataset.shows = stream ? "stream" : "still";
        picture.src = fresh(stream ? picture.dataset.stream : picture.dataset.still);
      }
    }
  }

  function refreshStills() {
    for (const picture of pictures) {
      if (!idle() && inView.has(picture) && picture.dataset.shows !== "stream" && picture.complete) {
        picture.src = fresh(picture.dataset.still);
      }
    }
  }

  async function refreshHealth() {
    if (idle()) return;
    let text;
    try {
      const response = await fetch(`${root}/cameras`);
      if (response.status === 401) location.reload(); // the token was removed: this leads to the log-in form
      if (!response.ok) return;
      text = await response.text();
    } catch {
      return; // the server is unreachable; the next call tries again
    }
    const update = new DOMParser().parseFromString(text, "text/html");
    for (const part of document.querySelectorAll("[data-part]")) {
      const next = update.querySelector(`[data-part="${CSS.escape(part.dataset.part)}"]`);
      // Leave the part that has the focus: the user is reading it.
      if (!next || part.contains(document.activeElement) || same(part, next)) continue;
      const open = part.querySelector("details")?.open;
      part.replaceChildren(...next.childNodes);
      if (open) part.querySelector("details")?.setAttribute("open", "");
    }
  }

  function showVisit(html) {
    const parsed = new DOMParser().parseFromString(html, "text/html").querySelector("[data-visit]");
    if (!parsed) return;
    const card = document.importNode(parsed, true);
    const known = visits.querySelector(`[data-visit="${CSS.escape(card.dataset.visit)}"]`);
    if (known) {
      if (same(known, card)) return;
      const focused = known.contains(document.activeElement);
      known.replaceWith(card);
      if (focused) card.querySelector("a").focus();
      return;
    }
    const cards = [...visits.children];
    const next = cards.find((one) => one.dataset.started <= card.dataset.started);
    if (!next && cards.length >= MAX_VISITS) return;
    visits.insertBefore(card, next ?? null);
    while (visits.children.length > MAX_VISITS) visits.lastElementChild.remove();
    document.getElementById("no-visits")?.remove();
  }

  function listen() {
    if (idle()) {
      feed?.close();
      feed = null;
      return;
    }
    if (feed) return;
    const opened = new EventSource(`${root}/visits.stream`);
    feed = opened;
    opened.addEventListener("visit", (event) => showVisit(event.data));
    opened.addEventListener("gone", (event) => {
      visits.querySelector(`[data-visit="${CSS.escape(event.data)}"]`)?.remove();
    });
    opened.addEventListener("error", () => {
      lost = true;
      if (opened.readyState !== EventSource.CLOSED || feed !== opened) return; // the browser reconnects
      feed = null;
      setTimeout(() => {
        listen();
        refreshHealth();
      }, RETRY_MS);
    });
    // When the server ends the feed, it ends all streams; an image does not reconnect by itself.
    opened.addEventListener("open", () => {
      if (!lost) return;
      lost = false;
      for (const picture of pictures) picture.dataset.shows = "";
      showPictures();
    });
  }

  // A visit may arrive before its picture is on disk: load the picture once more.
  visits.addEventListener(
    "error",
    ({ target }) => {
      if (target.dataset.retried) return;
      target.dataset.retried = "yes";
      setTimeout(() => (target.src = target.src), STILL_MS);
    },
    true,
  );

  const observer = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting) inView.add(target);
      else inView.delete(target);
    }
    showPictures();
  });
  pictures.forEach((picture) => observer.observe(picture));

  function refresh() {
    pause.textContent = paused ? "Resume" : "Pause";
    showPictures();
    listen();
    refreshHealth();
  }

  document.addEventListener("visibilitychange", refresh);
  pause.addEventListener("click", () => {
    paused = !paused;
    refresh();
  });
  pause.hidden = false;
  refresh();
  if (pictures.length > MAX_STREAMS) setInterval(refreshStills, STILL_MS);
  if (document.querySelector("[data-camera]")) setInterval(refreshHealth, HEALTH_MS);
})();
