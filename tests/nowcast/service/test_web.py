import json
import socket
import threading
from contextlib import suppress
from http.client import HTTPConnection

import pytest
from replay import START, ReplayClock, manifest_of

from data_prep.schema import RefusedInput
from nowcast.service import web
from nowcast.service.health import Health
from nowcast.service.publishing import Publisher
from nowcast.service.settings import Http, Policy, Retention
from nowcast.service.web import serving


class Site:
    """A server on one published forecast."""

    def __init__(self, folder, port: int, clock: ReplayClock, health: Health) -> None:
        self.folder, self.port, self.clock, self.health = folder, port, clock, health

    def ask(self, path: str, method: str = "GET", **more) -> tuple[int, bytes, dict]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=5)
        connection.request(method, path, **more)
        answer = connection.getresponse()
        told = answer.status, answer.read(), dict(answer.getheaders())
        connection.close()
        return told


@pytest.fixture
def site(tmp_path):
    publisher = Publisher(tmp_path, Retention(free_gigabytes=0))
    with publisher.made(START) as folder:
        (folder / "a_mean.nc").write_bytes(b"rain")
        (folder / "b.png").write_bytes(b"picture")
        publisher.publish(folder, {"roles": {}, **manifest_of(START)})
    (tmp_path / "forecasts/20240601T1200Z/secret.txt").write_text("not in the manifest")
    (tmp_path / "forecasts/secret.txt").write_text("secret")
    clock = ReplayClock()
    health = Health(clock, Policy())
    health.latest_is(publisher.latest)
    with serving(Http(port=0, connections=4), health, publisher) as (_, port):
        yield Site(tmp_path, port, clock, health)


def test_a_forecast_and_what_is_said_of_it_can_be_read(site):
    status, content, headers = site.ask("/forecasts/20240601T1200Z/a_mean.nc")
    assert (status, content, headers["Content-Type"]) == (200, b"rain", "application/x-netcdf")
    assert site.ask("/forecasts/20240601T1200Z/b.png")[2]["Content-Type"] == "image/png"
    told = json.loads(site.ask("/latest.json")[1])
    assert told["forecast"] == json.loads(site.ask("/forecasts/20240601T1200Z/manifest.json")[1])
    assert (told["age_minutes"], told["stale"]) == (0, False)


def test_the_page_needs_nothing_from_elsewhere_and_says_so(site):
    status, page, headers = site.ask("/")
    assert status == 200
    assert page.startswith(b"<!doctype html>")
    assert headers["Content-Security-Policy"].startswith("default-src 'self'")
    assert site.ask("/viewer.js")[2]["Content-Type"].startswith("text/javascript")
    assert site.ask("/viewer.css")[2]["Content-Type"].startswith("text/css")


def test_readiness_ends_when_the_forecast_is_stale_and_life_when_nothing_moves(site):
    assert site.ask("/readyz")[0] == site.ask("/healthz")[0] == 200
    site.clock.go(20.5 * 60)
    site.health.beat()
    assert site.ask("/readyz")[0] == 503
    assert json.loads(site.ask("/latest.json")[1])["stale"] is True
    assert site.ask("/healthz")[0] == 200
    site.clock.go(301)
    assert site.ask("/healthz")[0] == 503


def test_metrics_are_in_the_format_of_prometheus(site):
    text = site.ask("/metrics")[1].decode()
    assert "# TYPE nowcast_cycles_total counter" in text
    assert "nowcast_stale 0.0" in text


@pytest.mark.parametrize(
    "path",
    [
        "/forecasts/20240601T1200Z/secret.txt", "/forecasts/secret.txt", "/forecasts/20240601T1200Z/",
        "/forecasts/20240601T1200Z/../secret.txt", "/forecasts/20240601T1200Z/..%2f..%2f..%2fetc/passwd",
        "/forecasts/../../etc/passwd", "/../../../../etc/passwd", "//etc/passwd", "/%2e%2e/%2e%2e/etc/passwd",
        "/forecasts/20240601T1205Z/a_mean.nc", "/journal.jsonl", "/.lock", "/index.html/..", "/words.js/",
        "/forecasts/20240601T1200Z/a_mean.nc%00.png", "/viewer/__init__.py", "/__init__.py", "/favicon.ico",
    ],
)  # fmt: skip
def test_nothing_else_is_answered(site, path):
    status, content, _ = site.ask(path)
    assert status == 404
    assert content == b"there is nothing here\n"


def test_a_link_in_the_place_of_a_file_is_not_followed(site):
    path = site.folder / "forecasts/20240601T1200Z/a_mean.nc"
    path.unlink()
    path.symlink_to("/etc/passwd")
    assert site.ask("/forecasts/20240601T1200Z/a_mean.nc")[:2] == (404, b"it was removed\n")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_it_only_reads(site, method):
    assert site.ask("/latest.json", method)[0] == 501


def test_a_request_with_content_is_refused(site):
    assert site.ask("/latest.json", body=b"x" * 10)[0] == 400


def test_a_head_has_no_content(site):
    status, content, headers = site.ask("/forecasts/20240601T1200Z/a_mean.nc", "HEAD")
    assert (status, content, headers["Content-Length"]) == (200, b"", "4")


def test_requests_beyond_a_bound_are_told_to_come_again_and_others_are_answered_after(site):
    held = [socket.create_connection(("127.0.0.1", site.port)) for _ in range(4)]
    for one in held:
        one.sendall(b"GET /latest.json HTTP/1.1\r\n")  # and no more
    status = 0
    for _ in range(20):  # the last of them may not be held yet
        try:
            status = site.ask("/healthz")[0]
        except ConnectionError:
            status = 503
        if status == 503:
            break
    assert status == 503
    for one in held:
        one.close()
    for _ in range(50):
        try:
            if site.ask("/healthz")[0] == 200:
                break
        except ConnectionError:
            pass
        threading.Event().wait(0.05)
    else:
        pytest.fail("no request is answered any more")


def test_slow_requests_are_cut_off_even_if_a_byte_comes_now_and_then(site, monkeypatch):
    monkeypatch.setattr(web._Handler, "timeout", 0.4)
    with socket.create_connection(("127.0.0.1", site.port), timeout=5) as slow:
        slow.sendall(b"GET /latest.json HTTP/1.1\r\n")
        sent = 0
        with suppress(OSError):
            while sent < 30:
                slow.sendall(b"a")
                threading.Event().wait(0.1)
                sent += 1
        assert sent < 20


@pytest.mark.parametrize(
    "line", [b"GET /" + b"a" * 70000, b"\x00\xff\xfe", b"GET", b"GET / HTTP/9.9\r\n\r\n"]
)
def test_what_is_no_request_ends_with_an_error_and_the_server_lives(site, line):
    with socket.create_connection(("127.0.0.1", site.port), timeout=5) as odd:
        odd.sendall(line + b"\r\n\r\n")
        odd.recv(100)
    assert site.ask("/healthz")[0] == 200


def test_an_address_that_is_taken_is_an_error(site, tmp_path):
    with (
        pytest.raises(RefusedInput, match="in use"),
        serving(Http(port=site.port), site.health, Publisher(tmp_path / "other", Retention())),
    ):
        pass
