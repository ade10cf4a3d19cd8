"""A server of Google Cloud Storage's JSON interface on this machine, for real clients to talk to.

Only what the clients (gcsfs, TensorStore, google-cloud-storage) ask for: objects are put in whole
(at once, in two parts, or resumably), read with ranges, listed, deleted, copied and composed, all
under conditions on their generation. Everything is in memory.
"""

import base64
import contextlib
import dataclasses
import email.utils
import hashlib
import http.server
import itertools
import json
import re
import sys
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any

_OBJECT = re.compile(r"(?:/download|/upload)?/storage/v1/b/([^/]+)/o(?:/(.+))?")
_ACTION = re.compile(r"(.+?)/(rewriteTo|copyTo|moveTo|compose)(?:/(?:b|o)/(.+))?")
_BOUNDARY = re.compile(r"boundary=['\"]?([^'\";]+)")
_BUCKET = re.compile(r"/storage/v1/b/([^/]+)")


@dataclasses.dataclass(frozen=True)
class Stored:
    content: bytes
    generation: int


class Refused(Exception):
    """Ends a request with an HTTP status."""

    def __init__(self, status: int):
        super().__init__(status)
        self.status = status


class ObjectStore:
    """Buckets by name, and the address of the server that serves them.

    Attributes:
        buckets: Bucket -> name -> object.
        written: Called with "bucket/name" before each object is put in; it may raise `Refused`.
    """

    def __init__(self, *buckets: str):
        self.buckets: dict[str, dict[str, Stored]] = {name: {} for name in buckets}
        self.written: Callable[[str], None] = lambda name: None
        self.url = ""
        self._generations = itertools.count(1)
        self._uploads: dict[str, tuple[str, str, dict[str, str], bytearray]] = {}
        self._lock = threading.RLock()

    @property
    def environment(self) -> dict[str, str]:
        """Variables that send the clients here."""
        return {
            "STORAGE_EMULATOR_HOST": self.url,
            "TENSORSTORE_GCS_HTTP_URL": self.url,
            # Nobody is asked for credentials, nor for the kind of a bucket.
            "NO_GCE_CHECK": "true",
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
        }

    def names(self, prefix: str) -> list[str]:
        """Names below "bucket/prefix", in order."""
        bucket, _, rest = prefix.partition("/")
        with self._lock:
            return sorted(name for name in self.buckets[bucket] if name.startswith(rest))

    def read(self, path: str) -> bytes:
        bucket, _, name = path.partition("/")
        return self.buckets[bucket][name].content

    @contextlib.contextmanager
    def served(self) -> Iterator["ObjectStore"]:
        """Answers requests at `url` until the block ends."""
        store = self

        class Bound(_Handler):
            _store = store

        with _Server(("127.0.0.1", 0), Bound) as server:
            self.url = f"http://127.0.0.1:{server.server_port}"
            thread = threading.Thread(target=server.serve_forever, args=(0.05,))
            thread.start()
            try:
                yield self
            finally:
                server.shutdown()
                thread.join()

    def get(self, bucket: str, name: str, query: dict[str, str]) -> Stored:
        with self._lock:
            found = self._bucket(bucket).get(name)
            self._check(found, query)
        if found is None:
            raise Refused(404)
        if query.get("ifGenerationNotMatch") == str(found.generation):
            raise Refused(304)
        return found

    def put(self, bucket: str, name: str, content: bytes, query: dict[str, str]) -> Stored:
        self.written(f"{bucket}/{name}")
        with self._lock:
            there = self._bucket(bucket)
            self._check(there.get(name), query)
            there[name] = Stored(content, next(self._generations))
            return there[name]

    def delete(self, bucket: str, name: str, query: dict[str, str]) -> None:
        with self._lock:
            self.get(bucket, name, query)
            del self.buckets[bucket][name]

    def list(self, bucket: str, query: dict[str, str]) -> dict[str, Any]:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        with self._lock:
            content = dict(self._bucket(bucket))
        items, prefixes = [], set()
        for name in sorted(content):
            if not name.startswith(prefix) or name < query.get("startOffset", ""):
                continue
            if "endOffset" in query and name >= query["endOffset"]:
                continue
            head, cut, _ = name[len(prefix) :].partition(delimiter) if delimiter else (name, "", "")
            if cut:
                prefixes.add(prefix + head + delimiter)
            else:
                items.append(name)
        start, most = int(query.get("pageToken", 0)), int(query.get("maxResults", 1000))
        page = (sorted(prefixes) + items)[start : start + most]
        answer: dict[str, Any] = {
            "kind": "storage#objects",
            "prefixes": [name for name in page if name in prefixes],
            "items": [resource(bucket, name, content[name]) for name in page if name in content],
        }
        if start + most < len(prefixes) + len(items):
            answer["nextPageToken"] = str(start + most)
        return answer

    def begin_upload(self, bucket: str, name: str, query: dict[str, str]) -> str:
        with self._lock:
            identity = str(next(self._generations))
            self._uploads[identity] = bucket, name, query, bytearray()
        return identity

    def continue_upload(self, identity: str, span: str, content: bytes) -> tuple[Any, int]:
        """The object's resource if it is complete, and how many bytes have come."""
        if identity not in self._uploads:
            raise Refused(404)
        bucket, name, query, received = self._uploads[identity]
        received += content
        total = span.rpartition("/")[2]
        if total in ("", "*") or len(received) < int(total):
            return None, len(received)
        stored = self.put(bucket, name, bytes(received), query)
        del self._uploads[identity]
        return resource(bucket, name, stored), len(received)

    def _bucket(self, name: str) -> dict[str, Stored]:
        if name not in self.buckets:
            raise Refused(404)
        return self.buckets[name]

    @staticmethod
    def _check(found: Stored | None, query: dict[str, str]) -> None:
        generation = found.generation if found else 0
        if query.get("ifGenerationMatch", str(generation)) != str(generation):
            raise Refused(412)


