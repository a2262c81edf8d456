// The console: getting in, the list of sessions, the conversation, and all that waits for a decision.

import { approvalCard, signature } from "./approvals.js";
import { get, post, remove, whenSignedOut } from "./calls.js";
import { ago, byId, el, prose, reconcile } from "./dom.js";
import { SessionView } from "./session.js";

const STATUSES = ["pending", "approved", "rejected", "expired", "cancelled"];
const IDEAS = ["What can you do?", "Which tools do you have?", "Is anything unhealthy right now?"];
const DEMO_IDEAS = ["What can you do?", "Status of web", "Restart web because it leaks memory"];
const state = { sessions: [], cursor: null, view: null, status: "pending", waiting: 0, signedIn: false };

// Getting in

whenSignedOut(() => showDoor(state.signedIn ? "Your session is over. Please sign in again." : ""));

async function enter() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (token) {
    // Out of the address bar and the history before anything else happens.
    history.replaceState(null, "", location.pathname);
    try {
      await post("/console/login", { token });
    } catch (error) {
      if (!(await get("/api/console/info").catch(() => null))) return showDoor(error.message);
    }
  }
  await open();
}

async function open() {
  let info;
  try {
    info = await get("/api/console/info");
  } catch (error) {
    if (error.status !== 401) showDoor(error.message);
    return;
  }
  state.signedIn = true;
  byId("door").hidden = true;
  byId("app").hidden = false;
  byId("demo").hidden = !info.demo;
  showIdeas(info.demo ? DEMO_IDEAS : IDEAS);
  byId("who").textContent = `${info.user.username} · ${info.role}`;
  await attempt(listSessions);
  route();
}

function showDoor(message) {
  state.signedIn = false;
  state.view?.close();
  state.view = null;
  byId("app").hidden = true;
  byId("door").hidden = false;
  byId("door-error").textContent = message;
  byId("door-key").focus();
}

byId("door-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const field = byId("door-key");
  byId("door-error").textContent = "";
  try {
    await post("/console/login", { api_key: field.value });
    field.value = "";
    await open();
  } catch (error) {
    byId("door-error").textContent = error.message;
    field.select();
  }
});

byId("sign-out").addEventListener("click", async () => {
  await attempt(() => post("/console/logout"));
  showDoor("");
});

// Where we are: #/ a new session, #/s/ID a session, #/approvals

function route() {
  if (!state.signedIn) return;
  const [, place, id] = location.hash.split("/");
  toggleMenu(false);
  state.view?.close();
  state.view = null;
  const approvals = place === "approvals";
  byId("chat").hidden = approvals;
  byId("approvals").hidden = !approvals;
  byId("transcript").replaceChildren();
  byId("welcome").hidden = place === "s";
  if (approvals) attempt(listApprovals);
  else if (place === "s") openSession(id);
  drawFrame();
  if (!approvals && matchMedia("(min-width: 60rem)").matches) byId("composer-text").focus();
}

function openSession(id) {
  state.view = new SessionView(id, { changed: drawFrame });
  attempt(() => state.view.load());
  return state.view;
}

function drawFrame() {
  const view = state.view;
  const approvals = !byId("approvals").hidden;
  const session = state.sessions.find((one) => one.session_id === view?.id);
  const title = approvals ? "Approvals" : view ? nameOf(session) : "New session";
  byId("title").textContent = title;
  document.title = `${title} · opsagent`;
  byId("delete-session").hidden = !view;
  byId("bar-approvals").hidden = approvals || !state.waiting;
  const waiting = view?.openTurns.some((turn) => turn.status === "awaiting_approval");
  byId("stop").hidden = !(view && (view.live || view.openTurns.length));
  byId("composer-text").placeholder = waiting ? "A message now waits for the decision above…" : "Message the agent…";
  for (const link of byId("sessions").querySelectorAll("a")) {
    markCurrent(link, link.hash === `#/s/${view?.id}`);
  }
  markCurrent(byId("approvals-link"), approvals);
}

function markCurrent(link, isCurrent) {
  if (isCurrent) link.setAttribute("aria-current", "page");
  else link.removeAttribute("aria-current");
}

// Sessions

const nameOf = (session) => prose(session?.title ?? "") || (session ? `${session.source === "approval" ? "Request" : "Session"}, ${ago(session.created_at)}` : "Session");

async function listSessions(more = false) {
  const page = await get(`/api/sessions?limit=50${more ? `&cursor=${encodeURIComponent(state.cursor)}` : ""}`);
  state.sessions = more ? [...state.sessions, ...page.items] : page.items;
  state.cursor = page.next_cursor;
  drawSessions();
}

function drawSessions() {
  reconcile(byId("sessions"), state.sessions.map((one) => [one.session_id, nameOf(one) + one.source, one]), (one) =>
    el("li", {}, el("a", { href: `#/s/${one.session_id}`, title: nameOf(one) }, el("span", {}, nameOf(one)), one.source === "rest" ? null : el("small", {}, one.source))));
  byId("more-sessions").hidden = !state.cursor;
  drawFrame();
}

