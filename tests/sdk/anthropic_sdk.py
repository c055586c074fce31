"""The official Anthropic SDK for Python against the gateway. Environment: see runner.py."""

import json
import sys
import time

import anthropic
from anthropic import Anthropic, DefaultHttpxClient, Omit

sys.dont_write_bytecode = True
from runner import (
    BASE_URL, BODY_LIMIT, DIRECT, KEY, LIMITED_KEY, PREFIX, TEXT, Wire, at_once, equal, gateway, limited, main, raises,
    rate_limits, test, told_to_wait, waits_as_told,
)

wire = Wire()
ROOT = BASE_URL if DIRECT else f"{BASE_URL}/anthropic"


def client(**options):
    wire.clear()
    options = {"base_url": ROOT, "max_retries": 0, "timeout": 20.0, **options}
    if "auth_token" not in options:
        options.setdefault("api_key", KEY)
    return Anthropic(http_client=DefaultHttpxClient(event_hooks=wire.hooks()), **options)


HELLO = [{"role": "user", "content": "Say hello."}]
TOOLS = [{
    "name": "weather",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}]


def say(model="claude-test", c=None, **options):
    return (c or client()).messages.create(model=model, max_tokens=64, messages=HELLO, **options)


def status_error(error, status, kind=None, code=None, passed=False):
    equal(error.status_code, status, "status")
    if DIRECT:
        return
    assert error.request_id, "no request id"
    equal(error.response.headers["content-type"].split(";")[0], "application/json", "content type")
    equal(error.response.headers.get("x-request-id"), error.request_id, "x-request-id")
    body = error.body
    equal(body["type"], "error", "envelope")
    if not passed:  # a provider's own error keeps its body
        equal(body["request_id"], error.request_id, "request_id in the body")
    assert body["error"]["message"], "no message"
    if kind:
        equal(body["error"]["type"], kind, "type")
    if code:
        equal(body["error"]["details"]["error_code"], code, "error_code")
        if hasattr(error, "error_code"):
            equal(error.error_code, code, "error_code attribute")


# Messages


@test
def messages():
    answer = say()
    equal((answer.type, answer.role, answer.model), ("message", "assistant", "claude-test"))
    equal(answer.content[0].text, TEXT)
    equal(answer.stop_reason, "end_turn")
    equal((answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.cache_read_input_tokens), (11, 7, 4))
    assert answer._request_id, "no request-id"


@gateway
def messages_headers():
    say()
    headers = wire.responses[-1].headers
    for name in ("x-request-id", "request-id"):
        assert headers.get(name), f"no {name}"


@gateway
def messages_at_the_root():
    # One base URL serves both SDKs.
    equal(say(c=client(base_url=BASE_URL)).content[0].text, TEXT)
    with raises(anthropic.NotFoundError) as caught:
        say("no-such-model", c=client(base_url=BASE_URL))
    status_error(caught.error, 404, "not_found_error", "model_not_found")


@test
def both_credentials():
    # A bearer token, and the X-Api-Key of older clients.
    equal(say(c=client(auth_token=KEY)).content[0].text, TEXT)
    equal(say(extra_headers={"X-Api-Key": KEY, "Authorization": Omit()}).content[0].text, TEXT)
    sent = wire.requests[-1].headers
    assert "authorization" not in sent and sent["x-api-key"] == KEY, dict(sent)


@test
def messages_stream():
    events = list(say(stream=True))
    kinds = [event.type for event in events]
    equal((kinds[0], kinds[-2], kinds[-1]), ("message_start", "message_delta", "message_stop"))
    equal(events[0].message.model, "claude-test")
    equal("".join(event.delta.text for event in events if event.type == "content_block_delta"), TEXT)
    equal((events[-2].usage.output_tokens, events[-2].delta.stop_reason), (7, "end_turn"))
    headers = wire.responses[-1].headers
    assert headers["content-type"].startswith("text/event-stream"), headers["content-type"]
    assert "content-encoding" not in headers, "a compressed stream"
    if not DIRECT:
        equal(headers.get("x-accel-buffering"), "no", "x-accel-buffering")


@test
def messages_stream_helper():
    with client().messages.stream(model="claude-test", max_tokens=64, messages=HELLO) as stream:
        equal("".join(stream.text_stream), TEXT)
        final = stream.get_final_message()
    equal(final.content[0].text, TEXT)
    equal((final.usage.input_tokens, final.usage.output_tokens, final.stop_reason), (11, 7, "end_turn"))


@test
def messages_stream_at_once():
    times = [time.monotonic() for _ in say(PREFIX + "slow", stream=True)]
    assert times[-1] - times[0] > 0.3, f"the stream was held back: {times[-1] - times[0]:.3f} s from first to last"


