"""The endpoints of the Hugging Face Hub that huggingface_hub calls; tests.hub_server runs them."""

import base64
import json
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, parse_qs, quote, unquote, urlsplit

import yaml

from tests.hub_store import Blob, Repo, list_tree, upload_mode

if TYPE_CHECKING:
    from tests.hub_server import Fault, HubServer, Request

# little, since what lies in buffers when a client hangs up counts as sent
PIECE = 1 << 16

Query = Mapping[str, list[str]]


@dataclass
class Answer:
    """What is sent back: bytes, JSON, or bytes [start, stop) of a file."""

    body: Any = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    file: tuple[Path, int, int] | None = None

    @property
    def data(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()

    @property
    def length(self) -> int:
        return self.file[2] - self.file[1] if self.file else len(self.data)

    def pieces(self) -> Iterator[bytes]:
        if self.file is None:
            yield self.data
            return
        path, start, stop = self.file
        with path.open("rb") as file:
            file.seek(start)
            for place in range(start, stop, PIECE):
                yield file.read(min(PIECE, stop - place))


class RefusedError(Exception):
    """An answer with an error, as the Hub puts it: status, message, X-Error-Code."""

    def __init__(self, status: int, message: str, code: str = "", **headers: str) -> None:
        headers = {key.replace("_", "-"): value for key, value in headers.items()}
        headers |= {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self.answer = Answer({"error": message}, status, headers)


class Port(ThreadingHTTPServer):
    """A port of a HubServer."""

    daemon_threads = True

    def __init__(self, hub: "HubServer", endpoints: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), endpoints)
        self.hub = hub
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PIECE)


