"""`report RUN.json`: text, page and figure, as users get them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from xml.etree import ElementTree

import pytest
from reports import CHUNKS, SEGMENT, VERIFIED, report, several

from scope_patch import cli
from scope_patch.report.page import page
from scope_patch.report.read import parse
from scope_patch.report.summary import text

NASTY = "<script>alert(1)</script>\"'&\x1b[31m\ud800"
CASES = {
    "one": report(),
    "chunks": report(CHUNKS),
    "alike": several({"segments": [SEGMENT, SEGMENT]}, {"segments": [SEGMENT]}),
    "nothing": several(status="not-applied", reasons=["no known host was imported"]),
    "empty generation": report(segments=[]),
    "no iterations": report({"iterations": 0, "modes": "", "reasons": [], "intervals": [], "frames": 0, "active": []}),
    "no plan": report(planned=[]),
    "verified": several({"segments": [VERIFIED, SEGMENT]}, {"segments": [VERIFIED]}),
    "failed": report(
        {**SEGMENT, "modes": "R", "reasons": ["growth"], "intervals": [[0, 2]]}, finished=False, error="OutOfMemory"
    ),
    "nasty": several(
        {"segments": [{**SEGMENT, "reasons": [NASTY] * 5, "note": NASTY}], "remarks": [NASTY], "guards": {NASTY: 1}},
        host=NASTY,
        signal=NASTY,
        reasons=[NASTY],
        settings={NASTY: NASTY},
    ),
}


@pytest.fixture
def call(tmp_path, capfd, monkeypatch):
    """`call(values, "--html", …)` in an empty directory with run.json: (exit code, stdout, stderr)."""
    monkeypatch.setattr("logging.basicConfig", lambda **options: None)
    monkeypatch.chdir(tmp_path)

    def run(values, *options):
        (tmp_path / "run.json").write_text(json.dumps(values))
        code = cli.main(["report", "run.json", *options])
        return code, *capfd.readouterr()

    return run


def test_text_has_the_summary_and_the_timeline(call):
    code, out, err = call(report(SEGMENT, CHUNKS))
    assert code == 0 and not err
    assert "DiT forwards 5 -> 3" in out and "DiT work 1/2.00 by the cost model, aimed at 1/2" in out
    assert "  2-3 ..RCR\n  0-1 RPR-+\n  why g.g.m\n" in out
    assert "  4-5 ---\n  2-3 .PR\n  0-1 RRF\n  why g.f\n" in out


IN_FRAMES = {"target": 2.0, "work": 5, "baseline": 10, "unit": "latent frames"}


def test_the_unit_of_the_work_is_told(call):
    for values in (report(planned=[IN_FRAMES]), several({"segments": [SEGMENT], "planned": [IN_FRAMES] * 2})):
        code, out, err = call(values)
        assert "DiT work 1/2.00 by the latent frames, aimed at 1/2" in out and "cost model" not in out
        shown = page(parse(values))
        assert "less work for the DiT, by the latent frames (aimed at 2x)" in shown and "cost model" not in shown
    both = several({"segments": [SEGMENT]}, {"segments": [SEGMENT], "planned": [{**IN_FRAMES, "work": 2.5}]})
    code, out, err = call(both)
    assert "DiT work 1/2.00 by the cost model" in out and "DiT work 1/4.00 by the latent frames" in out
    assert {"2.00x", "4.00x"} <= {each.text for each in ElementTree.fromstring(page(parse(both))).iter("b")}


NOT_APPLIED = {"status": "not-applied", "reasons": ["the DiT was called outside any loop"], "segments": []}


@pytest.mark.parametrize(
    ("generation", "words"),
    [
        (NOT_APPLIED, "ran unpatched: the DiT was called outside any loop"),
        ({"segments": [SEGMENT], "reasons": ["a rank was lost"]}, "unpatched in part: a rank was lost"),
        ({"segments": []}, "no denoise loop was entered"),
        ({"segments": [SEGMENT], "finished": False, "error": "Killed"}, "did not finish: Killed"),
    ],
)
def test_what_went_otherwise_is_told_of_every_generation(call, generation, words):
    values = several({"segments": [SEGMENT]}, generation, reasons=generation.get("reasons", []))
    code, out, err = call(values)
    assert f"\ngeneration 2, {words}" in out and "\ngeneration 1\n" in out
    assert words.partition(": ")[2] in out[: out.index("\ngeneration 1\n")]  # the summary
    shown = ElementTree.fromstring(page(parse(values)))
    rows = ["".join(row.itertext()) for row in shown.iter("tr")]
    assert any(row.strip().startswith("2") and words in row for row in rows)
    assert words in "".join(next(each for each in shown.iter("section") if each.get("id") == "generation-2").itertext())


def test_an_idle_generation_is_told_beside_a_refused_one(call):
    code, out, err = call(several({"segments": [SEGMENT]}, NOT_APPLIED, {"segments": []}))
    assert "  2 ran unpatched: the DiT was called outside any loop; no denoise loop was entered\n" in out


def test_where_nothing_was_applied_the_reason_is_in_the_first_line(call):
    values = several(NOT_APPLIED, status="not-applied", reasons=NOT_APPLIED["reasons"])
    code, out, err = call(values)
    assert out.startswith("scope_patch: nothing was patched in effect (a host): the DiT was called outside any loop")
    assert "nothing was patched in effect: the DiT was called outside any loop" in page(parse(values))


def test_generations_that_are_not_kept_are_in_the_numbers_of_every_kind_of_report(call):
    sums = {"generations": 3, "applied": 2, "unfinished": 1, "forwards_run": 10, "forwards_skipped": 20}
    values = report(omitted={**sums, "slots_baseline": 100, "slots_computed": 40, "modes": {"C": 5, "R": 8}})
    code, out, err = call(values)
    assert "3 generations" in out and "DiT forwards 35 -> 13, latent frames 120 -> 50 (6 cached, 1 predicted" in out
    assert "1 not finished\n" in out
    shown = page(parse(values))
    assert "35 → 13" in shown and "120 → 50" in shown and "3 generations more are in the sums alone" in shown


def test_text_breaks_long_timelines_and_counts_on():
    long = {**SEGMENT, "iterations": 250, "modes": "R" * 250, "reasons": ["growth"] * 250}
    long |= {"intervals": [[0, 4]] * 250, "active": [[0, 4]] * 250}
    lines = text(parse(report(long))).splitlines()
    assert max(map(len, lines)) <= 120 and [line.split()[0] for line in lines if line.strip()[:3] in ("100", "200")]


@pytest.mark.parametrize("case", CASES)
def test_text_of_every_kind_of_report(case):
    shown = text(parse(CASES[case]))
    assert "scope_patch: " in shown and "\x1b" not in shown
    shown.encode()


@pytest.mark.parametrize("case", CASES)
def test_the_page_is_well_formed_and_loads_and_runs_nothing(case):
    made = page(parse(CASES[case]))
    root = ElementTree.fromstring(made)  # stricter than any browser
    assert {element.tag for element in root.iter()}.isdisjoint({"script", "link", "img", "iframe", "object", "use"})
    for element in root.iter():
        names = {name.lower() for name in element.keys()}  # noqa: SIM118 - an Element is no mapping
        assert not any(name.startswith("on") for name in names)
        assert not {"src", "href"} & names or element.get("href", "").startswith("#")
    assert "//" not in re.sub(r"<title>.*?</title>", "", made).replace("</", "") and "@import" not in made
    anchors = {element.get("id") for element in root.iter()}
    assert {element.get("href", "#")[1:] for element in root.iter("a")} <= anchors
    referred = set(re.findall(r"url\(#(.*?)\)", made))
    assert referred <= anchors and "default-src 'none'" in made


def test_what_a_report_says_cannot_run():
    made = page(parse(CASES["nasty"]))
    assert "<script" not in made and "&lt;script&gt;" in made


def test_a_timeline_is_drawn_once_and_referred_to():
    made = page(parse(CASES["alike"]))
    assert made.count('class="plot"') == 1
    assert made.count('the same decisions as in <a href="#segment-1-1">generation 1, segment 1</a>') == 2


def test_a_large_grid_stays_small():
    modes = "RPPCPR" * 34
    rows = {"iterations": 204, "modes": modes, "reasons": ["threshold"] * 204, "intervals": [[0, 65]] * 204}
    chunk = {**rows, "frames": 65, "active": [[max(0, i // 4 - 20), min(65, 5 + i // 4)] for i in range(204)]}
    assert len(page(parse(report(chunk)))) < 300_000


def test_verified_steps_are_told_in_text_and_page(call):
    code, out, err = call(CASES["verified"], "--html", "a.html")
    with open("a.html", encoding="utf-8") as file:
        made = file.read()
    assert (
        "erified 2 skipped steps: true error 0.025 (expected 0.0012 to 0.100), 1 above 0.2: nothing is skipped" in made
    )
    assert made.count('<circle class="above"') == 2 + 2 and made.count('<table class="errors">') == 2
    assert "iteration 1: expected 0.0012, true 0.025" in made and "iteration 3: expected 0.100, true no number" in made
    assert "bound 0.2" in made and 'class="why verify"' in made
    code, out, err = call(CASES["verified"])
    told = "verified 4 skipped steps: true error 0.025 (expected 0.0012 to 0.100), 2 above 0.2: in generation 2"
    assert f"  {told}, the last of 2, nothing is skipped from iteration 4 on\n" in out
    assert "\n          1    0.0012     0.025\n" in out and "v --verify" in out and "why gvg.v" in out
    assert "          3     0.100 no number  above the bound: nothing is skipped from here on\n" in out


@pytest.mark.parametrize("errors", [(5e-324, 1.7e308), (0.0, 0.0), (1.0, None), (0.2, 0.2)])
def test_errors_of_any_size_are_drawn(errors):
    verified = [{"iteration": 1, "expected": errors[0], "error": errors[1], "tightened": None}]
    shown = page(parse(report({**VERIFIED, "verified": verified})))
    assert shown.count('<circle class="true"') == 1 + 1 and "nan" not in shown


@pytest.mark.parametrize("case", ["one", "chunks", "alike", "failed", "nasty", "verified"])
def test_the_figure(call, case):
    pytest.importorskip("matplotlib", reason="the extra `report` is not installed")
    code, out, err = call(CASES[case], "--png", "a.png", "--html", "a.html")
    assert code == 0 and re.fullmatch(r"a.html: \d+ kB\na.png: \d+ kB\n", out)
    with open("a.png", "rb") as file:
        first = file.read()
    assert first.startswith(b"\x89PNG")
    call(CASES[case], "--png", "a.png")
    with open("a.png", "rb") as file:
        assert file.read() == first


def test_a_page_needs_jinja_and_says_so(call, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    code, out, err = call(report(), "--html", "a.html")
    assert code == 2 and "pip install jinja2" in err
    assert call(report())[0] == 0


def test_a_figure_needs_the_extra_and_says_so(call, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, out, err = call(report(), "--png", "a.png")
    assert code == 2 and "pip install 'scope-patch[report]'" in err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--html", "."], "--html . is a directory"),
        (["--html", "run.json"], "would overwrite the report"),
        (["--html", "no/such/a.html"], "its directory does not exist"),
        (["--html", "/dev/full"], "/dev/full cannot be written (No space left on device)"),
    ],
)
def test_places_that_take_no_picture(call, options, words):
    code, out, err = call(report(), *options)
    assert code == 2 and words in err and not out


def test_settings_of_another_version_are_shown_and_no_reason_to_refuse(call):
    code, out, _ = call(report(settings={"signal": "latent", "preset": "gone", "max_skip": 4, "policy": "scope"}))
    assert code == 0 and "scope" in out


def test_a_report_that_is_not_there(call):
    assert cli.main(["report", "none.json"]) == 2


def test_nothing_to_draw_is_said(call):
    pytest.importorskip("matplotlib", reason="the extra `report` is not installed")
    code, out, err = call(CASES["nothing"], "--png", "a.png")
    assert code == 2 and "no denoise loop was entered" in err


LIGHT = """
import sys
from scope_patch.cli import main
assert main(["report", sys.argv[1], "--html", sys.argv[2]]) == 0
print(sorted({"torch", "numpy", "wrapt", "matplotlib"} & set(sys.modules)))
"""


def test_the_page_needs_neither_torch_nor_matplotlib(run_python, tmp_path):
    (tmp_path / "run.json").write_text(json.dumps(report()))
    result = run_python("-c", LIGHT, tmp_path / "run.json", tmp_path / "a.html")
    assert result.stdout.splitlines()[-1] == "[]", result


def test_a_browser_without_javascript_draws_it(tmp_path):
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("no chromium on the PATH")
    image = pytest.importorskip("PIL.Image", reason="the extra `report` is not installed")
    (tmp_path / "a.html").write_text(page(parse(report(SEGMENT, CHUNKS))), encoding="utf-8")
    profile = tmp_path / "profile" / "Default"
    profile.mkdir(parents=True)
    off = {"profile": {"default_content_setting_values": {"javascript": 2}}}
    (profile / "Preferences").write_text(json.dumps(off))
    switches = "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking "
    switches += f"disable-component-update disable-sync window-size=1200,1600 user-data-dir={tmp_path}/profile "
    switches += f"screenshot={tmp_path}/a.png"
    command = [browser, *(f"--{switch}" for switch in switches.split()), f"file://{tmp_path}/a.html"]
    subprocess.run(command, capture_output=True, timeout=120, check=True)
    with image.open(tmp_path / "a.png") as shot:
        colours = dict(map(reversed, shot.convert("RGB").getcolors(2**24)))
    for name, colour in (("R", (0, 114, 178)), ("P", (240, 180, 60)), ("C", (166, 220, 201)), ("F", (179, 86, 143))):
        assert colours.get(colour, 0) > 100, name