def resource(bucket: str, name: str, stored: Stored) -> dict[str, Any]:
    """Describes an object as the JSON interface does."""
    now = "2026-01-01T00:00:00.000Z"
    return {
        "kind": "storage#object",
        "id": f"{bucket}/{name}/{stored.generation}",
        "bucket": bucket,
        "name": name,
        "generation": str(stored.generation),
        "metageneration": "1",
        "size": str(len(stored.content)),
        "md5Hash": base64.b64encode(hashlib.md5(stored.content).digest()).decode(),
        "etag": f"e{stored.generation}",
        "contentType": "application/octet-stream",
        "storageClass": "STANDARD",
        "timeCreated": now,
        "updated": now,
    }


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Tells of faults of this server, and not of clients that are killed."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(http.server.BaseHTTPRequestHandler):
    _store: ObjectStore
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Keeps quiet."""

    def _handle(self) -> None:
        body = self._body()
        url = urllib.parse.urlsplit(self.path)
        try:
            if url.path.startswith("/batch"):
                self._batch(body)
                return
            status, headers, content = self._answer(self.command, self.path, body)
        except Refused as refused:
            status, headers, content = refused.status, {}, _error(refused.status)
        self._send(status, headers, content)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = _handle  # noqa: N815

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            chunks = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _send(self, status: int, headers: dict[str, str], content: bytes) -> None:
        with contextlib.suppress(ConnectionError):  # Clients are killed.
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

    def _answer(self, method: str, target: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        url = urllib.parse.urlsplit(target)
        query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        if found := _OBJECT.fullmatch(url.path):
            bucket, name = found[1], found[2] or ""
            if url.path.startswith("/upload"):
                return self._upload(bucket, query, body)
            if not name:
                return _json(self._store.list(bucket, query))
            return self._object(method, bucket, name, query, body)
        if found := _BUCKET.fullmatch(url.path):
            if found[1] not in self._store.buckets:
                raise Refused(404)
            return _json({"kind": "storage#bucket", "id": found[1], "name": found[1]})
        raise Refused(404)

    def _object(
        self, method: str, bucket: str, path: str, query: dict[str, str], body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        store = self._store
        if method == "POST":
            asked = _ACTION.fullmatch(path)
            if asked is None:
                raise Refused(404)
            source, action, target = asked.groups()
            if action == "compose":
                parts = [urllib.parse.unquote(s["name"]) for s in json.loads(body)["sourceObjects"]]
                content = b"".join(store.get(bucket, part, {}).content for part in parts)
                name = urllib.parse.unquote(source)
                return _json(resource(bucket, name, store.put(bucket, name, content, query)))
            source = urllib.parse.unquote(source)
            content = store.get(bucket, source, {}).content
            to, name = (bucket, target) if action == "moveTo" else target.split("/o/", 1)
            name = urllib.parse.unquote(name)
            made = resource(to, name, store.put(to, name, content, query))
            if action == "moveTo":
                store.delete(bucket, source, {})
            if action != "rewriteTo":
                return _json(made)
            size = str(len(content))
            return _json(
                {"done": True, "objectSize": size, "totalBytesRewritten": size, "resource": made}
            )
        name = urllib.parse.unquote(path)
        if method == "DELETE":
            store.delete(bucket, name, query)
            return 204, {}, b""
        stored = store.get(bucket, name, query)
        if query.get("alt") != "media":
            return _json(resource(bucket, name, stored))
        return self._media(stored)

    def _media(self, stored: Stored) -> tuple[int, dict[str, str], bytes]:
        headers = {
            "Content-Type": "application/octet-stream",
            "Date": email.utils.formatdate(usegmt=True),
            "ETag": f"e{stored.generation}",
            "x-goog-generation": str(stored.generation),
            "x-goog-metageneration": "1",
        }
        span = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        size = len(stored.content)
        if not span:
            return 200, headers, stored.content
        if span[1]:
            start = int(span[1])
            stop = min(int(span[2]) + 1, size) if span[2] else size
        else:
            start, stop = max(size - int(span[2]), 0), size
        if start >= size:
            return 416, {"Content-Range": f"bytes */{size}"}, b""
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        return 206, headers, stored.content[start:stop]

    def _upload(
        self, bucket: str, query: dict[str, str], body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        store = self._store
        if "upload_id" in query:
            span = self.headers.get("Content-Range", "")
            done, received = store.continue_upload(query["upload_id"], span, body)
            return _json(done) if done else (308, {"Range": f"bytes=0-{received - 1}"}, b"")
        if query["uploadType"] == "resumable":
            name = query.get("name") or json.loads(body)["name"]
            identity = store.begin_upload(bucket, name, query)
            return 200, {"Location": f"{store.url}{self.path}&upload_id={identity}"}, b""
        if query["uploadType"] == "media":
            name, content = query["name"], body
        else:
            notes, content = self._parts(body)
            name = query.get("name") or json.loads(notes)["name"]
        return _json(resource(bucket, name, store.put(bucket, name, content, query)))

    def _parts(self, body: bytes) -> list[bytes]:
        """Contents of the parts of a body, without their headers."""
        boundary = _BOUNDARY.search(self.headers["Content-Type"])
        if boundary is None:
            raise Refused(400)
        begin = b"--" + boundary[1].encode()
        # What ends the lines of one client may end the content of another.
        end = b"\r\n" if body.startswith(begin + b"\r\n") else b"\n"
        parts = (end + body).split(end + begin)[1:-1]
        return [part.split(2 * end, 1)[1] for part in parts]

    def _batch(self, body: bytes) -> None:
        """Several requests in one, each with its own answer."""
        lines = []
        for number, part in enumerate(self._parts(body), 1):
            method, target = part.decode().split()[:2]
            try:
                status, _, content = self._answer(method, target, b"")
            except Refused as refused:
                status, content = refused.status, _error(refused.status)
            lines += ["--batch", "Content-Type: application/http"]
            lines += [f"Content-ID: <response-{number}>", "", f"HTTP/1.1 {status} -"]
            lines += ["Content-Type: application/json", "", content.decode()]
        content = "\r\n".join([*lines, "--batch--", ""]).encode()
        self._send(200, {"Content-Type": "multipart/mixed; boundary=batch"}, content)


def _json(value: Any) -> tuple[int, dict[str, str], bytes]:
    return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()


def _error(status: int) -> bytes:
    if status == 304:
        return b""
    return json.dumps({"error": {"code": status, "message": f"status {status}"}}).encode()
