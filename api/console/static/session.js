// One session on the page: its transcript, the open turn, and the approvals that belong to it.

import { approvalCard, argumentList, signature, toolAnswer } from "./approvals.js";
import { execute, get, post } from "./calls.js";
import { byId, el, exact, reconcile } from "./dom.js";
import { markdown } from "./markdown.js";

const FINAL = ["completed", "failed", "cancelled"];
const PAGE = 200;

export class SessionView {
  constructor(id, { changed }) {
    this.id = id;
    this.changed = changed;
    this.pages = [];
    this.cursors = [null];
    this.turns = new Map();
    this.approvals = new Map();
    this.live = null;
    this.stream = null;
    this.over = false;
  }

  get openTurns() {
    return [...this.turns.values()].filter((turn) => !FINAL.includes(turn.status));
  }

  async load() {
    const byStatus = ["pending", "approved", "rejected", "expired", "cancelled"].map((status) => get(`/api/approvals?status=${status}&limit=200`));
    await this.refresh();
    for (const list of await Promise.all(byStatus)) {
      for (const approval of list.items) if (approval.session_id === this.id) this.approvals.set(approval.approval_id, approval);
    }
    for (const approval of this.approvals.values()) {
      if (approval.status === "pending" && !this.turns.has(approval.turn_id)) await this.readTurn(approval.turn_id);
    }
    this.draw();
  }

  // Fetches what may have changed: the last page, the open turns, the approvals that are not over.
  async refresh() {
    await this.readMessages();
    const last = this.messages.findLast((message) => message.turn_id);
    if (last && !this.turns.has(last.turn_id)) await this.readTurn(last.turn_id);
    for (const turn of this.openTurns) await this.readTurn(turn.turn_id);
    const shown = new Set(this.openTurns.flatMap((turn) => turn.pending_approvals.map((approval) => approval.approval_id)));
    for (const approval of this.approvals.values()) {
      if (!shown.has(approval.approval_id) && isOpen(approval)) await this.readApproval(approval.approval_id);
    }
    this.draw();
  }

  get messages() {
    return this.pages.flat();
  }

  async readMessages() {
    for (;;) {
      const last = this.cursors.length - 1;
      const cursor = this.cursors[last];
      const page = await get(`/api/sessions/${this.id}/messages?limit=${PAGE}${cursor ? `&cursor=${encodeURIComponent(cursor)}` : ""}`);
      this.pages[last] = page.items;
      if (!page.next_cursor) return;
      this.cursors.push(page.next_cursor);
    }
  }

  async readTurn(turnId) {
    const turn = await get(`/api/sessions/${this.id}/turns/${turnId}`);
    this.turns.set(turnId, turn);
    for (const approval of turn.pending_approvals) this.approvals.set(approval.approval_id, approval);
    if (FINAL.includes(turn.status) && this.live?.turnId === turnId) this.live = null;
  }

  async readApproval(approvalId) {
    this.approvals.set(approvalId, await get(`/api/approvals/${approvalId}`));
  }

  async send(text) {
    this.live = { turnId: null, asked: text, text: "", doing: "Sending…" };
    this.draw();
    this.stream = new AbortController();
    try {
      await execute(this.id, text, (event) => this.hear(event), this.stream.signal);
    } catch (error) {
      if (error.name === "AbortError") return;
      // A line that broke after the turn was heard of is no loss: polling takes over.
      if (!this.live?.turnId) throw error;
    } finally {
      this.stream = null;
      if (!this.over) await this.refresh().catch(() => {});
      this.live = null;
      this.draw();
    }
  }

  hear(event) {
    const live = this.live;
    if (!live) return;
    live.turnId = event.turn_id;
    if (event.type === "turn.queued") live.doing = event.waits ? "Queued: something above waits for a decision." : "Queued…";
    if (event.type === "turn.started") live.doing = "Thinking…";
    if (event.type === "answer.delta") live.text += event.text;
    if (event.type === "tool.called") Object.assign(live, { text: "", doing: `Calling ${event.tool_name}…` });
    if (event.type === "execution.started") live.doing = `Running ${event.tool_name}…`;
    if (event.type === "tool.progress") {
      live.doing = `${event.tool_name}: ${event.progress}${event.total === null ? "" : ` of ${event.total}`}…`;
    }
    if (event.type === "question.opened") {
      live.doing = `${event.tool_name} asks something: answer it in Slack, or over REST under /api/questions.`;
    }
    if (event.type === "question.settled") live.doing = "Running…";
    if (event.type === "execution.finished") live.doing = "Thinking…";
    if (["turn.queued", "tool.called", "execution.finished", "turn.waiting"].includes(event.type)) {
      this.readTurn(event.turn_id).then(() => this.refresh()).catch(() => {});
    }
    this.drawSoon();
  }