byId("more-sessions").addEventListener("click", () => attempt(() => listSessions(true)));
byId("new-session").addEventListener("click", () => {
  location.hash = "#/";
  toggleMenu(false);
  byId("composer-text").focus();
});

byId("delete-session").addEventListener("click", async () => {
  const view = state.view;
  if (!view || !confirm("Delete this session? What runs or waits in it is cancelled, and its transcript is removed.")) return;
  await attempt(async () => {
    await remove(`/api/sessions/${view.id}`);
    state.sessions = state.sessions.filter((one) => one.session_id !== view.id);
    drawSessions();
    location.hash = "#/";
  });
});

// Talking

const box = byId("composer-text");

byId("composer").addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = box.value.trim();
  if (!text || state.view?.live) return;
  box.value = "";
  resize();
  const sent = await attempt(async () => {
    if (!state.view) await startSession(text);
    await state.view.send(text);
  });
  if (!sent && !box.value) box.value = text;
  resize();
});

async function startSession(text) {
  const title = text.replace(/\s+/g, " ").slice(0, 60);
  const session = await post("/api/sessions", { title });
  state.sessions.unshift(session);
  history.pushState(null, "", `#/s/${session.session_id}`);
  byId("welcome").hidden = true;
  state.view = new SessionView(session.session_id, { changed: drawFrame });
  drawSessions();
}

box.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  byId("composer").requestSubmit();
});
box.addEventListener("input", resize);
byId("stop").addEventListener("click", () => attempt(() => state.view?.stop()));

function resize() {
  box.style.height = "auto";
  box.style.height = `${Math.min(box.scrollHeight, 220)}px`;
}

const showIdeas = (ideas) => byId("ideas").replaceChildren(...ideas.map((idea) => el("button", { type: "button", class: "idea", onclick: () => {
  box.value = idea;
  byId("composer").requestSubmit();
} }, idea)));

// Approvals

byId("filters").append(...STATUSES.map((status) => el("button", { type: "button", class: "filter", "aria-pressed": String(status === "pending"), onclick: (event) => {
  state.status = status;
  for (const button of byId("filters").children) button.setAttribute("aria-pressed", String(button === event.currentTarget));
  attempt(listApprovals);
} }, status[0].toUpperCase() + status.slice(1))));

async function listApprovals() {
  const { items } = await get(`/api/approvals?status=${state.status}`);
  const changed = () => attempt(async () => Promise.all([listApprovals(), countApprovals()]));
  const empty = ["empty", state.status, null];
  reconcile(byId("approval-list"), items.length ? items.map((one) => [one.approval_id, signature(one), one]) : [empty], (approval) =>
    approval ? approvalCard(approval, { changed, sessionLink: true })
      : el("p", { class: "empty" }, state.status === "pending" ? "Nothing waits for a decision." : `Nothing is ${state.status}.`));
}

async function countApprovals() {
  const { items, next_cursor: more } = await get("/api/approvals?limit=100");
  const count = `${items.length}${more ? "+" : ""}`;
  byId("approvals-count").textContent = count;
  byId("approvals-count").hidden = !items.length;
  byId("bar-approvals").replaceChildren(count, el("span", {}, " to decide"));
  byId("bar-approvals").setAttribute("aria-label", `${count} to decide`);
  state.waiting = items.length;
  drawFrame();
}

// Keeping up

let beat = 0;
async function tick() {
  if (state.signedIn && !document.hidden) {
    const busy = state.view?.openTurns.length && !state.view.live;
    await attempt(async () => {
      if (state.view && !state.view.live && (busy || beat % 5 === 0)) await state.view.refresh();
      if (beat % 3 === 0) await countApprovals();
      if (beat % 3 === 0 && !byId("approvals").hidden) await listApprovals();
    }, "tick");
    beat += 1;
  }
  setTimeout(tick, 1000);
}

// What went wrong stays until the same source of it goes well.
async function attempt(action, source = "person") {
  const trouble = byId("trouble");
  try {
    await action();
    if (trouble.dataset.source === source) trouble.hidden = true;
    return true;
  } catch (error) {
    if (error.name === "AbortError" || error.status === 401) return false;
    trouble.textContent = error.message;
    trouble.dataset.source = source;
    trouble.hidden = false;
    return false;
  }
}

function toggleMenu(open) {
  byId("sidebar").classList.toggle("open", open);
  byId("shade").hidden = !open;
  byId("menu").setAttribute("aria-expanded", String(open));
}

byId("menu").addEventListener("click", () => {
  toggleMenu(true);
  byId("new-session").focus();
});
byId("shade").addEventListener("click", () => toggleMenu(false));
addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || byId("shade").hidden) return;
  toggleMenu(false);
  byId("menu").focus();
});
addEventListener("hashchange", () => (location.hash.startsWith("#token=") ? enter() : route()));

enter();
tick();