@test
def messages_tools():
    answer = say(tools=TOOLS)
    call = answer.content[-1]
    equal((answer.stop_reason, call.type, call.name, call.input), ("tool_use", "tool_use", "weather", {"city": "Paris"}))
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}
    turns = [*HELLO, {"role": "assistant", "content": [call.model_dump(exclude_none=True)]}, {"role": "user", "content": [result]}]
    answer = client().messages.create(model="claude-test", max_tokens=64, messages=turns, tools=TOOLS)
    equal(answer.content[0].text, TEXT)


@test
def messages_tools_stream():
    with client().messages.stream(model="claude-test", max_tokens=64, messages=HELLO, tools=TOOLS) as stream:
        call = stream.get_final_message().content[-1]
    equal((call.type, call.name, call.input), ("tool_use", "weather", {"city": "Paris"}))


@test
def count_tokens():
    equal(client().messages.count_tokens(model="claude-test", messages=HELLO).input_tokens, 11)


@gateway
def renamed_model():
    model = PREFIX + "renamed"
    equal(say(model).model, model)
    equal(next(iter(say(model, stream=True))).message.model, model)


# Forwarding


@test
def beta_and_version_are_forwarded():
    answer = client().beta.messages.create(
        model=PREFIX + "echo", max_tokens=64, messages=HELLO, betas=["first-2025-01-01", "second-2025-02-02"])
    seen = json.loads(answer.content[0].text)
    headers = {name.lower(): value for name, value in seen["headers"]}
    sent = wire.requests[-1]
    assert "first-2025-01-01" in sent.headers["anthropic-beta"], dict(sent.headers)
    # Older generations add `?beta=true` to beta calls.
    equal(seen["path"].partition("?")[2], sent.url.query.decode(), "query")
    for name in ("anthropic-beta", "anthropic-version"):
        equal(headers[name], sent.headers[name], name)
    equal(headers["x-stainless-retry-count"], "0")
    if not DIRECT:
        assert KEY not in answer.content[0].text, "the client's key reached the provider"


@test
def beta_query_is_forwarded():
    # Claude Code asks this way whatever the SDK does.
    seen = json.loads(say(PREFIX + "echo", extra_query={"beta": "true"}).content[0].text)
    assert seen["path"].endswith("/v1/messages?beta=true"), seen["path"]


@test
def beta_stream():
    with client().beta.messages.stream(model="claude-test", max_tokens=64, messages=HELLO, betas=["first-2025-01-01"]) as stream:
        equal(stream.get_final_message().content[0].text, TEXT)


@test
def retry_count_is_forwarded():
    # The provider answers 500 until a request says that it is a retry.
    equal(say(PREFIX + "flaky", c=client(max_retries=2)).content[0].text, TEXT)
    equal([request.headers["x-stainless-retry-count"] for request in wire.requests], ["0", "1"])


# Models


@test
def models_list():
    names = []
    for model in client().models.list():
        assert model.display_name and model.created_at, model
        equal(model.type, "model")
        names.append(model.id)
        assert len(names) < 1000 and len(wire.requests) < 5, "endless paging"
    assert "claude-test" in names, names
    equal(len(wire.requests), 1, "requests")
    if not DIRECT:
        assert "forbidden-model" not in names, "a model that the key may not use"


@test
def models_list_with_limit():
    names = []
    for model in client().models.list(limit=1000):
        names.append(model.id)
        assert len(wire.requests) < 5, "endless paging"
    assert "claude-test" in names, names


@test
def models_retrieve():
    model = client().models.retrieve("claude-test")
    equal((model.id, model.type), ("claude-test", "model"))


# Errors


@gateway
def error_400_missing_model():
    with raises(anthropic.BadRequestError) as caught:
        client().post("/v1/messages", body={"max_tokens": 1, "messages": HELLO}, cast_to=object)
    status_error(caught.error, 400, "invalid_request_error", "missing_required_parameter")


@test
def error_400_upstream():
    with raises(anthropic.BadRequestError) as caught:
        say(PREFIX + "status-400")
    status_error(caught.error, 400, "invalid_request_error", passed=True)
    assert "scripted status 400" in str(caught.error), caught.error


@gateway
def error_401_missing_key():
    with raises(anthropic.AuthenticationError) as caught:
        say(extra_headers={"Authorization": Omit(), "X-Api-Key": Omit()})
    sent = wire.requests[-1].headers
    assert "authorization" not in sent and "x-api-key" not in sent, dict(sent)
    status_error(caught.error, 401, "authentication_error", "missing_api_key")


