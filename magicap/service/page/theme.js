// A classic script in the head: a module would run after the first paint and flash the other theme.
(() => {
  const KEY = "magicap-theme";
  const root = document.documentElement;
  const system = window.matchMedia("(prefers-color-scheme: dark)");

  function stored() {
    try { return localStorage.getItem(KEY); } catch { return null; }
  }

  function isDark() {
    return root.dataset.theme ? root.dataset.theme === "dark" : system.matches;
  }

  function toggle(button) {
    root.dataset.theme = isDark() ? "light" : "dark";
    try { localStorage.setItem(KEY, root.dataset.theme); } catch { /* storage may be forbidden */ }
    button.setAttribute("aria-pressed", String(isDark()));
  }

  const theme = stored();
  if (theme === "dark" || theme === "light") root.dataset.theme = theme;
  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const mark = () => button.setAttribute("aria-pressed", String(isDark()));
    button.addEventListener("click", () => toggle(button));
    system.addEventListener("change", mark);
    mark();
  });
})();
