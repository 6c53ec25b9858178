import re
import shutil
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from browser import Browser, Page, chromium
from viewer_site import TIMES, Site, latest, publish

from nowcast import viewer
from nowcast.forecaster import label
from nowcast.plotting.palettes import NO_DATA, PROBABILITY, RAIN
from nowcast.products.forecast_file import write_forecast
from nowcast.products.layers import write_layers

RATES = (0.3, 1.5, 5.0)
"""mm/h of the three members, all over the grid; at the last lead time they are dry."""
OBSERVED = 20.0
NEW_LOOK = "document.dispatchEvent(new Event('visibilitychange'))"
"""What makes the page ask the server at once."""


@pytest.fixture(scope="module")
def forecasts(make_rain, tmp_path_factory) -> Path:
    """Layers of an ensemble and of a single forecast, made from the frames 0 to 3 and 1 to 4."""
    root = tmp_path_factory.mktemp("forecasts")
    for number in (0, 1):
        frames = make_rain(4, size=40, first=number)
        frames[:] = OBSERVED
        frames[:, :, :8] = np.nan
        for members in (3, 1):
            rates = np.zeros((members, 6, 40, 40), dtype=np.float32)
            for rate, member in zip(RATES, rates, strict=False):
                member[:5] = rate
            rates[..., :8] = np.nan
            folder = root / f"{number}_{members}"
            folder.mkdir()
            write_forecast(label(rates, frames, attributes={"model": "known"}), folder / "members.nc")
            write_layers(folder / "members.nc", folder, observed=frames)
    return root


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    binary = chromium()
    if binary is None:
        pytest.skip("no Chromium: none of chromium, chromium-browser, google-chrome is on the path, and "
                    "NOWCAST_CHROMIUM does not name one")  # fmt: skip
    with Browser(binary, tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture
def site(forecasts, tmp_path):
    """A site with the ensemble of the first reference time."""
    made = Site(tmp_path)
    publish(made, forecasts / "0_3", 0)
    made.latest = latest()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def page(browser, site):
    """The page at a desk; afterwards nothing may have gone wrong in its console."""
    opened = browser.page(1280, 900)
    opened.open(site.url)
    yield opened
    opened.evaluate("0")
    opened.close()
    assert [error for error in opened.errors if "latest.json" not in error] == []


def shown(page: Page) -> None:
    # The title is what the page writes last when it has heard from the server.
    page.until("!document.getElementById('viewer').hidden && document.title.endsWith('UTC')")


def colour(page: Page, x: float = 0.6, y: float = 0.1) -> str:
    """The colour that most pixels have around a place of the map; fractions from the west and the north."""
    return page.evaluate(
        f"""(() => {{ const map = document.getElementById("map"), side = 12, counts = {{}};
        const copy = new OffscreenCanvas(side, side).getContext("2d", {{willReadFrequently: true}});
        copy.drawImage(map, map.width * {x}, map.height * {y}, side, side, 0, 0, side, side);
        const data = copy.getImageData(0, 0, side, side).data;
        for (let n = 0; n < data.length; n += 4) {{
          const name = "#" + [...data.slice(n, n + 3)].map((v) => v.toString(16).padStart(2, "0")).join("");
          counts[name] = (counts[name] ?? 0) + 1;
        }}
        return Object.keys(counts).sort((a, b) => counts[b] - counts[a])[0]; }})()"""
    )


def rain_colour(rate: float) -> str:
    return RAIN.colours[int(np.digitize(rate, RAIN.levels)) - 1]


def index(page: Page) -> int:
    return int(page.evaluate("document.getElementById('slider').value"))


def pressed(page: Page) -> list[str]:
    return page.evaluate("[...document.querySelectorAll('[aria-pressed=true]')].map((b) => b.dataset.layer)")


def choose(page: Page, layer: str) -> None:
    page.click(f"[data-layer={layer}]")
    page.until(f"document.querySelector('[data-layer={layer}]').ariaPressed === 'true'")


def banner(page: Page) -> str:
    return "" if page.evaluate("document.getElementById('banner').hidden") else page.text("#banner")


# ---- without a browser


def test_the_package_holds_the_page_and_nothing_else():
    files = {entry.name for entry in resources.files(viewer).iterdir() if not entry.name.startswith("__")}
    assert files == set(viewer.static_files()) == set(viewer.MEDIA_TYPES)


def test_the_page_has_nothing_inline_and_needs_no_other_server():
    texts = {name: body.decode() for name, body in viewer.static_files().items()}
    html = texts["index.html"]
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script>|javascript:", html)
    assert set(re.findall(r'(?:src|href)="([^"]+)"', html)) == {"viewer.svg", "viewer.css", "viewer.js"}
    for name, text in texts.items():
        addresses = re.findall(r"https?://\S+|url\(|@import", text)
        assert [a for a in addresses if "www.w3.org/2000/svg" not in a] == [], name
    code = "".join(text for name, text in texts.items() if name.endswith(".js"))
    for unsafe in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
        assert unsafe not in code


# ---- in the browser


def test_the_slider_goes_from_the_first_observed_frame_to_the_last_of_the_forecast(page):
    shown(page)
    assert page.evaluate("document.getElementById('slider').max") == "9"
    assert index(page) == 3, "it starts at the latest observed frame"
    labels = []
    for _ in range(7):
        labels.append((page.text("#part"), page.text("#lead"), page.text("#utc")))
        page.press("ArrowRight")
    assert labels[0] == ("Observed", "latest", "00:15 UTC")
    assert labels[1] == ("Forecast", "+5 min", "00:20 UTC")
    assert labels[6] == ("Forecast", "+30 min", "00:45 UTC")
    assert page.text("#local").startswith("02:45"), "the reader is in Amsterdam"
    assert page.evaluate("document.getElementById('slider').getAttribute('aria-valuetext')") == (
        "forecast, +30 min, valid 00:45 UTC"
    )
    assert page.evaluate("[...document.querySelectorAll('#marks span')].map((s) => s.textContent)") == [
        "00:15", "00:45",
    ]  # fmt: skip


def test_keys_step_play_and_jump(page):
    shown(page)
    page.press("ArrowLeft")
    assert index(page) == 2
    page.press("End")
    assert index(page) == 9
    page.press("Home")
    assert index(page) == 0
    page.press(" ")
    assert page.evaluate("document.getElementById('play').getAttribute('aria-label')") == "Pause"
    page.until("document.getElementById('slider').value > 0")
    page.press("ArrowRight")
    assert page.evaluate("document.getElementById('play').getAttribute('aria-label')") == "Play"
    page.evaluate("document.getElementById('slider').focus()")
    page.press("Home")
    page.press("ArrowRight")
    assert index(page) == 1
    page.press(" ")
    assert page.evaluate("document.body.classList.contains('playing')")


def test_a_key_on_a_button_presses_it_once(page):
    shown(page)
    page.evaluate("document.getElementById('play').focus()")
    page.press(" ")
    assert page.evaluate("document.body.classList.contains('playing')")
    page.press("Enter")
    assert not page.evaluate("document.body.classList.contains('playing')")


def test_each_layer_shows_its_own_values(page):
    shown(page)
    assert pressed(page) == ["mean"]
    assert colour(page) == rain_colour(OBSERVED)
    page.press("ArrowRight")
    # A third of the cells, the first of those with the same mean, get the rate of the wettest member.
    assert colour(page, y=0.1) == rain_colour(5.0)
    assert colour(page, y=0.8) == rain_colour(0.3)
    choose(page, "probability")
    assert colour(page) == PROBABILITY.colours[6], "two of three members reach 1 mm/h"
    choose(page, "members")
    for number, rate in enumerate(RATES):
        choose(page, f"member_{number:02d}")
        assert colour(page) == rain_colour(rate)
        assert page.text("#note").startswith(f"Member {number + 1} of 3")
    page.press("End")
    assert colour(page) == "#ffffff", "dry"
    assert colour(page, x=0.03, y=0.9) == NO_DATA


def test_the_legend_is_of_the_layer_and_of_the_observed_frames(page):
    shown(page)
    titles = "[...document.querySelectorAll('.legend h2')].map((h) => h.textContent)"
    assert page.evaluate(titles) == ["rain rate (mm/h)"]
    choose(page, "probability")
    assert page.evaluate(titles) == ["probability, forecast frames", "rain rate (mm/h), observed frames"]
    colours = page.evaluate(
        "[...document.querySelectorAll('.legend:last-child i')].map((i) => i.style.backgroundColor)"
    )
    expected = ["#ffffff", *RAIN.colours, NO_DATA]
    assert colours == [f"rgb({', '.join(str(v) for v in bytes.fromhex(c[1:]))})" for c in expected]
    assert page.text(".scale-bar") in {"5 km", "10 km"}


def test_members_are_flipped_through_with_keys(page):
    shown(page)
    page.press("ArrowDown")
    assert pressed(page) == ["mean"], "only where members are shown"
    choose(page, "members")
    assert pressed(page) == ["members", "member_00"]
    for key, member in (("ArrowDown", 1), ("ArrowDown", 2), ("ArrowDown", 0), ("ArrowUp", 2)):
        page.press(key)
        page.until(f"document.querySelector('[data-layer=member_0{member}]').ariaPressed === 'true'")
    choose(page, "mean")
    choose(page, "members")
    assert pressed(page) == ["members", "member_02"], "the member that was looked at last"


def test_what_the_server_says_is_text_and_not_markup(page):
    shown(page)
    facts = page.text("#facts")
    for told in ("pretrained", "Radar of <b>Testland</b>", "Institute of Tests", "CC-BY-4.0"):
        assert told in facts
    assert page.text("#age") == "Made from radar of 00:15 UTC, 4 min ago"
    assert page.text("#inputs").splitlines()[-1] == "00:15 UTC observed"
    assert banner(page) == ""


def test_a_fallback_says_why_and_by_which_model(page, site, forecasts):
    shown(page)
    choose(page, "members")
    choose(page, "member_02")
    publish(site, forecasts / "1_1", 1)
    frames = [{"time": TIMES[1], "status": "interpolated", "reason": "no file"}]
    site.latest = latest(
        1, members=1, model="extrapolation", fallback="the network took too long", input_frames=frames
    )
    page.evaluate(NEW_LOOK)
    page.until("!document.getElementById('banner').hidden")
    assert banner(page) == "FALLBACK Made by extrapolation instead of pretrained: the network took too long"
    assert (
        page.evaluate("getComputedStyle(document.getElementById('banner')).backgroundColor")
        == "rgb(176, 0, 20)"
    )
    assert page.evaluate("document.title").startswith("Fallback")
    assert page.evaluate(
        "document.getElementById('kinds').hidden && document.getElementById('members').hidden"
    )
    assert page.text("#inputs .doubtful") == "00:20 UTC interpolated: no file"
    site.latest = latest()
    page.evaluate(NEW_LOOK)
    page.until("document.getElementById('banner').hidden")
    assert pressed(page) == ["members", "member_02"], (
        "the layer that was asked for, now that it is there again"
    )


def test_a_stale_forecast_says_how_old_it_is(page, site):
    shown(page)
    site.latest = latest(age=67)
    site.latest["last_cycle"].update(outcome="skipped", reason="no frame came")
    page.evaluate(NEW_LOOK)
    page.until("!document.getElementById('banner').hidden")
    assert banner(page).startswith(
        "NOT CURRENT The radar this forecast was made from is 67 min old (limit 20 min)"
    )
    assert "00:15 UTC, was skipped: no frame came" in banner(page)
    page.evaluate("document.querySelector('#banner p').id = 'same'")
    site.latest = latest(age=133)
    page.evaluate(NEW_LOOK)
    page.until("document.getElementById('banner').innerText.includes('2 h 13 min old')")
    assert page.evaluate("Boolean(document.getElementById('same'))"), "a reader that listens is told once"
    site.latest = {**latest(age=-45), "stale": True}
    page.evaluate(NEW_LOOK)
    page.until("document.getElementById('banner').innerText.includes('dated 45 min ahead')")


def test_an_alarm_of_the_verification_is_shown(page, site):
    shown(page)
    site.latest["verification"] = {
        "skill": {"30": 0.214}, "reference": "persistence", "since": "2020-05-31T00:00:00Z",
        "alarm": "worse than persistence at 30 min",
    }  # fmt: skip
    page.evaluate(NEW_LOOK)
    page.until("!document.getElementById('banner').hidden")
    assert banner(page) == "SKILL worse than persistence at 30 min"
    assert "0.21 at 30 min over persistence" in page.text("#facts")


def test_without_a_forecast_there_is_a_banner_and_no_map(browser, site):
    site.latest = {**latest(), "forecast": None}
    page = browser.page(1280, 900)
    page.open(site.url)
    page.until("!document.getElementById('banner').hidden")
    assert banner(page) == "NO FORECAST There is none to show."
    assert page.evaluate("document.getElementById('viewer').hidden")
    site.latest = latest()
    page.evaluate(NEW_LOOK)
    shown(page)
    assert banner(page) == ""
    assert page.errors == []
    page.close()


def test_a_server_that_does_not_answer_is_named_and_comes_back(page, site):
    shown(page)
    site.latest = None
    page.evaluate(NEW_LOOK)
    page.until("!document.getElementById('banner').hidden")
    assert banner(page).startswith("NO CONTACT The server cannot be reached since 00:19 UTC.")
    page.press("ArrowRight")
    assert page.text("#lead") == "+5 min", "what was loaded can still be looked at"
    site.latest = latest()
    page.evaluate(NEW_LOOK)
    page.until("document.getElementById('banner').hidden")


def test_a_new_forecast_keeps_layer_lead_time_and_play_state(page, site, forecasts):
    shown(page)
    choose(page, "members")
    choose(page, "member_01")
    for _ in range(4):
        page.press("ArrowRight")
    assert page.text("#utc") == "00:35 UTC"
    publish(site, forecasts / "1_3", 1)
    site.latest = latest(1)
    page.evaluate(NEW_LOOK)
    page.until("document.getElementById('age').innerText.includes('00:20 UTC')")
    assert (page.text("#lead"), page.text("#utc")) == ("+20 min", "00:40 UTC")
    assert pressed(page) == ["members", "member_01"]
    assert page.evaluate("document.activeElement.dataset.layer") == "member_01", "the focus stays"
    assert not page.evaluate("document.body.classList.contains('playing')")
    assert colour(page) == rain_colour(RATES[1])


def test_a_forecast_that_is_gone_makes_room_for_the_next(page, site, forecasts):
    shown(page)
    shutil.rmtree(site.folder / "forecasts")
    page.click("[data-layer=probability]")
    page.until("!document.getElementById('banner').hidden")
    assert "cannot be loaded" in banner(page)
    assert pressed(page) == ["mean"], "the picture and the button agree"
    publish(site, forecasts / "1_3", 1)
    site.latest = latest(1)
    page.evaluate(NEW_LOOK)
    page.until("document.getElementById('banner').hidden")
    choose(page, "probability")
    page.errors[:] = [error for error in page.errors if "404" not in error]


def test_a_forecast_without_pictures_says_why(page, site):
    shown(page)
    site.latest = latest(1, problems=["layers: MemoryError: no room"])
    page.evaluate(NEW_LOOK)
    page.until("!document.getElementById('banner').hidden")
    assert banner(page) == (
        "NOT LOADED The forecast of 00:20 UTC cannot be loaded. When it was made, this failed: "
        "layers: MemoryError: no room."
    )
    assert page.text("#age") == "Made from radar of 00:15 UTC, 9 min ago", "that is the one on the map"
    page.errors[:] = [error for error in page.errors if "404" not in error]


def test_a_phone_has_no_sideways_scrolling_and_room_for_thumbs(browser, site):
    page = browser.page(360, 740, pixels=2)
    page.open(site.url)
    shown(page)
    choose(page, "members")
    for width in (360, 320):
        page.resize(width, 740, pixels=2)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    sizes = page.evaluate(
        "[...document.querySelectorAll('button, input')].map((e) => e.getBoundingClientRect())"
        ".filter((box) => box.width).map((box) => Math.min(box.width, box.height))"
    )
    assert len(sizes) == 10
    assert min(sizes) >= 44
    assert page.errors == []
    page.close()


def test_the_loop_runs_by_itself_unless_the_reader_wants_no_motion(browser, site):
    for calm in (True, False):
        page = browser.page(800, 600, calm=calm)
        page.open(site.url)
        shown(page)
        assert page.evaluate("document.body.classList.contains('playing')") is not calm
        if not calm:
            page.until("document.getElementById('slider').value > 4")
        page.close()


def test_every_control_is_reached_with_tab_and_shows_it(page):
    shown(page)
    order = []
    for _ in range(7):
        page.press("Tab")
        order.append(page.evaluate("document.activeElement.id || document.activeElement.dataset.layer"))
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert order == ["back", "play", "on", "slider", "mean", "probability", "members"]
