"""A server of Google Cloud Storage in memory: what TensorStore, gcsfs and google-cloud-storage ask of its JSON API, and no more.

After https://cloud.google.com/storage/docs/json_api/v1. Names listed are in order, pages hold few, so that paging is tried.
"""

import base64
import contextlib
import email
import hashlib
import http.server
import itertools
import json
import re
import threading
import urllib.parse
from collections.abc import Iterator
from typing import NamedTuple

PAGE = 50


class Object(NamedTuple):
    content: bytes
    generation: int


class Server:
    """The buckets: {name: {object's name: Object}}; what is not allowed in three of them, their names say."""

    def __init__(self) -> None:
        self.buckets: dict[str, dict[str, Object]] = {"bucket": {}, "forbidden": {}, "readonly": {}, "objects": {}}
        self.uploads: dict[str, tuple[str, str, dict, bytes]] = {}
        self.log: list[str] = []
        self.lock = threading.RLock()
        self._generations = itertools.count(1)
        self.url = ""

    def names(self, prefix: str, bucket: str = "bucket") -> list[str]:
        """The objects whose names begin so."""
        with self.lock:
            return sorted(name for name in self.buckets[bucket] if name.startswith(prefix))

    def read(self, name: str, bucket: str = "bucket") -> bytes:
        return self.buckets[bucket][name].content

    def write(self, name: str, content: bytes, bucket: str = "bucket") -> Object:
        with self.lock:
            self.buckets[bucket][name] = Object(content, next(self._generations))
            return self.buckets[bucket][name]

    @property
    def environment(self) -> dict[str, str]:
        """By which clients find this server."""
        return {
            "STORAGE_EMULATOR_HOST": self.url,
            "TENSORSTORE_GCS_HTTP_URL": self.url,
            "GOOGLE_CLOUD_PROJECT": "project",
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # which asks the real server, over gRPC, of what kind a bucket is
        }


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    """A server on a port of this machine."""
    server = Server()
    handler = type("Handler", (_Handler,), {"store": server})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as listening:
        listening.daemon_threads, listening.handle_error = (
            True,
            lambda *_: None,
        )  # of clients that were killed, or read on no more
        server.url = f"http://127.0.0.1:{listening.server_address[1]}"
        thread = threading.Thread(target=listening.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            listening.shutdown()


class _Refused(Exception):
    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


class _Handler(http.server.BaseHTTPRequestHandler):
    store: Server
    protocol_version = "HTTP/1.1"  # keeps connections
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self) -> None:
        body = self._body()
        status, headers, content = self._handled(self.command, self.path, dict(self.headers), body)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_DELETE = _answer

    def _body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _handled(self, method: str, path: str, headers: dict, body: bytes) -> tuple[int, dict, bytes]:
        url = urllib.parse.urlsplit(path)
        query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        headers = {name.lower(): value for name, value in headers.items()}
        try:
            with self.store.lock:
                status, more, answer = self._route(method, url.path, query, headers, body)
        except _Refused as refused:
            status, more = refused.status, {}
            answer = {"error": {"code": status, "message": str(refused), "errors": [{"message": str(refused), "reason": "x"}]}}
        self.store.log.append(f"{status} {method} {path}")
        if status == 304:  # which has no body: a client would take it for the beginning of the next answer
            return status, more, b""
        if isinstance(answer, bytes):
            return status, more, answer
        return status, {"Content-Type": "application/json", **more}, json.dumps(answer).encode()

    def _route(self, method: str, path: str, query: dict, headers: dict, body: bytes) -> tuple[int, dict, dict | bytes]:
        if path.startswith("/batch"):
            return self._batch(headers, body)
        if "upload_id" in query:
            return self._resumed(query["upload_id"], headers, body)
        found = re.fullmatch(r"/(?:upload/|download/)?storage/v1/b/([^/]+)(?:/(o|storageLayout)(?:/([^/]+))?(?:/(.*))?)?", path)
        if not found:
            raise _Refused(501, f"{method} {path} is not known here")
        bucket, kind, name, rest = found[1], found[2], urllib.parse.unquote(found[3] or ""), found[4]
        if bucket not in self.store.buckets:
            raise _Refused(404, "The specified bucket does not exist.")
        if bucket == "forbidden" or bucket == "readonly" and method != "GET":
            raise _Refused(403, f"someone@example.com does not have storage.objects access to the bucket {bucket}.")
        if not kind:
            if bucket == "objects":
                raise _Refused(403, "someone@example.com does not have storage.buckets.get access to the bucket objects.")
            return 200, {}, {"kind": "storage#bucket", "name": bucket, "id": bucket, "location": "EU", "storageClass": "STANDARD"}
        if kind == "storageLayout":
            return 200, {}, {"bucket": bucket, "locationType": "region", "hierarchicalNamespace": {"enabled": False}}
        objects = self.store.buckets[bucket]
        if rest:
            target_bucket, target = re.fullmatch(r"(?:rewriteTo|copyTo)/b/([^/]+)/o/(.*)|moveTo/o/(.*)", rest).group(1), ""
            target = urllib.parse.unquote(rest.rsplit("/o/", 1)[1])
            source = self._object(objects, name, {})
            self.store.write(target, source.content, target_bucket or bucket)
            if rest.startswith("moveTo"):
                del objects[name]
            resource = self._resource(target_bucket or bucket, target)
            if not rest.startswith("rewriteTo"):
                return 200, {}, resource
            size = str(len(source.content))
            done = {"kind": "storage#rewriteResponse", "done": True, "resource": resource}
            return 200, {}, done | {"totalBytesRewritten": size, "objectSize": size}
        if method == "POST":
            return self._upload(bucket, query, headers, body)
        if not name:
            return 200, {}, self._listed(bucket, query)
        found_object = self._object(objects, name, query)
        if method == "DELETE":
            del objects[name]
            return 204, {}, b""
        if query.get("alt") != "media":
            return 200, {}, self._resource(bucket, name)
        return self._media(found_object, headers)

    def _object(self, objects: dict[str, Object], name: str, query: dict) -> Object:
        found = objects.get(name)
        generation = found.generation if found else 0
        self._match(generation, query)
        if not found or int(query.get("generation", generation)) != generation:
            raise _Refused(404, f"No such object: {name}")
        return found

    def _match(self, generation: int, query: dict) -> None:
        if int(query.get("ifGenerationMatch", generation)) != generation:
            raise _Refused(412, "At least one of the pre-conditions you specified did not hold.")
        if "ifGenerationNotMatch" in query and int(query["ifGenerationNotMatch"]) == generation:
            raise _Refused(304, "")

    def _media(self, found: Object, headers: dict) -> tuple[int, dict, bytes]:
        content, size = found.content, len(found.content)
        more = {"X-Goog-Generation": str(found.generation), "X-Goog-Metageneration": "1", "ETag": f'"{found.generation}"'}
        more |= {"X-Goog-Stored-Content-Length": str(size), "Content-Type": "application/octet-stream"}
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", headers.get("range", ""))
        if not asked:
            return 200, more | {"X-Goog-Hash": f"md5={_md5(content)}"}, content
        first = int(asked[1]) if asked[1] else max(0, size - int(asked[2]))
        last = min(int(asked[2]), size - 1) if asked[1] and asked[2] else size - 1
        if first >= size:
            raise _Refused(416, "The requested range cannot be satisfied.")
        return 206, more | {"Content-Range": f"bytes {first}-{last}/{size}"}, content[first : last + 1]

    def _resource(self, bucket: str, name: str) -> dict:
        found = self.store.buckets[bucket][name]
        return {
            "kind": "storage#object",
            "id": f"{bucket}/{name}/{found.generation}",
            "name": name,
            "bucket": bucket,
            "generation": str(found.generation),
            "metageneration": "1",
            "size": str(len(found.content)),
            "md5Hash": _md5(found.content),
            "etag": str(found.generation),
            "contentType": "application/octet-stream",
            "timeCreated": "2026-01-01T00:00:00.000Z",
            "updated": "2026-01-01T00:00:00.000Z",
        }

    def _listed(self, bucket: str, query: dict) -> dict:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        entries: dict[str, bool] = {}  # names, and whether each is a prefix
        for name in self.store.names(prefix, bucket):
            cut = name.find(delimiter, len(prefix)) if delimiter else -1
            if cut >= 0:
                entries[name[: cut + 1]] = True
                if query.get("includeTrailingDelimiter") == "true" and name == name[: cut + 1]:
                    entries[name] = False
            elif query.get("startOffset", "") <= name and (not query.get("endOffset") or name < query["endOffset"]):
                entries[name] = False
        names = [name for name in entries if name > query.get("pageToken", "")]
        page = names[: min(PAGE, int(query.get("maxResults", PAGE)))]
        answer: dict = {"kind": "storage#objects", "items": [self._resource(bucket, name) for name in page if not entries[name]]}
        answer["prefixes"] = [name for name in page if entries[name]]
        if len(page) < len(names):
            answer["nextPageToken"] = page[-1]
        return answer

    def _upload(self, bucket: str, query: dict, headers: dict, body: bytes) -> tuple[int, dict, dict]:
        kind = query["uploadType"]
        if kind == "resumable":
            name = query.get("name") or json.loads(body)["name"]
            upload = str(next(self.store._generations))
            self.store.uploads[upload] = bucket, name, query, b""
            location = f"{self.store.url}/upload/storage/v1/b/{bucket}/o?uploadType=resumable&upload_id={upload}"
            return 200, {"Location": location}, {}
        if kind == "media":
            return self._stored(bucket, query["name"], query, body)
        metadata, content = _parts(headers, body)
        return self._stored(bucket, json.loads(metadata)["name"], query, content)

    def _stored(self, bucket: str, name: str, query: dict, content: bytes) -> tuple[int, dict, dict]:
        before = self.store.buckets[bucket].get(name)
        self._match(before.generation if before else 0, query)
        self.store.write(name, content, bucket)
        return 200, {}, self._resource(bucket, name)

    def _resumed(self, upload: str, headers: dict, body: bytes) -> tuple[int, dict, dict | bytes]:
        bucket, name, query, before = self.store.uploads[upload]
        content = before + body
        total = headers.get("content-range", "/").rsplit("/", 1)[1]
        if total == "*" or total and int(total) > len(content):
            self.store.uploads[upload] = bucket, name, query, content
            return 308, {"Range": f"bytes=0-{len(content) - 1}"} if content else {}, b""
        del self.store.uploads[upload]
        return self._stored(bucket, name, query, content)

    def _batch(self, headers: dict, body: bytes) -> tuple[int, dict, bytes]:
        answers = []
        message = email.message_from_bytes(b"Content-Type: " + headers["content-type"].encode() + b"\r\n\r\n" + body)
        for part in message.get_payload():
            line = part.get_payload().strip().splitlines()[0].split()
            status, _, content = self._handled(line[0], line[1], {}, b"")
            reason = http.HTTPStatus(status).phrase
            answers.append(
                f"--batch\r\nContent-Type: application/http\r\nContent-ID: <response-{part['Content-ID'].strip('<>')}>\r\n\r\n"
                f"HTTP/1.1 {status} {reason}\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
                f"{content.decode()}\r\n"
            )
        return 200, {"Content-Type": "multipart/mixed; boundary=batch"}, ("".join(answers) + "--batch--\r\n").encode()


def _md5(content: bytes) -> str:
    return base64.b64encode(hashlib.md5(content).digest()).decode()


def _parts(headers: dict, body: bytes) -> list[bytes]:
    """The contents of a body of several parts, which may hold any bytes."""
    boundary = re.search(r"boundary=[\"']?([^\"';]+)", headers["content-type"])[1].encode()
    parts = body.split(b"--" + boundary)[1:-1]
    return [re.split(rb"\r?\n\r?\n", part, maxsplit=1)[1].removesuffix(b"\r\n").removesuffix(b"\n") for part in parts]
