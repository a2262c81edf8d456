// A rule may want to know who is sitting here now: one decision, with a username and a password.

import { postAs } from "./calls.js";
import { el } from "./dom.js";

export function loginForm(path, said, changed) {
  const name = el("input", { "aria-label": "Username", placeholder: "Username", autocomplete: "username", required: true });
  const password = el("input", { type: "password", "aria-label": "Password", placeholder: "Password", autocomplete: "current-password", required: true });
  const go = el("button", { type: "submit", class: "primary" }, "Enter and approve");
  const error = el("p", { class: "error", role: "alert" });
  const form = el("form", { class: "relogin" }, el("div", { class: "row" }, name, password, go), error);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    go.disabled = true;
    error.textContent = "";
    try {
      changed(await postAs(name.value, password.value, path, said()));
    } catch (refused) {
      error.textContent = refused.message;
      if (refused.status === 409 || refused.status === 410) changed(null);
    } finally {
      password.value = "";
      go.disabled = false;
    }
  });
  return form;
}
