"""A Hugging Face Hub on this machine, for tests: the endpoints that huggingface_hub calls.

Serves model repos on 127.0.0.1, and large files from a CDN, localhost on a second port, which
clients take for another host: their token does not go there. Every request is recorded with the
bytes that were sent for it, and faults can be planted. Uploads use the basic LFS transfer, which
huggingface_hub takes with HF_HUB_DISABLE_XET=1.
"""

import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from tests.hub_endpoints import Endpoints, Port
from tests.hub_store import Blob, Repo, make_blob


@dataclass
class Fault:
    """What goes wrong with the next `times` requests whose "METHOD path" matches a regex."""

    pattern: str
    times: int = 1
    # answer this instead
    status: int | None = None
    body: bytes = b"planted"
    # seconds before the answer, or before the cut if there is one
    stall: float = 0
    # bytes of the body after which the connection is cut
    cut_after: int | None = None


@dataclass
class Request:
    """A request as it was served; `sent` counts bytes of the answer's body."""

    method: str
    path: str
    range: str | None
    token: str | None
    sent: int = 0


class HubServer:
    """The server, running inside `with`. `tokens` may read; where the value is true, write.

    `page` is how many entries a page of a listing has. With `ranges` off, requests for a range
    are answered with the whole file. `store` is a folder for what is uploaded.
    """

    def __init__(self, store: Path, tokens: Mapping[str, bool] | None = None) -> None:
        self.store, self.tokens = store, dict(tokens or {})
        self.page, self.ranges = 1000, True
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, Blob] = {}
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.lock, self.closing = threading.Lock(), threading.Event()
        self._ports = [Port(self, Endpoints) for _ in range(2)]
        self.url = f"http://127.0.0.1:{self._ports[0].server_port}"
        self.cdn = f"http://localhost:{self._ports[1].server_port}"

    def __enter__(self) -> "HubServer":
        self.store.mkdir(parents=True, exist_ok=True)
        for port in self._ports:
            threading.Thread(target=port.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        for port in self._ports:
            port.shutdown()
            port.server_close()

    def environment(self, home: Path) -> dict[str, str]:
        """What points another process's huggingface_hub here, and its cache and token at `home`."""
        switches = ("HF_HUB_DISABLE_XET", "HF_HUB_DISABLE_TELEMETRY")
        return {"HF_ENDPOINT": self.url, "HF_HOME": str(home)} | dict.fromkeys(switches, "1")

    def constants(self, home: Path) -> dict[str, Any]:
        """The same as values of huggingface_hub.constants, which reads its environment once."""
        return {
            "ENDPOINT": self.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": self.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(home / "hub"),
            "HF_TOKEN_PATH": str(home / "token"),
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_DISABLE_TELEMETRY": True,
        }

    def add(self, repo_id: str, folder: Path, **kind: Any) -> Repo:
        """Publish a folder as the next commit of a repo's main branch."""
        repo = self.repos.setdefault(repo_id, Repo(repo_id, **kind))
        files = repo.commits[repo.read_folder(folder)].values()
        self.objects |= {blob.lfs: blob for blob in files if blob.lfs}
        return repo

    def put(self, data: bytes, lfs: bool) -> Blob:
        """Store the bytes of an upload."""
        path = self.store / sha256(data).hexdigest()
        path.write_bytes(data)
        return make_blob(path, lfs)

    def served(self, pattern: str = "") -> list[Request]:
        """The requests so far whose "METHOD path" matches a regex."""
        return [r for r in self.requests if re.search(pattern, f"{r.method} {r.path}")]

    def sent(self, pattern: str = "") -> int:
        """Bytes of the answers' bodies to those requests."""
        return sum(request.sent for request in self.served(pattern))

    def record(
        self, method: str, path: str, asked: str | None, token: str | None
    ) -> tuple[Request, Fault]:
        """Keep a request; with it, what is to go wrong."""
        request = Request(method, path, asked, token)
        with self.lock:
            self.requests.append(request)
            for fault in self.faults:
                if fault.times and re.search(fault.pattern, f"{method} {path}"):
                    fault.times -= 1
                    return request, fault
        return request, Fault("")
