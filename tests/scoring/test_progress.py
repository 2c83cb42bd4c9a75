"""Rates, time left and dollars of a job, and what a push gateway is told."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from rayclf.errors import ResourceError
from rayclf.scoring.progress import Progress, push_summary

SUMMARY = {"output": "s3://b/out", "rows": 10, "errors": 1, "tokens": 99, "units": 2}
TIMES = {"seconds": 2.0, "rows_per_second": 5.0, "dollars": None}


def record(rows: int, began: float, ended: float) -> dict[str, object]:
    return {"rows": rows, "errors": 1, "tokens": 10 * rows, "bytes": 5, "began": began, "ended": ended}


def test_rates_count_the_time_in_which_units_were_scored() -> None:
    progress = Progress(total=1000, done=100, price_per_hour=3600.0, spent_before=50.0)
    assert progress.event()["seconds_left"] is None
    progress.add(record(100, 10.0, 12.0))
    progress.add(record(100, 11.0, 14.0))
    event = progress.event()
    assert (event["rows"], event["of"], event["errors"]) == (300, 1000, 2)
    assert (event["rows_per_second"], event["tokens_per_second"]) == (50.0, 500.0)
    assert event["seconds_left"] == 14.0
    assert event["dollars"] == pytest.approx(50, abs=5)  # a dollar a second, those of the earlier run too
    assert event["dollars_in_all"] == pytest.approx(event["dollars"] + 14)
    assert Progress(total=1).event()["dollars"] is None


def test_a_push_gateway_is_told() -> None:
    told: list[tuple[str, str]] = []

    class Gateway(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            told.append((self.path, self.rfile.read(int(self.headers["Content-Length"])).decode()))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Gateway) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        push_summary(f"http://127.0.0.1:{server.server_port}", SUMMARY | TIMES)
        server.shutdown()
    ((path, text),) = told
    assert path.startswith("/metrics/job/rayclf_score/")
    assert "rayclf_score_rows 10.0" in text
    assert "dollars" not in text


def test_a_gateway_that_is_not_there() -> None:
    with pytest.raises(ResourceError, match="--push-gateway http://127.0.0.1:9: cannot be reached"):
        push_summary("http://127.0.0.1:9", SUMMARY | TIMES)