@gateway
def error_401_wrong_key():
    with raises(anthropic.AuthenticationError) as caught:
        say(c=client(api_key="sk-" + "0" * 43))
    status_error(caught.error, 401, "authentication_error", "invalid_api_key")
    assert "0" * 12 not in str(caught.error), "the key is in the message"


@gateway
def error_403_model_not_allowed():
    with raises(anthropic.PermissionDeniedError) as caught:
        say("forbidden-model")
    status_error(caught.error, 403, "permission_error", "model_not_allowed")


@gateway
def error_404_unknown_model():
    with raises(anthropic.NotFoundError) as caught:
        say("no-such-model")
    status_error(caught.error, 404, "not_found_error", "model_not_found")
    with raises(anthropic.NotFoundError):
        client().models.retrieve("no-such-model")


@gateway
def error_413_body_too_large():
    with raises(anthropic.APIStatusError) as caught:
        client().messages.create(model="claude-test", max_tokens=1, messages=[{"role": "user", "content": "x" * (BODY_LIMIT * 2)}])
    status_error(caught.error, 413, "request_too_large", "request_too_large")


@test
def error_429_upstream():
    with raises(anthropic.RateLimitError) as caught:
        say(PREFIX + "status-429")
    status_error(caught.error, 429, "rate_limit_error", "upstream_rate_limited")
    assert 1 <= int(caught.error.response.headers["retry-after"]) <= 7, caught.error.response.headers["retry-after"]


@test
def error_500_upstream():
    with raises(anthropic.InternalServerError) as caught:
        say(PREFIX + "status-500")
    status_error(caught.error, 500 if DIRECT else 502, "api_error", "upstream_error")


@gateway
def error_503_preview_is_not_retried():
    with raises(anthropic.APIStatusError) as caught:
        say("preview-model", c=client(max_retries=2))
    status_error(caught.error, 503, "api_error", "model_preview")
    equal(caught.error.response.headers.get("x-should-retry"), "false", "x-should-retry")
    equal(len(wire.requests), 1, "requests")


@gateway
def error_504_upstream_stalls():
    start = time.monotonic()
    with raises(anthropic.APIStatusError) as caught:
        say(PREFIX + "stall")
    status_error(caught.error, 504, "timeout_error", "upstream_timeout")
    assert time.monotonic() - start < 10, "too late"


@gateway
def error_mid_stream():
    for model in ("cut", "cut-clean"):
        events = []
        with raises(anthropic.APIStatusError) as caught:
            for event in say(PREFIX + model, stream=True):
                events.append(event)
        equal(caught.error.body["type"], "error", f"{model}: envelope")
        assert caught.error.body["error"]["type"] and caught.error.body["error"]["message"], f"{model}: an empty error"
        assert events, f"{model}: nothing before the error"
        with raises(anthropic.APIStatusError):
            with client().messages.stream(model=PREFIX + model, max_tokens=64, messages=HELLO) as stream:
                stream.get_final_message()


# Rate limits


def patient(**options):
    return client(api_key=LIMITED_KEY, max_retries=2, **options)


def limits(headers):
    rate_limits(headers, "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset")
    rate_limits(headers, *(f"anthropic-ratelimit-requests-{what}" for what in ("limit", "remaining", "reset")))


@limited
def rate_limit_waits_as_told():
    c = patient()
    waits_as_told(wire, lambda: equal(say(c=c).content[0].text, TEXT))
    equal([request.headers["x-stainless-retry-count"] for request in wire.requests], ["0", "1"])


@limited
def rate_limit_raises():
    c = patient()

    def impatient():
        try:
            return say(c=c.with_options(max_retries=0))
        except anthropic.RateLimitError as error:
            return error

    error = at_once(wire, lambda: say(c=c), impatient)
    assert isinstance(error, anthropic.RateLimitError), f"not refused: {error}"
    status_error(error, 429, "rate_limit_error", "rate_limit_exceeded")
    told_to_wait(error.response.headers)
    limits(error.response.headers)


@limited
def rate_limit_headers():
    equal(say(c=patient()).content[0].text, TEXT)
    limits(wire.responses[-1].headers)
    events = list(say(c=patient(), stream=True))
    equal("".join(event.delta.text for event in events if event.type == "content_block_delta"), TEXT)
    assert wire.responses[-1].headers["content-type"].startswith("text/event-stream")
    limits(wire.responses[-1].headers)
    say(c=patient(base_url=BASE_URL))  # the mount of the other SDK
    limits(wire.responses[-1].headers)


if __name__ == "__main__":
    main(f"anthropic-python {anthropic.__version__}")
