"""The official OpenAI SDK for Python against the gateway. Environment: see runner.py.

Above 400 lines: one test for each promise of the surface, of which the SDK covers nearly all.
"""

import base64
import json
import re
import struct
import sys
import time
import warnings

import openai
from openai import DefaultHttpxClient, Omit, OpenAI

sys.dont_write_bytecode = True
from runner import (
    BASE_URL, BODY_LIMIT, DIRECT, KEY, LIMITED_KEY, PREFIX, SPEECH, TEXT, Wire, at_once, equal, gateway, limited, main,
    raises, rate_limits, test, told_to_wait, waits_as_told,
)

wire = Wire()
warnings.simplefilter("ignore", DeprecationWarning)


def client(**options):
    wire.clear()
    options = {"api_key": KEY, "base_url": f"{BASE_URL}/v1", "max_retries": 0, "timeout": 20.0, **options}
    return OpenAI(http_client=DefaultHttpxClient(event_hooks=wire.hooks()), **options)


HELLO = [{"role": "user", "content": "Say hello."}]
TOOLS = [{
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}]


def say(model="gpt-test", c=None, **options):
    return (c or client()).chat.completions.create(model=model, messages=HELLO, **options)


def status_error(error, status, code=None, kind=None, param=None):
    equal(error.status_code, status, "status")
    if DIRECT:
        return
    assert error.request_id, "no request id"
    assert error.message, "no message"
    assert error.type, "no type"
    equal(error.response.headers["content-type"].split(";")[0], "application/json", "content type")
    assert error.response.headers.get("request-id") == error.request_id, "request-id differs from x-request-id"
    if code:
        equal(error.code, code, "code")
    if kind:
        equal(error.type, kind, "type")
    if param:
        equal(error.param, param, "param")


# Chat


@test
def chat():
    answer = say()
    equal(answer.object, "chat.completion")
    equal(answer.model, "gpt-test")
    equal(answer.choices[0].message.content, TEXT)
    equal(answer.choices[0].finish_reason, "stop")
    equal((answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens), (11, 7, 18))
    equal(answer.usage.prompt_tokens_details.cached_tokens, 4)
    assert answer._request_id, "no x-request-id"


@gateway
def chat_headers():
    say()
    headers = wire.responses[-1].headers
    for name in ("x-request-id", "request-id"):
        assert headers.get(name), f"no {name}"


@test
def chat_stream():
    words, finish = [], []
    for chunk in say(stream=True):
        equal(chunk.object, "chat.completion.chunk")
        equal(chunk.model, "gpt-test")
        choice = chunk.choices[0]  # a usage-only chunk that nobody asked for would fail here
        assert chunk.usage is None, "usage that nobody asked for"
        words.append(choice.delta.content or "")
        finish.append(choice.finish_reason)
    equal("".join(words), TEXT)
    equal(finish[-1], "stop")
    assert len(words) >= 4, f"only {len(words)} chunks"
    headers = wire.responses[-1].headers
    assert headers["content-type"].startswith("text/event-stream"), headers["content-type"]
    assert "content-encoding" not in headers, "a compressed stream"
    if not DIRECT:
        equal(headers.get("x-accel-buffering"), "no", "x-accel-buffering")
        assert headers.get("x-request-id"), "no x-request-id on a stream"


@test
def chat_stream_usage():
    chunks = list(say(stream=True, stream_options={"include_usage": True}))
    equal(chunks[-1].choices, [])
    equal(chunks[-1].usage.total_tokens, 18)
    assert all(len(chunk.choices) == 1 for chunk in chunks[:-1])
    equal("".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]), TEXT)


@test
def chat_stream_helper():
    with client().chat.completions.stream(model="gpt-test", messages=HELLO) as stream:
        for _ in stream:
            pass
        equal(stream.get_final_completion().choices[0].message.content, TEXT)


@test
def chat_stream_at_once():
    times = [time.monotonic() for _ in say(PREFIX + "slow", stream=True)]
    assert times[-1] - times[0] > 0.3, f"the stream was held back: {times[-1] - times[0]:.3f} s from first to last"


@test
def chat_tools():
    call = say(tools=TOOLS).choices[0]
    equal(call.finish_reason, "tool_calls")
    equal(call.message.tool_calls[0].function.name, "weather")
    equal(json.loads(call.message.tool_calls[0].function.arguments), {"city": "Paris"})
    messages = [*HELLO, call.message, {"role": "tool", "tool_call_id": call.message.tool_calls[0].id, "content": "sunny"}]
    answer = client().chat.completions.create(model="gpt-test", messages=messages, tools=TOOLS)
    equal(answer.choices[0].message.content, TEXT)


