// Wide tables scroll by themselves: the keyboard must reach them. The theme wraps them once the page is there.
function reachable() {
  for (const table of document.querySelectorAll(".md-typeset__scrollwrap:not([tabindex])")) table.tabIndex = 0;
}
new MutationObserver(reachable).observe(document.documentElement, { childList: true, subtree: true });
reachable();
