"""How the report looks, on a screen and on paper."""

from __future__ import annotations

STYLE = """
:root { --ink: #1c2126; --quiet: #5a636c; --line: #d5dade; --soft: #f3f5f6; }
* { box-sizing: border-box; }
body { font: 15px/1.45 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  color: var(--ink); background: #fff; max-width: 980px; margin: 0 auto; padding: 24px 20px 40px; }
h1 { font-size: 24px; margin: 0 0 4px; }
h2 { font-size: 18px; margin: 28px 0 8px; }
h3 { font-size: 14px; margin: 16px 0 4px; color: var(--quiet); font-weight: 600; }
header p, .facts, footer { color: var(--quiet); }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; }
th { text-align: left; font-weight: 600; color: var(--quiet); }
th, td { padding: 4px 10px 4px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
article { border-top: 2px solid var(--line); margin-top: 30px; padding-top: 2px; }
article img { max-width: 100%; height: auto; display: block; margin: 10px 0; }
article img.curves { max-width: 560px; }
.state { display: inline-block; font-size: 13px; font-weight: 600; padding: 1px 9px;
  border-radius: 10px; background: var(--soft); border: 1px solid var(--line); margin-left: 8px;
  vertical-align: 2px; }
.dot { display: inline-block; width: 10px; height: 10px; border-radius: 5px; margin-right: 6px; }
.problem { border-left: 4px solid #D55E00; padding: 4px 0 4px 10px; }
.comment { white-space: pre-wrap; }
ul { margin: 4px 0; padding-left: 20px; }
li { margin: 1px 0; }
pre { background: var(--soft); padding: 8px 10px; font-size: 12px; white-space: pre-wrap;
  overflow-wrap: anywhere; }
details { margin-top: 8px; }
summary { cursor: pointer; color: var(--quiet); font-size: 13.5px; }
footer { border-top: 1px solid var(--line); margin-top: 36px; padding-top: 10px; font-size: 13px; }
@media print {
  body { max-width: none; padding: 0; font-size: 11pt; }
  article { break-before: page; border-top: none; margin-top: 0; }
  article img, table, tr { break-inside: avoid; }
  thead { display: table-header-group; }
  a { color: inherit; text-decoration: none; }
}
"""