@test
def chat_tools_stream():
    names, arguments, finish = [], [], None
    for chunk in say(stream=True, tools=TOOLS):
        choice = chunk.choices[0]
        for call in choice.delta.tool_calls or []:
            equal(call.index, 0)
            names.append(call.function.name or "")
            arguments.append(call.function.arguments or "")
        finish = choice.finish_reason or finish
    equal("".join(names), "weather")
    equal(json.loads("".join(arguments)), {"city": "Paris"})
    equal(finish, "tool_calls")


@gateway
def renamed_model():
    equal(say("renamed").model, "renamed")
    equal({chunk.model for chunk in say("renamed", stream=True)}, {"renamed"})
    events = list(client().responses.create(model="renamed", input="hi", stream=True))
    equal(events[-1].response.model, "renamed")


@test
def chat_parallel_connections():
    # One client, its pool and keep-alive: answers must not mix.
    c = client()
    for _ in range(5):
        equal(say(c=c).choices[0].message.content, TEXT)
        with say(c=c, stream=True) as stream:
            next(iter(stream))  # and leave in the middle
    equal(say(c=c).choices[0].message.content, TEXT)


@test
def completions():
    equal(client().completions.create(model="gpt-test", prompt="hi").choices[0].text, TEXT)
    chunks = list(client().completions.create(model="gpt-test", prompt="hi", stream=True))
    equal("".join(chunk.choices[0].text for chunk in chunks), TEXT)


# Other operations


@test
def embeddings_base64_by_default():
    answer = client().embeddings.create(model="embed-test", input=["a", "b"])
    equal(json.loads(wire.requests[-1].content).get("encoding_format"), "base64", "encoding_format sent")
    equal([entry.embedding for entry in answer.data], [[0.5, -0.25, 0.125, 0.0], [0.5, -0.25, 0.125, 1.0]])
    equal((answer.model, answer.usage.total_tokens), ("embed-test", 11))


@test
def embeddings_explicit():
    answer = client().embeddings.create(model="embed-test", input="a", encoding_format="float")
    equal(answer.data[0].embedding, [0.5, -0.25, 0.125, 0.0])
    answer = client().embeddings.create(model="embed-test", input="a", encoding_format="base64")
    equal(struct.unpack("<4f", base64.b64decode(answer.data[0].embedding)), (0.5, -0.25, 0.125, 0.0))


@test
def images_generate():
    answer = client().images.generate(model="image-test", prompt="a gate", n=2)
    equal([base64.b64decode(image.b64_json) for image in answer.data], [b"image 0", b"image 1"])
    equal(answer.usage.output_tokens, 200)


@test
def images_edit():
    answer = client().images.edit(model="image-test", prompt="a gate", image=("gate.png", b"\x89PNG\r\n" * 100, "image/png"))
    equal(base64.b64decode(answer.data[0].b64_json), b"image 0")


@test
def audio_speech():
    answer = client().audio.speech.create(model="speech-test", voice="alloy", input="hello")
    equal(answer.response.headers["content-type"], "audio/mpeg")
    assert answer.content == SPEECH, "the bytes differ"
    with client().audio.speech.with_streaming_response.create(model="speech-test", voice="alloy", input="hello") as answer:
        assert b"".join(answer.iter_bytes()) == SPEECH, "the streamed bytes differ"


@test
def audio_transcriptions():
    voice = bytes(range(256)) * 1000
    answer = client().audio.transcriptions.create(model="transcribe-test", file=("voice.mp3", voice, "audio/mpeg"))
    equal(answer.text, f"{TEXT} 256000 bytes.")
    text = client().audio.transcriptions.create(
        model="transcribe-test", file=("voice.mp3", voice, "audio/mpeg"), response_format="text")
    equal(text.strip(), f"{TEXT} 256000 bytes.")


@test
def audio_transcriptions_stream():
    events = client().audio.transcriptions.create(model="transcribe-test", file=("v.mp3", b"abc", "audio/mpeg"), stream=True)
    equal([event.type for event in events], ["transcript.text.delta", "transcript.text.done"])


@test
def audio_translations():
    answer = client().audio.translations.create(model="transcribe-test", file=("v.mp3", b"abc", "audio/mpeg"))
    equal(answer.text, f"{TEXT} 3 bytes.")


@test
def responses():
    answer = client().responses.create(model="gpt-test", input="hi")
    equal((answer.output_text, answer.status, answer.model), (TEXT, "completed", "gpt-test"))
    equal(answer.usage.total_tokens, 18)


