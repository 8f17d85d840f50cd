// Live pictures, the cameras' health, and visits as they come. Nothing of it runs while the page cannot be seen.
"use strict";

(() => {
  const root = document.body.dataset.root;
  const MOST_STREAMS = 3; // a browser opens six connections to a server, and a picture that goes on keeps one
  const MOST_VISITS = 12;
  const STILL_MS = 1000;
  const HEALTH_MS = 3000;
  const pictures = [...document.querySelectorAll("img.live")];
  const inView = new Set();
  const visits = document.getElementById("visits");
  const pause = document.getElementById("pause");
  let paused = matchMedia("(prefers-reduced-motion: reduce)").matches;
  let news = null;

  const still = () => paused || document.hidden;
  const words = (node) => node.outerHTML.replace(/ open=""/g, "").replace(/\s+/g, " ");
  const same = (one, other) => words(one) === words(other);

  function showPictures() {
    let streams = MOST_STREAMS;
    for (const picture of pictures) {
      const shown = !still() && inView.has(picture);
      const stream = shown && streams-- > 0;
      if (stream !== (picture.dataset.shows === "stream")) {
        picture.dataset.shows = stream ? "stream" : "still";
        picture.src = stream ? picture.dataset.stream : `${picture.dataset.still}?${Date.now()}`;
      }
    }
  }

  function refreshStills() {
    for (const picture of pictures) {
      if (!still() && inView.has(picture) && picture.dataset.shows !== "stream" && picture.complete) {
        picture.src = `${picture.dataset.still}?${Date.now()}`;
      }
    }
  }

  async function refreshHealth() {
    if (still()) return;
    let text;
    try {
      const answer = await fetch(`${root}/cameras`);
      if (!answer.ok) return;
      text = await answer.text();
    } catch {
      return; // the box is away for a moment
    }
    const fresh = new DOMParser().parseFromString(text, "text/html");
    for (const part of document.querySelectorAll("[data-part]")) {
      const now = fresh.querySelector(`[data-part="${CSS.escape(part.dataset.part)}"]`);
      // What holds the focus is being read.
      if (!now || part.contains(document.activeElement) || same(part, now)) continue;
      const open = part.querySelector("details")?.open;
      part.replaceChildren(...now.childNodes);
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
    if (!next && cards.length >= MOST_VISITS) return;
    visits.insertBefore(card, next ?? null);
    while (visits.children.length > MOST_VISITS) visits.lastElementChild.remove();
    document.getElementById("no-visits")?.remove();
  }

  function listen() {
    if (still()) {
      news?.close();
      news = null;
    } else if (!news) {
      news = new EventSource(`${root}/visits.stream`);
      news.addEventListener("visit", (event) => showVisit(event.data));
      news.addEventListener("gone", (event) => {
        visits.querySelector(`[data-visit="${CSS.escape(event.data)}"]`)?.remove();
      });
    }
  }

  // A visit may be told a moment before its picture is on the disk.
  visits.addEventListener(
    "error",
    ({ target }) => {
      if (target.dataset.again) return;
      target.dataset.again = "once";
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
  if (pictures.length > MOST_STREAMS) setInterval(refreshStills, STILL_MS);
  if (document.querySelector("[data-camera]")) setInterval(refreshHealth, HEALTH_MS);
})();
