// The approval card: everything one needs to decide, and what came of it.

import { post } from "./calls.js";
import { el, exact, time } from "./dom.js";
import { loginForm } from "./relogin.js";

const LONG = 3000;
const SETTLED = { approved: "Approved", rejected: "Rejected", expired: "Expired", cancelled: "Cancelled" };
const DOORS = { slack: "in Slack", api: "over REST", web: "here", cli: "on the command line" };
const EXECUTION = {
  running: "Running…",
  succeeded: "Done",
  failed: "Failed",
  outcome_unknown: "Nobody can tell whether this ran",
};

export const signature = (approval) => JSON.stringify(approval);

// `changed` hears of the approval as it stands after a decision made here.
export function approvalCard(approval, { changed, sessionLink = false }) {
  const pending = approval.status === "pending";
  const heading = `approval-${approval.approval_id}`;
  const card = el("article", { class: `card ${approval.status}`, "aria-labelledby": heading, tabindex: "-1" });
  const args = argumentList(approval.args);
  card.append(
    el("header", {},
      el("h3", { id: heading }, pending ? "May this run? " : "", el("code", {}, exact(approval.tool_name))),
      el("span", { class: `chip ${approval.status}` }, pending ? "Needs approval" : SETTLED[approval.status])),
    pending ? args.node : asked(approval, args.node), ...(pending ? previewed(approval.preview) : []),
    facts(approval, sessionLink));
  if (JSON.stringify(approval.args) !== JSON.stringify(approval.args_proposed)) {
    card.append(el("p", { class: "note" }, "The arguments were edited; these are the ones that count."));
  }
  if (approval.votes.length && pending) card.append(votes(approval));
  if (pending) card.append(decisionForm(approval, args, changed));
  else card.append(outcome(approval));
  return card;
}

export function argumentList(args) {
  const entries = Object.entries(args);
  if (!entries.length) return { node: el("p", { class: "note" }, "No arguments."), read: true };
  const list = el("dl", { class: "args" });
  for (const [name, value] of entries) list.append(el("dt", {}, exact(name)), el("dd", {}, argument(value)));
  const size = JSON.stringify(args).length;
  if (size <= LONG) return { node: list, read: true };
  return folded(list, size);
}

function previewed(preview) {
  if (!preview) return [];
  if (!preview.ok) return [el("p", { class: "note" }, "Preview failed: ", exact(preview.text))];
  return [el("p", { class: "note" }, "Preview (dry run, nothing has been changed)"), el("pre", { class: "preview", tabindex: "0" }, exact(preview.text))];
}

function asked(approval, node) {
  const count = Object.keys(approval.args).length;
  return el("details", { class: "asked" }, el("summary", {}, count === 1 ? "1 argument" : `${count} arguments`), node);
}

function argument(value) {
  const isBlock = typeof value === "string" && value.includes("\n");
  const text = isBlock ? value : JSON.stringify(value, null, 2);
  return el("pre", { tabindex: "0" }, exact(text));
}

// Long arguments open before they can be approved: nobody approves what could not be read.
function folded(list, size) {
  const box = el("div", { class: "fold" }, list);
  const state = { node: box, read: false, whenRead: () => {} };
  const open = el("button", { type: "button", class: "quiet", onclick: () => {
    box.classList.add("open");
    open.remove();
    state.read = true;
    state.whenRead();
  } }, `Show all ${size.toLocaleString("en")} characters`);
  state.node = el("div", {}, box, open);
  return state;
}

function facts(approval, sessionLink) {
  const list = el("dl", { class: "facts" });
  const fact = (name, ...value) => list.append(el("div", {}, el("dt", {}, name), el("dd", {}, ...value)));
  fact("Asked by", exact(approval.requested_by.username));
  if (approval.requested_reason) fact("Why", exact(approval.requested_reason));
  fact("Digest", el("code", { title: approval.args_digest }, approval.args_digest.slice(0, 12)));
  if (approval.status === "pending") fact("Expires", time(approval.expires_at));
  if (approval.status === "pending" && approval.doors) fact("May be approved", approval.doors.map((door) => DOORS[door] ?? door).join(", "));
  if (approval.quorum > 1) fact("Approvals needed", String(approval.quorum));
  if (sessionLink) fact("Session", el("a", { href: `#/s/${approval.session_id}` }, "Open"));
  return list;
}

function votes(approval) {
  return el("ul", { class: "votes" }, approval.votes.map((vote) =>
    el("li", {}, exact(vote.by.username), vote.decision === "approve" ? " approved " : " rejected ", time(vote.at))));
}

function decisionForm(approval, args, changed) {
  const reason = el("input", { id: `reason-${approval.approval_id}`, maxlength: "2000", placeholder: "Reason (optional)", autocomplete: "off" });
  const approve = el("button", { type: "button", class: "primary", onclick: () => decide("approve") }, "Approve");
  const reject = el("button", { type: "button", class: "danger outline", onclick: () => decide("reject") }, "Reject");
  const error = el("p", { class: "error", role: "alert" });
  const login = el("div");
  if (!args.read) {
    approve.disabled = true;
    approve.title = "Show all the arguments first";
    args.whenRead = () => {
      approve.disabled = false;
      approve.title = "";
    };
  }
  function said() {
    // What this card shows, so that a decision never counts for arguments that were changed meanwhile.
    const body = { args_digest: approval.args_digest };
    if (reason.value.trim()) body.reason = reason.value.trim();
    return body;
  }
  async function decide(verb) {
    approve.disabled = reject.disabled = true;
    error.textContent = "";
    const path = `/api/approvals/${approval.approval_id}/${verb}`;
    try {
      changed(await post(path, said()));
    } catch (refused) {
      error.textContent = refused.message;
      if (refused.problem.code === "fresh_login_needed" && !login.firstChild) login.append(loginForm(path, said, changed));
      reject.disabled = false;
      approve.disabled = !args.read;
      if (refused.status === 409 || refused.status === 410) changed(null);
    }
  }
  const label = el("label", { class: "visually-hidden", for: reason.id }, "Reason");
  return el("div", { class: "decide" }, label, reason, el("div", { class: "buttons" }, reject, approve), error, login);
}

function outcome(approval) {
  const box = el("div", { class: "outcome" });
  const line = el("p", {}, el("strong", {}, SETTLED[approval.status]));
  if (approval.decided_by) line.append(" by ", exact(approval.decided_by.username));
  if (approval.decided_at) line.append(", ", time(approval.decided_at));
  if (approval.reason) line.append(": ", exact(approval.reason));
  box.append(line);
  if (approval.execution !== "none") box.append(toolAnswer(approval.execution, approval.result));
  return box;
}

export function toolAnswer(execution, result) {
  const state = execution && el("span", { class: `state ${execution}` }, EXECUTION[execution] ?? execution, " ");
  if (!result) return el("p", { class: "answered" }, state);
  const open = result.length < 600;
  return el("details", { class: "answered", open }, el("summary", {}, state, "What the tool answered"), el("pre", { tabindex: "0" }, exact(result)));
}