  async stop() {
    await post(`/api/sessions/${this.id}/cancel`);
    await this.refresh();
  }

  close() {
    this.over = true;
    this.stream?.abort();
  }

  drawSoon() {
    this.frame ??= requestAnimationFrame(() => this.draw());
  }

  draw() {
    cancelAnimationFrame(this.frame);
    this.frame = null;
    if (this.over) return;
    const scroll = byId("scroll");
    const atEnd = scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 120;
    // While an answer streams, a screen reader waits for the whole of it.
    byId("transcript").setAttribute("aria-busy", String(Boolean(this.live?.text)));
    reconcile(byId("transcript"), this.items(), (make) => make());
    if (atEnd) scroll.scrollTop = scroll.scrollHeight;
    this.changed(this);
  }

  // What the transcript shows, in order: [key, signature, builder].
  items() {
    const answers = new Map(this.messages.filter((m) => m.role === "tool").map((m) => [m.tool_call_id, m]));
    const cards = new Map([...this.approvals.values()].map((approval) => [approval.tool_call_id, approval]));
    const placed = new Set();
    const out = [];
    for (const message of this.messages) {
      if (message.role === "tool") continue;
      if (message.content.trim()) out.push([message.message_id, message.content, () => bubble(message.role, message.content)]);
      for (const call of message.tool_calls ?? []) {
        const approval = cards.get(call.id);
        if (approval) placed.add(approval.approval_id);
        out.push(approval ? this.card(approval) : toolItem(call, answers.get(call.id)));
      }
    }
    for (const approval of this.approvals.values()) if (!placed.has(approval.approval_id)) out.push(this.card(approval));
    return [...out, ...this.endings()];
  }

  card(approval) {
    const changed = (decided) => {
      if (decided) this.approvals.set(decided.approval_id, decided);
      this.draw();
      byId("transcript").querySelector(`[data-key="${approval.approval_id}"]`)?.focus({ preventScroll: true });
      this.refresh().catch(() => {});
    };
    return [approval.approval_id, signature(approval), () => approvalCard(approval, { changed })];
  }

  endings() {
    const out = [];
    const heard = new Set(this.messages.filter((m) => m.role === "user").map((m) => m.turn_id));
    if (this.live && !heard.has(this.live.turnId)) {
      const { asked } = this.live;
      out.push(["asked", asked, () => bubble("user", asked)]);
    }
    const said = new Set(this.messages.filter((m) => m.role === "assistant" && m.content).map((m) => m.content));
    for (const turn of this.turns.values()) {
      if (turn.status === "failed" && turn.error && !said.has(turn.error)) {
        out.push([`end-${turn.turn_id}`, turn.error, () => el("p", { class: "ending failed" }, turn.error)]);
      }
      if (turn.status === "cancelled") out.push([`end-${turn.turn_id}`, "", () => el("p", { class: "ending" }, "Stopped.")]);
    }
    if (this.live?.text) out.push(["live", this.live.text, () => bubble("assistant", this.live.text, "live")]);
    const doing = this.doing();
    if (doing) out.push(["doing", doing, () => el("p", { class: "doing", role: "status" }, el("span", { class: "dots", "aria-hidden": "true" }), doing)]);
    return out;
  }

  doing() {
    if (this.live) return this.live.text ? null : this.live.doing;
    const statuses = this.openTurns.map((turn) => turn.status);
    if (statuses.includes("awaiting_approval")) return "Waiting for a decision.";
    if (statuses.includes("running")) return "Thinking…";
    return statuses.length ? "Queued…" : null;
  }
}

const isOpen = (approval) => approval.status === "pending" || (approval.status === "approved" && ["none", "running"].includes(approval.execution));

function bubble(role, content, extra = "") {
  const body = role === "user" ? el("div", { class: "said" }, exact(content)) : el("div", { class: "said prose" }, markdown(content));
  const speaker = el("span", { class: "visually-hidden" }, role === "user" ? "You: " : "Agent: ");
  return el("div", { class: `message ${role} ${extra}` }, speaker, body);
}

function toolItem(call, answer) {
  const build = () => el("details", { class: "tool" },
    el("summary", {}, el("span", { class: `state ${answer ? "succeeded" : "running"}` }, answer ? "Called" : "Calling"), " ", el("code", {}, exact(call.name))),
    argumentList(call.args ?? {}).node,
    answer ? toolAnswer(null, answer.content) : null);
  return [`call-${call.id}`, answer ? answer.message_id : "", build];
}
