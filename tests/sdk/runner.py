"""What the SDK scripts share: settings from the environment, and a runner of plain functions."""

import contextlib
import os
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
# The gateway keeps rate limits: their headers are expected.
RATE_LIMITS = bool(os.environ.get("RATE_LIMITS"))
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
    tests.append((function, False))
    return function


def gateway(function):
    """A test of what only the gateway does."""
    tests.append((function, True))
    return function


class Wire:
    """Counts and keeps what goes over the wire: hooks for the SDK's HTTP client."""

    def __init__(self):
        self.requests, self.responses = [], []

    def hooks(self):
        return {"request": [self.requests.append], "response": [self.responses.append]}

    def clear(self):
        self.requests.clear()
        self.responses.clear()


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


def main(title):
    failures = 0
    print(f"# {title}, python {sys.version.split()[0]}, {BASE_URL}{' (direct)' if DIRECT else ''}", flush=True)
    for function, needs_gateway in tests:
        name = function.__name__
        if ONLY not in name:
            continue
        if needs_gateway and DIRECT:
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
