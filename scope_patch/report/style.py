"""How the page looks: on screen by day and by night, on a narrow screen, on paper."""

from __future__ import annotations

from .look import LOOKS
from .timeline import ALONG, DONE, FORCED, NOT_RUN, WAITING

CLASSES = {"R": "R", "P": "P", "C": "C", FORCED: "F", ALONG: "along", DONE: "done", WAITING: "wait", NOT_RUN: "none"}
"""The class of a state; those with a pattern are filled with it."""
NIGHT = {
    "R": "#56B4E9",
    "P": "#B97F10",
    "C": "#1E6652",
    FORCED: "#C76FA5",
    ALONG: "#27465C",
    DONE: "#33373E",
    WAITING: "#191B1F",
    NOT_RUN: "#191B1F",
}
"""On a dark ground the brighter state costs more work."""
PATTERNS = {
    "P": '<path class="mark" d="M-2 2L2-2M0 6L6 0M4 8L8 4"/>',
    "C": '<circle class="dot" cx="3" cy="3" r="0.9"/>',
    "F": '<path class="mark light" d="M0 0L6 6M6 0L0 6"/>',
}


def patterns() -> str:
    """The fills that every picture of the page refers to."""
    made = "".join(
        f'<pattern id="fill-{name}" width="6" height="6" patternUnits="userSpaceOnUse">'
        f'<rect class="ground-{name}" width="6" height="6"/>{drawn}</pattern>'
        for name, drawn in PATTERNS.items()
    )
    return f'<svg class="defs" width="0" height="0" aria-hidden="true"><defs>{made}</defs></svg>'


def css() -> str:
    """The style sheet."""
    day = ";".join(f"--{name}:{LOOKS[state].colour}" for state, name in CLASSES.items())
    night = ";".join(f"--{name}:{NIGHT[state]}" for state, name in CLASSES.items())
    fills = "".join(
        f".ground-{name}{{fill:var(--{name})}}.{name}{{fill:url(#fill-{name})}}"
        if name in PATTERNS
        else f".{name}{{fill:var(--{name})}}"
        for name in CLASSES.values()
    )
    dark = f"@media screen and (prefers-color-scheme:dark){{:root{{{night};{DARK}}}}}"
    return f":root{{{day};{DAY}}}\n{dark}\n{fills}{SHEET}"


DAY = "--ground:#fff;--paper:#F6F7F9;--ink:#1A1D21;--soft:#5A616B;--line:#D5D9DF;--stroke:#7A5200;--dot:#0B6B50"
DARK = (
    "color-scheme:dark;--ground:#191B1F;--paper:#22252A;--ink:#ECEEF1;--soft:#A6ADB8;--line:#3D424A;--stroke:#FFE2A6;"
    "--dot:#8FE3C8"
)
SHEET = """
.mark{stroke:var(--stroke);stroke-width:1;fill:none}.mark.light{stroke:#fff}.dot{fill:var(--dot)}
.dit{fill:var(--R)}.overhead{fill:#D55E00}.rest{fill:var(--soft);opacity:.45}
*{box-sizing:border-box}
.defs{position:absolute}
body{margin:0;background:var(--ground);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue",Arial,sans-serif;-webkit-print-color-adjust:exact;print-color-adjust:exact}
main{max-width:1080px;margin:0 auto;padding:28px 24px 48px}
h1{font-size:26px;line-height:1.2;margin:0 0 4px}h2{font-size:19px;margin:36px 0 8px}
h3{font-size:15px;margin:18px 0 6px}
p{margin:4px 0}.soft{color:var(--soft)}a{color:inherit}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(190px,1fr));gap:12px;margin:20px 0}
.card{background:var(--paper);border:1px solid var(--line);border-radius:8px;padding:12px 14px}
.card b{display:block;font-size:25px;line-height:1.25;font-weight:650}
.card span{display:block;font-size:13px;color:var(--soft)}
.bars{display:grid;grid-template-columns:repeat(auto-fit,minmax(320px,1fr));gap:8px 28px}
.bar{display:block;width:100%;height:20px;border-radius:3px}
.keys{display:flex;flex-wrap:wrap;gap:3px 18px;list-style:none;margin:6px 0 0;padding:0;font-size:13px}
.key{vertical-align:-2px;margin-right:6px}
.legend{background:var(--paper);border:1px solid var(--line);border-radius:8px;padding:10px 14px;margin:20px 0 0}
.legend .keys{display:grid;grid-template-columns:repeat(auto-fill,minmax(300px,1fr));gap:4px 18px;margin:0}
.legend li{display:flex}.legend .key{flex:none;margin:4px 8px 0 0}
.swatch{stroke:var(--line);stroke-width:1}
.notes{margin:14px 0 0;padding:10px 14px;border-left:4px solid #D55E00;background:var(--paper);list-style:none}
.notes li,.legend li,p{overflow-wrap:anywhere}.notes li+li{margin-top:4px}
figure{margin:10px 0 18px;break-inside:avoid}figcaption{font-size:13px;color:var(--soft);margin-bottom:2px}
.scroll{overflow-x:auto}.plot{display:block;width:100%;min-width:640px;height:auto}
.plot text{font-size:11px;fill:var(--soft)}.plot .letter{font-size:10px;font-weight:700;fill:var(--ink)}
.plot .on-R{fill:var(--ground)}.plot .on-P{fill:#1A1D21}
.cells,.rule{shape-rendering:crispEdges}.frame{fill:none;stroke:var(--soft);stroke-width:1}
.tick{stroke:var(--soft);stroke-width:1}.rule{stroke:var(--line);stroke-width:1;fill:none}
.halo{fill:none;stroke:var(--ground);stroke-width:3.6;opacity:.9}
.stairs{fill:none;stroke:var(--ink);stroke-width:1.8}
.expected{fill:var(--ground);stroke:var(--soft);stroke-width:1.3}.true{fill:var(--R)}.above{fill:#D55E00}
.bound{fill:none;stroke:#D55E00;stroke-width:1.2;stroke-dasharray:5 3}
summary{font-size:13px;color:var(--soft);cursor:pointer}
.why{fill:var(--ink);stroke:none}.why.cross{fill:none;stroke:#D55E00;stroke-width:1.8}
.hit rect{fill:transparent}.hit rect:hover{fill:var(--ink);fill-opacity:.16}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:13px;margin:6px 0}
th,td{text-align:left;padding:3px 16px 3px 0;border-bottom:1px solid var(--line);vertical-align:top}
th,td:first-child{white-space:nowrap}th{font-weight:600;color:var(--soft)}.n{text-align:right;font-variant-numeric:tabular-nums}
code{font:12.5px ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;overflow-wrap:anywhere}
@media(max-width:520px){main{padding:18px 14px 32px}
.bars{grid-template-columns:1fr}.legend .keys{grid-template-columns:1fr}
.cards{grid-template-columns:1fr 1fr}.card b{font-size:19px}}
@media print{@page{margin:14mm}body{font-size:10pt}main{max-width:none;padding:0 1mm}
.plot{min-width:0}.scroll{overflow:visible}
.card,.legend,.notes{break-inside:avoid}h2,h3,section>p{break-after:avoid}
.cards{grid-template-columns:repeat(4,1fr)}.card b{font-size:13pt}.bars{grid-template-columns:1fr 1fr}
.legend .keys{grid-template-columns:1fr 1fr}}
"""