class Endpoints(BaseHTTPRequestHandler):
    """Answers the requests of one connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Port

    def serve(self) -> None:
        self.hub, url = self.server.hub, urlsplit(self.path)
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.token = self.headers.get("Authorization", "").removeprefix("Bearer ") or None
        asked = self.headers.get("Range")
        request, fault = self.hub.record(self.command, unquote(url.path), asked, self.token)
        if fault.cut_after is None:
            self.hub.closing.wait(fault.stall)
        self._send(request, self._answer(fault, url), fault)

    do_GET = do_HEAD = do_POST = do_PUT = serve  # noqa: N815

    def handle(self) -> None:
        try:
            super().handle()
        except ConnectionError:  # the client hung up before the end
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Nothing is printed: `HubServer.requests` has it all."""

    def _answer(self, fault: "Fault", url: SplitResult) -> Answer:
        if fault.status:
            return Answer(fault.body, fault.status)
        try:
            return self._route(url.path, parse_qs(url.query))
        except RefusedError as refused:
            return refused.answer

    def _route(self, path: str, query: Query) -> Answer:
        if self.token and self.token not in self.hub.tokens:
            raise RefusedError(401, "Invalid credentials in Authorization header")
        for methods, pattern, endpoint in ROUTES:
            if self.command in methods.split() and (found := re.fullmatch(pattern, path)):
                words = {k: unquote(v) for k, v in found.groupdict().items() if v is not None}
                return endpoint(self, query, **words)
        raise RefusedError(404, "Sorry, we can't find the page you are looking for.")

    def _send(self, request: "Request", answer: Answer, fault: "Fault") -> None:
        cut_after = fault.cut_after
        self.send_response(answer.status)
        for key, value in ({"Content-Length": str(answer.length)} | answer.headers).items():
            self.send_header(key, value)
        self.end_headers()
        for piece in answer.pieces() if self.command != "HEAD" else ():
            data = piece if cut_after is None else piece[: cut_after - request.sent]
            request.sent += len(data)  # before the client can have it, and look here
            self.wfile.write(data)
        if cut_after is not None:
            self.hub.closing.wait(fault.stall)
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

    # what the endpoints have in common

    def _repo(self, repo: str, bytes_of_files: bool = False) -> Repo:
        found = self.hub.repos.get(repo)
        if not found or (found.private and self.token not in found.readers):
            raise RefusedError(404 if self.token else 401, "Repository not found", "RepoNotFound")
        if bytes_of_files and found.gated and self.token not in found.readers:
            message = f"Access to model {repo} is restricted"
            raise RefusedError(403 if self.token else 401, message, "GatedRepo")
        return found

    def _files(self, repo: Repo, revision: str) -> tuple[str, dict[str, Blob]]:
        commit = repo.branches.get(revision, revision)
        if commit not in repo.commits:
            raise RefusedError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit, repo.commits[commit]

    def _check_may_write(self) -> None:
        if not self.token:
            raise RefusedError(401, "Invalid username or password.")
        if not self.hub.tokens[self.token]:
            raise RefusedError(403, "You don't have the required permissions")

    def _ranged(self, blob: Blob, headers: dict[str, str]) -> Answer:
        headers = {"ETag": f'"{blob.etag}"', "Accept-Ranges": "bytes"} | headers
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if not asked or not self.hub.ranges:
            return Answer(headers=headers, file=(blob.path, 0, blob.size))
        first, last = asked.groups()
        start = int(first) if first else blob.size - int(last)
        stop = min(int(last) + 1, blob.size) if first and last else blob.size
        if not 0 <= start < stop:
            return Answer(status=416, headers={"Content-Range": f"bytes */{blob.size}"})
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{blob.size}"
        return Answer(status=206, headers=headers, file=(blob.path, start, stop))

    # reading

    def info(self, query: Query, repo: str, revision: str = "main") -> Answer:
        found = self._repo(repo)
        commit, files = self._files(found, revision)
        names = [b.sibling(n) if "blobs" in query else {"rfilename": n} for n, b in files.items()]
        access = {"private": found.private, "gated": "manual" if found.gated else False}
        return Answer({"id": repo, "sha": commit, "siblings": names, "tags": []} | access)

    def tree(self, query: Query, repo: str, revision: str, path: str = "") -> Answer:
        _, files = self._files(self._repo(repo), revision)
        recursive = query.get("recursive", ["false"])[0].lower()
        entries = list(list_tree(files, path, recursive == "true"))
        if path and not entries:
            raise RefusedError(404, f"{path} does not exist", "EntryNotFound")
        start = int(query.get("cursor", ["0"])[0])
        stop = start + self.hub.page
        url = f"{self.hub.url}{urlsplit(self.path).path}?cursor={stop}&recursive={recursive}"
        link = {"Link": f'<{url}>; rel="next"'} if stop < len(entries) else {}
        return Answer(entries[start:stop], headers=link)

    def paths_info(self, _: Query, repo: str, revision: str) -> Answer:
        _commit, files = self._files(self._repo(repo), revision)
        names = parse_qs(self.body.decode())["paths"]
        return Answer([files[name].entry(name) for name in names if name in files])

    def resolve(self, _: Query, repo: str, revision: str, path: str) -> Answer:
        commit, files = self._files(self._repo(repo, bytes_of_files=True), revision)
        if not (blob := files.get(path)):
            raise RefusedError(404, "Entry not found", "EntryNotFound", X_Repo_Commit=commit)
        headers = {"X-Repo-Commit": commit}
        if not blob.lfs:
            return self._ranged(blob, headers)
        headers |= {"X-Linked-Size": str(blob.size), "X-Linked-ETag": f'"{blob.lfs}"'}
        headers |= {"Location": f"{self.hub.cdn}/objects/{blob.lfs}/{quote(path)}"}
        return Answer(status=302, headers=headers)

    def download(self, _: Query, oid: str) -> Answer:
        return self._ranged(self.hub.objects[oid], {})

    # writing

    def create_repo(self, _: Query) -> Answer:
        self._check_may_write()
        asked = json.loads(self.body)
        name = f"{asked.get('organization') or 'me'}/{asked['name']}"
        url = f"{self.hub.url}/{name}"
        if name in self.hub.repos:
            return Answer({"error": "You already created this model repo", "url": url}, 409)
        private = asked.get("visibility") == "private"
        self.hub.repos[name] = repo = Repo(name, private, readers={str(self.token)})
        repo.commit({".gitattributes": self.hub.put(b"*.safetensors filter=lfs\n", False)})
        return Answer({"url": url, "name": name})

    def create_branch(self, _: Query, repo: str, revision: str) -> Answer:
        self._check_may_write()
        branches = self._repo(repo).branches
        if revision in branches:
            raise RefusedError(409, f"Reference {revision} already exists")
        branches[revision] = branches["main"]
        return Answer({})

    def auth_check(self, _: Query, repo: str) -> Answer:
        self._repo(repo)
        self._check_may_write()
        return Answer({})

    def validate_yaml(self, _: Query) -> Answer:
        card = re.match(r"---\n(.*?)\n---", json.loads(self.body)["content"], re.DOTALL)
        try:
            yaml.safe_load(card[1] if card else "")
        except yaml.YAMLError as error:
            return Answer({"errors": [{"message": str(error)}]}, 400)
        return Answer({"errors": [], "warnings": []})

    def preupload(self, _: Query, repo: str, revision: str) -> Answer:
        self._check_may_write()
        _commit, files = self._files(self._repo(repo), revision)
        asked = json.loads(self.body)["files"]
        return Answer({"files": [upload_mode(one, files) for one in asked]})

    def batch(self, _: Query, repo: str) -> Answer:
        self._check_may_write()
        self._repo(repo)
        asked = json.loads(self.body)["objects"]
        return Answer({"transfer": "basic", "objects": [self._transfer(one) for one in asked]})

    def _transfer(self, asked: dict[str, Any]) -> dict[str, Any]:
        if asked["oid"] in self.hub.objects:  # nothing to upload
            return asked
        return asked | {"actions": {"upload": {"href": f"{self.hub.cdn}/objects/{asked['oid']}"}}}

    def upload(self, _: Query, oid: str) -> Answer:
        if sha256(self.body).hexdigest() != oid:
            raise RefusedError(400, "the bytes have another hash")
        self.hub.objects[oid] = self.hub.put(self.body, True)
        return Answer()

    def commit(self, _: Query, repo: str, revision: str) -> Answer:
        self._check_may_write()
        found = self._repo(repo)
        head, files = self._files(found, revision)
        header, *operations = [json.loads(line) for line in self.body.splitlines()]
        if header["value"].get("parentCommit", head) != head:
            raise RefusedError(412, "A commit has happened since. Please refresh and try again.")
        files = dict(files)
        for operation in operations:
            self._apply(operation, files)
        commit = found.commit(files, revision, header["value"]["summary"])
        url = f"{self.hub.url}/{repo}/commit/{commit}"
        return Answer({"success": True, "commitUrl": url, "commitOid": commit})

    def _apply(self, operation: Mapping[str, Any], files: dict[str, Blob]) -> None:
        path = operation["value"]["path"]
        if operation["key"] != "deletedFile":
            files[path] = self._added(operation)
        elif not files.pop(path, None):
            raise RefusedError(404, "A file with this name doesn't exist", "EntryNotFound")

    def _added(self, operation: Mapping[str, Any]) -> Blob:
        value = operation["value"]
        if operation["key"] == "file":
            return self.hub.put(base64.b64decode(value["content"]), False)
        if operation["key"] != "lfsFile":
            raise RefusedError(400, f"cannot commit {value['path']}")
        if value["oid"] not in self.hub.objects:
            said = "Your push was rejected because an LFS pointer pointed to a file that does not"
            raise RefusedError(400, f"{said} exist.")
        return self.hub.objects[value["oid"]]


