// What htmx does not do: single keys, time spent, and an outbox, so that no verdict is lost on the way.
// A verdict is written to the outbox before it is sent and leaves it once the server has answered. The
// server stores one row per nonce, so sending again is always safe.
"use strict";
(() => {
  const $ = (selector, root = document) => root.querySelector(selector);
  const meta = (name) => $(`meta[name="${name}"]`)?.content ?? "";
  const BOX = `rlaif-unsent-${meta("reviewer")}`, KEYS = "rlaif-single-keys";
  const GUARD = 300; // ms after an item appears in which a click or key belongs to the one before
  const AWAY = 60_000; // ms without a sign of life after which time is not counted as spent
  const TRIES = [1000, 2000, 4000, 8000, 15_000]; // ms between attempts; the last one repeats
  let sending = false, attempt = 0, timer = 0;

  // --- the outbox: [{key, url, body, kept, from}], oldest first, shared by the tabs of one reviewer ---
  let memory = []; // where the browser keeps nothing
  const outbox = () => { try { return JSON.parse(localStorage.getItem(BOX)) ?? memory; } catch { return memory; } };
  const keep = (entries) => { memory = entries; try { localStorage.setItem(BOX, JSON.stringify(entries)); } catch { /* memory has it */ } };
  const put = (entry) => keep([...outbox().filter((e) => e.key !== entry.key), entry]);
  const drop = (entry) => keep(outbox().filter((e) => e.key !== entry.key));

  function say(text, busy = false) {
    const status = $("#status");
    status.textContent = text;
    status.classList.toggle("busy", busy);
  }
  function unsaved(why) {
    $("#unsaved").hidden = !why;
    $("#unsaved-why").textContent = why ?? "";
    if (why) say("");
  }

  async function send(entry) {
    if (sending) return;
    sending = true;
    clearTimeout(timer);
    say(entry.kept ? "Saving…" : "", true);
    try {
      const reply = await fetch(entry.url, {
        method: "POST", body: new URLSearchParams(entry.body), redirect: "error",
        headers: { "HX-Request": "true", "X-CSRF-Token": meta("csrf") },
        signal: AbortSignal.timeout(10_000),
      });
      if (reply.status === 403) return later(entry, "You are logged out: open your link again.");
      if (reply.status >= 500 || reply.status === 429) return later(entry, `The server answered ${reply.status}.`);
      const page = await reply.text(); // only a whole answer counts
      drop(entry);
      attempt = 0;
      unsaved();
      show(page, reply.headers.get("X-Page-Url"), entry, reply.ok);
    } catch {
      later(entry, navigator.onLine ? "The server does not answer." : "You are offline.");
    } finally {
      sending = false;
      $("#verdict")?.classList.remove("sending");
      const next = outbox()[0];
      if (next && !attempt) send(next);
    }
  }
  function later(entry, why) {
    if (!entry.kept) return say(`${why} Try again.`);
    unsaved(why);
    clearTimeout(timer);
    timer = setTimeout(again, TRIES[Math.min(attempt++, TRIES.length - 1)]);
  }
  function again() {
    const [entry] = outbox();
    if (entry) send(entry); else { attempt = 0; unsaved(); }
  }

  // --- pages ---
  function show(page, url, entry, saved) {
    if (entry.from && entry.from !== location.pathname) { // it was sent from a page that is gone
      const why = new DOMParser().parseFromString(page, "text/html").querySelector("h1")?.textContent.trim();
      say(saved ? "Your earlier verdict is saved now." : `Your earlier verdict was refused: ${why}`);
      return;
    }
    htmx.swap("#page", page, { swapStyle: "innerHTML", swapDelay: 0, settleDelay: 0 });
    if (url && url !== location.pathname) history.pushState({ ours: true }, "", url);
    arrived();
  }
  let guard = 0;
  const takesKeys = () => "takesKeys" in document.body.dataset; // tests wait for it, too
  function guarded() {
    clearTimeout(guard);
    delete document.body.dataset.takesKeys;
  }
  function guardAWhile() {
    guarded();
    guard = setTimeout(() => { document.body.dataset.takesKeys = ""; }, GUARD);
  }
  function arrived() {
    const item = $("#page > article");
    guardAWhile();
    spent = 0;
    since = performance.now();
    $("#verdict")?.classList.remove("sending");
    const title = $("#question")?.textContent.trim();
    if (title) document.title = `${title} · rlaif audit`;
    say(item?.dataset.said ?? "");
    window.scrollTo(0, 0);
    $("#question")?.focus({ preventScroll: true });
  }
  addEventListener("popstate", () => location.reload());

  // --- time spent: while the page is visible and there are signs of life ---
  let spent = 0, since = performance.now(), alive = performance.now(), renewed = performance.now();
  function tick() {
    const now = performance.now();
    if (!document.hidden && now - alive < AWAY) spent += now - since;
    since = now;
  }
  function renew() { // an item in work stays leased
    if (performance.now() - renewed < 240_000 || performance.now() - alive > 240_000) return;
    renewed = performance.now();
    const item = $("article.item");
    if (!item || !$("#verdict")) return;
    const headers = { "X-CSRF-Token": meta("csrf") };
    fetch(`${item.dataset.url}/renew`, { method: "POST", headers }).catch(() => {});
  }
  for (const sign of ["keydown", "pointermove", "scroll", "touchstart"])
    addEventListener(sign, () => { tick(); alive = performance.now(); renew(); }, { passive: true, capture: true });
  document.addEventListener("visibilitychange", tick);

  // --- forms ---
  document.addEventListener("click", (event) => { // a double click must not judge the next item, too
    const control = event.target.closest("[data-guarded]");
    if (control && (event.detail > 1 || !takesKeys())) event.preventDefault();
  }, true);

  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (!form.matches("[data-keep], [data-swap]")) return;
    event.preventDefault();
    if (event.submitter?.hidden) return; // Enter in a field
    if (outbox().some((e) => e.from === location.pathname)) return sending ? undefined : again();
    tick();
    const data = new FormData(form, event.submitter);
    if (data.has("active_ms")) data.set("active_ms", Math.round(spent));
    event.submitter?.classList.add("chosen");
    form.classList.add("sending");
    const body = [...data].filter(([name]) => name !== "csrf");
    const url = new URL(form.action).pathname;
    const kept = form.matches("[data-keep]");
    const entry = { key: `${url} ${data.get("nonce") ?? ""}`, url, body, kept, from: location.pathname };
    form.closest("dialog")?.close();
    if (kept) put(entry);
    send(entry); // while another one is on its way, this one follows it
  });

  function discard() { // takes back what was not saved yet
    keep(outbox().slice(1));
    clearTimeout(timer);
    attempt = 0;
    guarded(); // no key for a page that goes
    location.reload();
  }

  // --- dialogs ---
  function open(id) {
    const dialog = document.getElementById(id);
    if (!dialog || dialog.open) return dialog?.close();
    dialog.showModal();
    const loads = $("[hx-trigger~='opened']", dialog);
    if (loads) htmx.trigger(loads, "opened");
  }
  document.addEventListener("click", (event) => {
    const opener = event.target.closest("[data-opens]");
    if (opener) open(opener.dataset.opens);
    if (event.target.closest("[data-closes]")) event.target.closest("dialog").close();
    if (event.target.matches("dialog")) event.target.close(); // the backdrop
    if (event.target.closest("#retry")) { attempt = 0; again(); }
    if (event.target.closest("#discard")) discard();
    const focuses = event.target.closest("[data-focuses]");
    if (focuses && event.isTrusted) setTimeout(() => focus(focuses), 0); // a click opens it after this
  });
  const focus = (control) => document.getElementById(control.dataset.focuses)?.focus();

  // --- single keys: each is a click on the control that names it ---
  const on = () => { try { return localStorage.getItem(KEYS) !== "off"; } catch { return true; } };
  const typing = (element) => element.matches("textarea, select, [contenteditable], input:not([type=checkbox], [type=radio])");
  function named(key) {
    const dialog = $("dialog[open]");
    return [...(dialog ?? document).querySelectorAll("[data-key]")].find(
      (e) => e.dataset.key === key && !e.disabled && e.getClientRects().length);
  }
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && event.target.matches("textarea")) return event.target.blur();
    if (event.ctrlKey || event.altKey || event.metaKey || event.repeat || typing(event.target)) return;
    if (event.key === "Enter" && event.target.closest("a, button, summary, dialog")) return;
    if (!on() && event.key !== "Enter") return;
    const control = named(event.key.length === 1 ? event.key.toLowerCase() : event.key);
    if (!control) return;
    event.preventDefault();
    if (control.matches("[data-guarded]") && !takesKeys()) return;
    if (event.key === "z" && outbox().length) return discard();
    control.click();
    if (control.dataset.focuses) focus(control); // now: the next key may be Escape or the first of a word
  });
  document.addEventListener("change", (event) => {
    if (event.target.id !== "keys-on") return;
    try { localStorage.setItem(KEYS, event.target.checked ? "on" : "off"); } catch { /* until the page is left */ }
  });

  // --- htmx, and the start ---
  document.addEventListener("htmx:configRequest", (event) => { event.detail.headers["X-CSRF-Token"] = meta("csrf"); });
  document.addEventListener("htmx:afterSwap", (event) => {
    if (event.target.id !== "sides") return;
    const button = $("#marks"), marked = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", marked);
    button.setAttribute("hx-get", button.getAttribute("hx-get").replace(/\?.*|$/, marked ? "" : "?marks=1"));
    htmx.process(button);
  });
  addEventListener("online", () => { attempt = 0; again(); });
  if ($("#keys-on")) $("#keys-on").checked = on();
  guardAWhile();
  if (meta("reviewer")) again();
  $("#login")?.requestSubmit(); // a person opened the link; a preview of it runs no script
  const first = $("#page > article");
  if (first?.dataset.said) say(first.dataset.said);
})();
