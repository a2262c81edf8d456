// A small Markdown renderer that builds elements: no markup of the text's own ever reaches the page.

import { el, prose } from "./dom.js";

const INLINE = /(`+)([^`]|[^`][\s\S]*?[^`])\1(?!`)|\*\*(?=\S)([\s\S]*?\S)\*\*|(?<![\w*])\*(?=[^\s*])([^*]*?[^\s*])\*(?![\w*])|(?<!\w)_(?=[^\s_])([^\n]*?[^\s_])_(?!\w)|~~(?=\S)([\s\S]*?\S)~~|\[([^\]\n]+)\]\(([^()\s]+)\)|\bhttps?:\/\/[^\s<>()\[\]"'`]*[^\s<>()\[\]"'`.,;:!?*_~]|\\([!-/:-@[-`{-~])/;

export function inline(text) {
  const out = [];
  let rest = text;
  for (let match; (match = INLINE.exec(rest)); rest = rest.slice(match.index + match[0].length)) {
    if (match.index) out.push(prose(rest.slice(0, match.index)));
    out.push(span(match));
  }
  if (rest) out.push(prose(rest));
  return out;
}

function span([whole, , code, strong, star, under, struck, label, address, plain]) {
  if (plain !== undefined) return plain;
  if (code !== undefined) return el("code", {}, prose(code));
  if (strong !== undefined) return el("strong", {}, inline(strong));
  if (star !== undefined || under !== undefined) return el("em", {}, inline(star ?? under));
  if (struck !== undefined) return el("s", {}, inline(struck));
  return label === undefined ? link(whole, whole) : link(label, address) ?? prose(whole);
}

// The host is shown where the label does not name it: a link never passes for another one.
function link(label, address) {
  let url;
  try {
    url = new URL(address);
  } catch {
    return null;
  }
  if (url.protocol !== "https:" && url.protocol !== "http:") return null;
  const a = el("a", { href: url.href, target: "_blank", rel: "noopener noreferrer nofollow", title: url.href }, prose(label));
  if (label === address && label.includes(url.host)) return a;
  return el("span", {}, a, el("span", { class: "host" }, ` (${url.host})`));
}

const FENCE = /^(\s{0,3})(`{3,}|~{3,})\s*([\w+#.-]*)\s*$/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const DIVIDER = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;
const STARTS = [FENCE, ITEM, /^\s{0,3}#{1,6}\s/, /^\s{0,3}>/, /^\s{0,3}([-*_])(\s*\1){2,}\s*$/];

export function markdown(text) {
  return blocks(text.replace(/\r\n?/g, "\n").split("\n"), 0);
}

function blocks(lines, depth) {
  const out = document.createDocumentFragment();
  for (let at = 0; at < lines.length; ) {
    const [node, next] = block(lines, at, depth);
    if (node) out.append(node);
    at = next;
  }
  return out;
}

function block(lines, at, depth) {
  const line = lines[at];
  if (!line.trim()) return [null, at + 1];
  const fence = FENCE.exec(line);
  if (fence) return fenced(lines, at, fence);
  const heading = /^\s{0,3}(#{1,6})\s+(.*?)\s*#*\s*$/.exec(line);
  if (heading) return [el(`h${Math.min(heading[1].length + 2, 6)}`, {}, inline(heading[2])), at + 1];
  if (/^\s{0,3}([-*_])(\s*\1){2,}\s*$/.test(line)) return [el("hr"), at + 1];
  if (depth < 8 && /^\s{0,3}>/.test(line)) return quote(lines, at, depth);
  if (depth < 8 && ITEM.test(line)) return list(lines, at, depth);
  if (line.includes("|") && DIVIDER.test(lines[at + 1] ?? "") && lines[at + 1].includes("-")) return table(lines, at);
  return paragraph(lines, at);
}

function fenced(lines, at, [, indent, mark, language]) {
  const kept = [];
  let end = at + 1;
  while (end < lines.length && !(lines[end].trim().startsWith(mark) && !lines[end].trim().replaceAll(mark[0], ""))) {
    kept.push(lines[end].startsWith(indent) ? lines[end].slice(indent.length) : lines[end]);
    end += 1;
  }
  const pre = el("pre", { tabindex: "0", "aria-label": language || "code" }, el("code", {}, prose(kept.join("\n"))));
  return [pre, end + 1];
}

function quote(lines, at, depth) {
  let end = at;
  const kept = [];
  while (end < lines.length && /^\s{0,3}>/.test(lines[end])) kept.push(lines[end++].replace(/^\s{0,3}> ?/, ""));
  return [el("blockquote", {}, blocks(kept, depth + 1)), end];
}

function list(lines, at, depth) {
  const [, indent, bullet] = ITEM.exec(lines[at]);
  const ordered = /\d/.test(bullet);
  const node = el(ordered ? "ol" : "ul", { start: ordered && parseInt(bullet, 10) !== 1 ? parseInt(bullet, 10) : null });
  let end = at;
  while (end < lines.length) {
    const item = ITEM.exec(lines[end]);
    if (!item || item[1].length > indent.length + 1 || item[1].length < indent.length || /\d/.test(item[2]) !== ordered) break;
    const kept = [item[3]];
    const inner = indent.length + 2;
    end += 1;
    while (end < lines.length && (belongs(lines[end], inner) || (!lines[end].trim() && belongs(lines[end + 1] ?? "", inner)))) {
      kept.push(lines[end].replace(new RegExp(`^\\s{0,${item[0].length - item[3].length}}`), ""));
      end += 1;
    }
    node.append(el("li", {}, tight(kept, depth)));
    if (!lines[end]?.trim() && ITEM.test(lines[end + 1] ?? "")) end += 1;
  }
  return [node, end];
}

const belongs = (line, indent) => line.trim() !== "" && line.search(/\S/) >= indent;

function tight(lines, depth) {
  const content = blocks(lines, depth + 1);
  const first = content.firstChild;
  if (first?.nodeName === "P") first.replaceWith(...first.childNodes);
  return content;
}

function table(lines, at) {
  const cells = (line) => line.trim().replace(/^\||\|$/g, "").split(/(?<!\\)\|/).map((cell) => inline(cell.trim().replaceAll("\\|", "|")));
  const head = el("tr", {}, cells(lines[at]).map((cell) => el("th", { scope: "col" }, cell)));
  const body = el("tbody");
  let end = at + 2;
  while (end < lines.length && lines[end].includes("|")) body.append(el("tr", {}, cells(lines[end++]).map((cell) => el("td", {}, cell))));
  return [el("div", { class: "table", tabindex: "0" }, el("table", {}, el("thead", {}, head), body)), end];
}

function paragraph(lines, at) {
  let end = at + 1;
  while (end < lines.length && lines[end].trim() && !STARTS.some((start) => start.test(lines[end]))) end += 1;
  const kept = lines.slice(at, end).flatMap((line, index) => (index ? [el("br"), ...inline(line.trim())] : inline(line.trim())));
  return [el("p", {}, kept), end];
}