_REPO, _REVISION = r"(?P<repo>[^/]+/[^/]+)", r"(?P<revision>[^/]+)"
_MODEL, _OBJECT = f"/api/models/{_REPO}", r"/objects/(?P<oid>[0-9a-f]{64})"

ROUTES: tuple[tuple[str, str, Callable[..., Answer]], ...] = (
    ("GET", f"{_MODEL}(/revision/{_REVISION})?", Endpoints.info),
    ("GET", f"{_MODEL}/tree/{_REVISION}(/(?P<path>.+))?", Endpoints.tree),
    ("POST", f"{_MODEL}/paths-info/{_REVISION}", Endpoints.paths_info),
    ("GET HEAD", f"/{_REPO}/resolve/{_REVISION}/(?P<path>.+)", Endpoints.resolve),
    ("GET HEAD", f"{_OBJECT}/.+", Endpoints.download),
    ("POST", "/api/repos/create", Endpoints.create_repo),
    ("POST", f"{_MODEL}/branch/{_REVISION}", Endpoints.create_branch),
    ("GET", f"{_MODEL}/auth-check/write", Endpoints.auth_check),
    ("POST", "/api/validate-yaml", Endpoints.validate_yaml),
    ("POST", f"{_MODEL}/preupload/{_REVISION}", Endpoints.preupload),
    ("POST", f"/{_REPO}\\.git/info/lfs/objects/batch", Endpoints.batch),
    ("PUT", _OBJECT, Endpoints.upload),
    ("POST", f"{_MODEL}/commit/{_REVISION}", Endpoints.commit),
)
