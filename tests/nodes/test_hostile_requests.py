"""Whatever is asked over HTTP: no file but those that are offered is looked at, and the server answers and lives."""

import gzip
import http.client
import json
import random
import urllib.error
from collections.abc import Iterator
from urllib.parse import quote, urlencode

import pytest
from comfy_server import Server

CHECKPOINT = "small.safetensors"
BUILT_IN = "harmony-tiny (built in)"
REQUESTS, SEED = 400, 12
CLIP = {"pictures": 25, "width": 64, "height": 48, "fps": 24, "batch": 1}
TEXTS = [
    "", CHECKPOINT, BUILT_IN, "none", "/etc/passwd (built in)", "../" * 9 + "etc/passwd", "a\0b", "\ud800", "x" * 5000, "\n\t",
    "ni3" * 2000, "ma" * 3000, "xian" * 2000 + "b", "a" * 3000, "ab " * 3000, "[laughs]", "3" * 5000, "\u202e" * 99,
    "-1", "0", "nan", "inf", "-inf", "1e-320",
    "1e400", "1" * 400, "0x10", "٣", "1_0", "5e-324", "1e308",
]  # fmt: skip
VALUES = [*TEXTS, None, True, 0, -1, 10**30, 1e308, [], {}, [[]], {"a": "b"}]
BODIES = [
    b"", b"[" * 100_000, b"{" * 100_000, b'{"a":' * 50_000, b"null", b"1", b'"text"', b"\xff\xfe\xfd", b"\x00" * 100, b"NaN",
    b"1" * 10_000, b"\xef\xbb\xbf{}", b'{"client": "x", "on": ', b" " * 300_000, "{}".encode("utf-16"), b"a" * 1_000_000,
]  # fmt: skip
TYPES = [
    "application/json", "application/json; charset=none-such", "application/json; charset=idna", "text/plain",
    "application/json; charset=", "multipart/form-data", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded",
    "application/json; charset=utf-16", "application/json; charset=zip", "x", "/", ";" * 100, "a" * 4000,
]  # fmt: skip


def ask(server: Server, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> int:
    """The status of an answer, which is JSON where it is ours."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        text = answer.read()
    finally:
        connection.close()
    if answer.status in {200, 400} and answer.headers.get_content_type() == "application/json":
        said = json.loads(text)
        error = (said or {}).get("error", "")
        assert error.isprintable() and len(error) < 600, error
        assert answer.status == 200 or error
    return answer.status


def requests() -> Iterator[tuple[str, str, bytes | None, dict[str, str]]]:
    """Questions of every route, each with something wrong, or several things."""
    draw = random.Random(SEED)
    for _ in range(REQUESTS):
        route = draw.choice(["checkpoint", "memory", "player", "transcript"])
        headers = {"Content-Type": draw.choice(TYPES)} if draw.random() < 0.5 else {"Content-Type": "application/json"}
        if draw.random() < 0.1:
            headers["Content-Encoding"] = draw.choice(["gzip", "deflate", "br", "none-such"])
        asked = {
            key: draw.choice(VALUES) for key in ("client", "on", "checkpoint", "transcript", "language") if draw.random() < 0.8
        }
        if draw.random() < 0.5:
            asked |= {"checkpoint": BUILT_IN, "language": draw.choice(["automatic", "English", "Mandarin"])}
        if route in {"checkpoint", "memory"}:
            query = {"name": draw.choice([CHECKPOINT, BUILT_IN]), "weight_dtype": "default", **CLIP}
            for key in draw.sample(sorted(query), draw.randint(1, 3)):
                query[key] = draw.choice(TEXTS)
            yield "GET", f"/harmony/{route}?{urlencode(query, errors='surrogatepass')}", None, headers
            continue
        body = draw.choice(BODIES) if draw.random() < 0.3 else json.dumps(asked).encode()
        if headers.get("Content-Encoding") == "gzip" and draw.random() < 0.5:
            body = gzip.compress(body)
        yield "POST", f"/harmony/{route}", body, headers


def test_no_question_is_answered_with_an_error_of_the_servers(server):
    wrong = []
    for method, path, body, headers in requests():
        status = ask(server, method, path, body, headers)
        if status >= 500:
            wrong.append((status, method, path[:200], headers, (body or b"")[:200]))
    assert not wrong
    # The server lives, and answers good questions as before.
    assert "grid" in server.get(f"/harmony/checkpoint?name={quote(BUILT_IN)}")
    assert server.get("/queue")["queue_running"] == []


@pytest.mark.parametrize("body", [b"[" * 100_000, b"", b"[]", b'{"client": 3, "on": true}', b'{"client": "x", "on": "yes"}'])
@pytest.mark.parametrize("route", ["player", "transcript"])
def test_what_is_no_question_is_400(server, route, body):
    assert ask(server, "POST", f"/harmony/{route}", body, {"Content-Type": "application/json"}) == 400


def test_a_question_in_any_charset_is_read_as_json_is(server):
    body = json.dumps({"checkpoint": BUILT_IN, "transcript": "hello", "language": "automatic"}).encode()
    assert ask(server, "POST", "/harmony/transcript", body, {"Content-Type": "application/json; charset=none-such"}) == 200


BESIDE = "beside.safetensors"
TRAVERSALS = [
    "{outside} (built in)", "{outside}", "../../{name}", "../{name}", "checkpoints/../../{name}", "./small.safetensors",
    "small.safetensors (built in)", "harmony-tiny", "{inside}", "notes.txt", "../loras/one.safetensors",
]  # fmt: skip


@pytest.mark.parametrize("name", TRAVERSALS)
@pytest.mark.parametrize("there", [True, False])
def test_only_names_that_are_offered_are_looked_at(server, name, there):
    """The same answer whether there is such a file or not, and that of any name that is none."""
    outside, inside = server.base / BESIDE, server.base / "models" / "checkpoints" / CHECKPOINT
    notes = server.base / "models" / "checkpoints" / "notes.txt"
    lora = server.base / "models" / "loras" / "one.safetensors"
    lora.parent.mkdir(exist_ok=True)
    for path in (outside, notes, lora):
        path.unlink(missing_ok=True)
        if there:
            path.write_bytes(inside.read_bytes())
    name = name.format(outside=outside, inside=inside, name=BESIDE)
    answers = [
        server.get(f"/harmony/checkpoint?name={quote(name)}"),
        server.get(f"/harmony/memory?{urlencode({'name': name, **CLIP})}"),
    ]
    asked = {"checkpoint": name, "transcript": "a", "language": "automatic"}
    answers.append(json.loads(server.post("/harmony/transcript", asked)))
    for answer in answers:
        assert answer["error"].startswith("checkpoint: there is no ")
        assert answer["error"].endswith("in models/checkpoints or models/diffusion_models; put it there or choose another")


def test_a_server_that_cannot_be_reached_is_no_answer(server):
    """The helper above sees errors: a route that there is not is 404."""
    with pytest.raises(urllib.error.HTTPError, match="404"):
        server.get("/harmony/none")
