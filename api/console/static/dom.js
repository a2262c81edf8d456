// Elements and texts: everything that came from elsewhere is set as text, never as markup.

export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "class") node.className = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
  return node;
}

export const byId = (id) => document.getElementById(id);

// In what a person decides on, nothing may hide: controls, formats, ignorables, odd spaces.
const HIDDEN = /[\p{Cc}\p{Cf}\p{Default_Ignorable_Code_Point}\p{Zl}\p{Zp}\p{Co}\p{Cs}]|(?! )\p{Zs}/gu;
// In prose, joiners and variation selectors make emoji; direction overrides and tags still show.
const MISLEADING = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff]|[\u{e0000}-\u{e0fff}]/gu;
const LOOKALIKE = /[\p{L}\p{N}_-]*(?:[A-Za-z][\p{N}_-]*[\p{Script=Cyrillic}\p{Script=Greek}\p{Script=Armenian}]|[\p{Script=Cyrillic}\p{Script=Greek}\p{Script=Armenian}][\p{N}_-]*[A-Za-z])[\p{L}\p{N}_-]*/gu;

const escaped = (character) => `\\u{${character.codePointAt(0).toString(16)}}`;

function marked(text, pattern, kept, shown, title) {
  const out = document.createDocumentFragment();
  let from = 0;
  for (const match of text.matchAll(pattern)) {
    if (kept.includes(match[0])) continue;
    out.append(text.slice(from, match.index), el("mark", { title }, shown(match[0])));
    from = match.index + match[0].length;
  }
  out.append(text.slice(from));
  return out;
}

// Text of which nothing is hidden; words that mix alphabets are marked.
export function exact(text) {
  const out = marked(text, HIDDEN, "\n\t", escaped, "A character that would not be seen");
  for (const node of [...out.childNodes]) {
    if (node.nodeType === Node.TEXT_NODE && /[^\x00-\x7f]/.test(node.data)) {
      node.replaceWith(marked(node.data, LOOKALIKE, "", (word) => word, "Letters of several alphabets that look alike"));
    }
  }
  return out;
}

export const prose = (text) => text.replace(MISLEADING, escaped);

export function ago(iso) {
  const seconds = Math.round((Date.parse(iso) - Date.now()) / 1000);
  const units = [["day", 86400], ["hour", 3600], ["minute", 60]];
  const format = new Intl.RelativeTimeFormat("en", { numeric: "auto" });
  for (const [unit, size] of units) if (Math.abs(seconds) >= size) return format.format(Math.round(seconds / size), unit);
  return seconds > 0 ? "in less than a minute" : "just now";
}

export function time(iso) {
  return el("time", { datetime: iso, title: new Date(iso).toLocaleString() }, ago(iso));
}

// Keeps the nodes of items that did not change, so focus, selection and half-typed reasons survive an update.
export function reconcile(parent, items, make) {
  const old = new Map([...parent.children].map((node) => [node.dataset.key, node]));
  let place = parent.firstElementChild;
  for (const [key, signature, item] of items) {
    let node = old.get(key);
    old.delete(key);
    if (!node || node.signature !== signature) {
      const fresh = make(item);
      fresh.dataset.key = key;
      fresh.signature = signature;
      if (node) {
        if (place === node) place = fresh;
        node.replaceWith(fresh);
      }
      node = fresh;
    }
    if (node === place) place = place.nextElementSibling;
    else parent.insertBefore(node, place);
  }
  for (const node of old.values()) node.remove();
}
