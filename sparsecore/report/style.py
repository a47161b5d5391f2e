"""The page's style sheet: fonts that every system has, light or dark as the reader has it, nothing fetched."""

STYLE = """\
:root { color-scheme: light dark; --page: #fff; --ink: #1a1a1a; --soft: #555; --rule: #ddd; --band: #f7f7f7;
  --note: #fff8e8; }
@media (prefers-color-scheme: dark) { :root { --page: #16181c; --ink: #e6e6e6; --soft: #a8a8a8; --rule: #40444b;
  --band: #1f2227; --note: #2c2718; } }
body { margin: 2rem auto; max-width: 74rem; padding: 0 1.25rem; background: var(--page); color: var(--ink);
  font: 16px/1.45 system-ui, "Segoe UI", "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 1rem; }
h2 { font-size: 1.05rem; margin: 0 0 .4rem; }
dl { margin: 0 0 1rem; }
dt { color: var(--soft); font-size: .85rem; }
dd { margin: 0; overflow-wrap: anywhere; }
.outcome { display: flex; flex-wrap: wrap; gap: .75rem; }
.outcome div { border: 1px solid var(--rule); border-radius: .4rem; padding: .5rem .9rem; }
.outcome dd { font-size: 1.15rem; font-weight: 600; }
.unfinished { border-left: .3rem solid #e69f00; padding: .3rem .8rem; background: var(--note); }
.experiment div, .effort div { display: grid; grid-template-columns: 9rem 1fr; gap: 1rem; padding: .15rem 0; }
.experiment dt, .effort dt { font-size: inherit; }
summary { cursor: pointer; }
pre { overflow-x: auto; padding: .8rem; background: var(--band); font-size: .85rem; }
.pairs { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr)); gap: 0 2rem; }
figure { margin: 2rem 0 0; }
figure svg { display: block; max-width: 100%; height: auto; fill: var(--ink); }
figure svg g[id*="hover-"] use { cursor: crosshair; }
figcaption, .undrawn { color: var(--soft); font-size: .9rem; }
.tensors { margin-top: 2.5rem; overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; text-align: right; white-space: nowrap; }
th:first-child { text-align: left; }
tbody th { font-weight: 400; }
thead th { border-bottom: 2px solid #888; vertical-align: bottom; white-space: normal; }
tbody tr:nth-child(even) { background: var(--band); }
tfoot th, tfoot td { border-top: 2px solid #888; font-weight: 600; }
"""