@test
def responses_stream():
    events = list(client().responses.create(model="gpt-test", input="hi", stream=True))
    kinds = [event.type for event in events]
    equal(kinds[0], "response.created")
    assert "response.output_item.done" in kinds
    equal(kinds[-1], "response.completed")
    equal([event.sequence_number for event in events], list(range(len(events))))
    equal("".join(event.delta for event in events if event.type == "response.output_text.delta"), TEXT)
    equal(events[-1].response.output_text, TEXT)


@test
def responses_tools_stream():
    tools = [{"type": "function", "name": "weather", "parameters": TOOLS[0]["function"]["parameters"], "strict": False}]
    events = list(client().responses.create(model="gpt-test", input="hi", stream=True, tools=tools))
    call = events[-1].response.output[0]
    equal((call.type, call.name, json.loads(call.arguments)), ("function_call", "weather", {"city": "Paris"}))


@test
def moderations():
    equal(client().moderations.create(model="gpt-test", input="hi").results[0].flagged, False)


@test
def rerank():
    answer = client().post("/rerank", body={"model": "gpt-test", "query": "q", "documents": ["a", "b"]}, cast_to=object)
    equal([result["index"] for result in answer["results"]], [1, 0])


@test
def models_list():
    names = []
    for model in client().models.list():
        equal(model.object, "model")
        names.append(model.id)
        assert len(names) < 1000, "endless paging"
    assert "gpt-test" in names, names
    equal(len(wire.requests), 1, "requests")
    if not DIRECT:
        assert "forbidden-model" not in names, "a model that the key may not use"


@test
def models_retrieve():
    model = client().models.retrieve("gpt-test")
    equal((model.id, model.object), ("gpt-test", "model"))
    # `created` may be 0: an operator need not know it.
    assert isinstance(model.created, int) and model.owned_by, model


# Errors


@gateway
def error_400_missing_model():
    with raises(openai.BadRequestError) as caught:
        client().post("/chat/completions", body={"messages": HELLO}, cast_to=object)
    status_error(caught.error, 400, "missing_required_parameter", "invalid_request_error", "model")


@gateway
def error_400_invalid_json():
    with raises(openai.BadRequestError) as caught:
        client().post("/chat/completions", content=b'{"model": "gpt-test",', cast_to=object,
                      options={"headers": {"content-type": "application/json"}})
    status_error(caught.error, 400, "invalid_json", "invalid_request_error")


@test
def error_400_upstream():
    with raises(openai.BadRequestError) as caught:
        say(PREFIX + "status-400")
    status_error(caught.error, 400)
    assert "scripted status 400" in caught.error.message, caught.error.message


@gateway
def error_401_missing_key():
    with raises(openai.AuthenticationError) as caught:
        say(extra_headers={"Authorization": Omit()})
    assert "authorization" not in wire.requests[-1].headers
    status_error(caught.error, 401, "missing_api_key", "invalid_request_error")


@gateway
def error_401_wrong_key():
    with raises(openai.AuthenticationError) as caught:
        say(c=client(api_key="sk-" + "0" * 43))
    status_error(caught.error, 401, "invalid_api_key", "invalid_request_error")
    assert "0" * 12 not in caught.error.message, "the key is in the message"


@gateway
def error_401_two_keys():
    with raises(openai.AuthenticationError):
        say(extra_headers={"X-API-Key": "sk-another"})
    equal(say(extra_headers={"X-API-Key": KEY}).choices[0].message.content, TEXT)


@gateway
def error_403_model_not_allowed():
    with raises(openai.PermissionDeniedError) as caught:
        say("forbidden-model")
    status_error(caught.error, 403, "model_not_allowed", "invalid_request_error", "model")


@gateway
def error_404_unknown_model():
    with raises(openai.NotFoundError) as caught:
        say("no-such-model")
    status_error(caught.error, 404, "model_not_found", "invalid_request_error", "model")
    assert "no-such-model" in caught.error.message, caught.error.message
    with raises(openai.NotFoundError):
        client().models.retrieve("no-such-model")


@gateway
def error_404_unknown_path():
    with raises(openai.NotFoundError) as caught:
        client().get("/no/such/path", cast_to=object)
    status_error(caught.error, 404)


@gateway
def error_413_body_too_large():
    with raises(openai.APIStatusError) as caught:
        client().chat.completions.create(model="gpt-test", messages=[{"role": "user", "content": "x" * (BODY_LIMIT * 2)}])
    status_error(caught.error, 413, "request_too_large", "invalid_request_error")


@test
def error_429_upstream():
    with raises(openai.RateLimitError) as caught:
        say(PREFIX + "status-429")
    status_error(caught.error, 429, "upstream_rate_limited", "rate_limit_error")
    assert 1 <= int(caught.error.response.headers["retry-after"]) <= 7, caught.error.response.headers["retry-after"]


