"""What the SDK scripts share: settings from the environment, and a runner of plain functions."""

import contextlib
import datetime
import os
import re
import sys
import time
import traceback

# The gateway's address; KEY is a key that it knows.
BASE_URL = os.environ.get("BASE_URL", "http://127.0.0.1:8080").rstrip("/")
KEY = os.environ.get("KEY", "sk-test")
# Straight to the scripted provider, without a gateway: tests of the gateway's own doing are left out.
DIRECT = bool(os.environ.get("DIRECT"))
# Before the names of the scenario models, for a gateway that has them twice, once per provider protocol.
PREFIX = os.environ.get("SCENARIO_PREFIX", "")
# `limits.body` of the gateway under test.
BODY_LIMIT = int(os.environ.get("BODY_LIMIT", str(1 << 20)))
# A second key, of a plan of 60 requests a minute and a burst of one: one request a second.
LIMITED_KEY = os.environ.get("LIMITED_KEY", "")
# Run only the tests whose name contains this.
ONLY = os.environ.get("ONLY", "")

# What tests/support/provider answers.
TEXT = "Hello from the provider."
SPEECH = bytes((i * 7 + i // 256) % 256 for i in range(8192))

# The SDKs would take keys and addresses from here.
for name in list(os.environ):
    if name.startswith(("OPENAI_", "ANTHROPIC_")) or name.lower() in ("http_proxy", "https_proxy", "all_proxy"):
        del os.environ[name]

tests = []


def test(function):
    tests.append((function, True))
    return function


def gateway(function):
    """A test of what only the gateway does."""
    tests.append((function, not DIRECT))
    return function


def limited(function):
    """A test of what the gateway does with LIMITED_KEY."""
    tests.append((function, bool(LIMITED_KEY) and not DIRECT))
    return function


class Wire:
    """Counts and keeps what goes over the wire, and when: hooks for the SDK's HTTP client."""

    def __init__(self):
        self.clear()

    def hooks(self):
        return {"request": [self.request], "response": [self.response]}

    def request(self, request):
        self.requests.append(request)
        self.sent.append(time.monotonic())

    def response(self, response):
        self.responses.append(response)
        self.received.append(time.monotonic())

    def clear(self):
        self.requests, self.responses, self.sent, self.received = [], [], [], []


@contextlib.contextmanager
def raises(kind):
    """Asserts that the block raises exactly this kind of error, and gives it out in `.error`."""

    class Caught:
        error = None

    caught = Caught()
    try:
        yield caught
    except kind as error:
        caught.error = error
    except Exception as error:
        raise AssertionError(f"expected {kind.__name__}, got {type(error).__name__}: {error}") from error
    else:
        raise AssertionError(f"expected {kind.__name__}, nothing was raised")


def equal(got, want, what=""):
    assert got == want, f"{what or 'value'}: got {got!r}, want {want!r}"


# Rate limits


def at_once(wire, first, second):
    """What `second` gives right after `first`: within the second in which LIMITED_KEY has no other request."""
    for _ in range(5):
        first()
        taken = wire.sent[-1]
        wire.clear()
        result = second()
        # On a machine so slow that a second has passed, the other request was there by right.
        if wire.responses[0].status_code == 429 or wire.received[0] - taken < 1:
            return result
    raise AssertionError("never two calls within a second")


def waits_as_told(wire, call):
    """`call` succeeds twice in a row, for the SDK waits in between as long as the refusal says."""
    at_once(wire, call, call)
    # An SDK that waits by its own measure (half a second) is refused twice.
    equal([response.status_code for response in wire.responses], [429, 200], "statuses")
    told = told_to_wait(wire.responses[0].headers)
    waited = (wire.sent[1] - wire.received[0]) * 1000
    assert waited >= told - 10, f"told to wait {told} ms, waited {waited:.0f}"  # timers may be early


def told_to_wait(headers):
    """The milliseconds that a refusal for the rate says, in both ways of saying it."""
    wait = int(headers["retry-after-ms"])
    assert 0 < wait <= 1000, f"retry-after-ms: {wait}"
    equal(headers["retry-after"], "1", "retry-after")
    return wait


def rate_limits(headers, limit, remaining, reset, read_reset=None):
    """The three headers of one dialect, named in the order of the arguments."""
    equal(int(headers[limit]), 60, limit)
    assert int(headers[remaining]) in (0, 1), f"{remaining}: {headers[remaining]}"
    ahead = (read_reset or seconds_ahead)(headers[reset])
    # Full again within a second. Wide enough for any machine, and too narrow for a mistaken unit or zone.
    assert -60 < ahead < 60, f"{reset}: {headers[reset]}"


def seconds_ahead(text):
    """How far off a time of RFC 3339 is, which is ISO 8601 too."""
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", text), f"not a time: {text}"
    # Python before 3.11 reads neither `Z` nor any number of decimals.
    text = re.sub(r"\.\d+", "", text.replace("Z", "+00:00"))
    return (datetime.datetime.fromisoformat(text) - datetime.datetime.now(datetime.timezone.utc)).total_seconds()


def main(title):
    failures = 0
    print(f"# {title}, python {sys.version.split()[0]}, {BASE_URL}{' (direct)' if DIRECT else ''}", flush=True)
    for function, applies in tests:
        name = function.__name__
        if ONLY not in name:
            continue
        if not applies:
            print(f"skip {name}", flush=True)
            continue
        start = time.monotonic()
        try:
            function()
            print(f"ok {name} ({time.monotonic() - start:.2f} s)", flush=True)
        except Exception as error:
            failures += 1
            where = traceback.extract_tb(error.__traceback__)[-1]
            own = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == function.__code__.co_filename]
            line = (own or [where])[-1].lineno
            print(f"FAIL {name}: line {line}: {type(error).__name__}: {error}", flush=True)
    print(f"# {failures} failed", flush=True)
    sys.exit(1 if failures else 0)