@test
def error_500_upstream():
    with raises(openai.InternalServerError) as caught:
        say(PREFIX + "status-500")
    status_error(caught.error, 500 if DIRECT else 502, "upstream_error", "upstream_error")


@gateway
def error_503_preview_is_not_retried():
    with raises(openai.InternalServerError) as caught:
        say("preview-model", c=client(max_retries=2))
    status_error(caught.error, 503, "model_preview", "model_unavailable")
    equal(caught.error.response.headers.get("x-should-retry"), "false", "x-should-retry")
    equal(len(wire.requests), 1, "requests")


@gateway
def error_504_upstream_stalls():
    start = time.monotonic()
    with raises(openai.InternalServerError) as caught:
        say(PREFIX + "stall")
    status_error(caught.error, 504, "upstream_timeout", "upstream_error")
    assert time.monotonic() - start < 10, "too late"


@gateway
def error_mid_stream():
    for model in ("cut", "cut-clean"):
        chunks = []
        with raises(openai.APIError) as caught:
            for chunk in say(PREFIX + model, stream=True):
                chunks.append(chunk)
        # Not a connection error: the gateway says what happened, in the stream.
        equal(type(caught.error), openai.APIError, f"{model}: kind")
        assert caught.error.message and caught.error.body, f"{model}: an empty error"
        assert chunks, f"{model}: nothing before the error"


@gateway
def error_mid_stream_responses():
    events = list(client().responses.create(model=PREFIX + "cut", input="hi", stream=True))
    equal(events[-1].type, "response.failed")
    assert events[-1].response.error.message, "an empty error"


# Forwarding


@test
def retry_count_is_forwarded():
    # The provider answers 500 until a request says that it is a retry.
    equal(say(PREFIX + "flaky", c=client(max_retries=2)).choices[0].message.content, TEXT)
    equal([request.headers["x-stainless-retry-count"] for request in wire.requests], ["0", "1"])


@test
def echo():
    answer = say(PREFIX + "echo", extra_body={"unknown": {"field": [1, 2.50, None]}}, extra_query={"trace": "1"},
                 extra_headers={"X-Own-Header": "as sent"})
    seen = json.loads(answer.choices[0].message.content)
    headers = {name.lower(): value for name, value in seen["headers"]}
    equal(seen["body"]["unknown"], {"field": [1, 2.50, None]})
    equal(headers["x-stainless-retry-count"], "0")
    assert seen["path"].endswith("/chat/completions?trace=1"), seen["path"]
    if not DIRECT:
        assert KEY not in answer.choices[0].message.content, "the client's key reached the provider"


# Rate limits


def patient():
    return client(api_key=LIMITED_KEY, max_retries=2)


def limits(headers):
    rate_limits(headers, "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset")
    names = [f"x-ratelimit-{what}-requests" for what in ("limit", "remaining", "reset")]
    rate_limits(headers, *names, read_reset=duration)


def duration(text):
    """The seconds of `6m0s`, `1s` or `120ms`."""
    parts = re.fullmatch(r"(?=.)(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+)ms)?", text)
    assert parts, f"not a duration: {text}"
    return sum(float(part or 0) * unit for part, unit in zip(parts.groups(), (3600, 60, 1, 0.001)))


@limited
def rate_limit_waits_as_told():
    c = patient()
    waits_as_told(wire, lambda: equal(say(c=c).choices[0].message.content, TEXT))
    equal([request.headers["x-stainless-retry-count"] for request in wire.requests], ["0", "1"])


@limited
def rate_limit_raises():
    c = patient()

    def impatient():
        try:
            return say(c=c.with_options(max_retries=0))
        except openai.RateLimitError as error:
            return error

    error = at_once(wire, lambda: say(c=c), impatient)
    assert isinstance(error, openai.RateLimitError), f"not refused: {error}"
    status_error(error, 429, "rate_limit_exceeded", "rate_limit_error")
    told_to_wait(error.response.headers)
    limits(error.response.headers)


@limited
def rate_limit_headers():
    equal(say(c=patient()).choices[0].message.content, TEXT)
    limits(wire.responses[-1].headers)
    chunks = list(say(c=patient(), stream=True))
    equal("".join(chunk.choices[0].delta.content or "" for chunk in chunks), TEXT)
    assert wire.responses[-1].headers["content-type"].startswith("text/event-stream")
    limits(wire.responses[-1].headers)


if __name__ == "__main__":
    main(f"openai-python {openai.__version__}")
