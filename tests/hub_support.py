"""A hub of our own on loopback, which speaks enough of both hubs' languages for their real clients.

    with Hub() as hub:
        hub.put("ann/small", folder)                     # on the branch "main" (ModelScope: "master")
        hub.environment(tmp_path)                        # what points both clients here, and keeps them in tmp_path

It notes every request, can ask for a token, break off in the middle of a file, and hold back answers.
"""

import hashlib
import json
import socket
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_of_the_tests"


class Hub:
    """Repositories by name, each with commits of {path: bytes}, and branches and tags that name one of these.

    Attributes:
        asked: the requests so far, each with .method, .path, .range and .token.
        locked: {name: "GatedRepo" or "RepoNotFound"}: what those are told who do not send the token.
        breaks_off_at: {path: bytes}: there the connection is cut, once.
        busy_then: whether such a file is busy from then on.
        busy: the paths that are not given for now (503).
        before: called with each request before it is answered.
    """

    def __init__(self):
        self.commits, self.names, self.asked, self.locked = {}, {}, [], {}
        self.breaks_off_at, self.busy_then, self.busy = {}, False, set()
        self.before, self.connections = lambda request: None, []
        handler = type("Handler", (Answers,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, args=[0.02], daemon=True).start()
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """From now on nobody answers, on connections that are open neither."""
        self.server.shutdown()
        self.server.server_close()
        for connection in self.connections:
            with suppress(OSError):                      # closed already
                connection.shutdown(socket.SHUT_RDWR)

    def put(self, name, files, *revisions):
        """A new commit: a folder's files, or {path: bytes}. `revisions` (the main branch if none) name it."""
        if not isinstance(files, dict):
            paths = [path for path in Path(files).rglob("*") if path.is_file()]
            files = {path.relative_to(files).as_posix(): path.read_bytes() for path in paths}
        commit = hashlib.sha1(repr([name, sorted(files.items())]).encode()).hexdigest()
        self.commits[name, commit] = files
        for revision in revisions or ("main", "master"):
            self.names[name, revision] = commit
        return commit

    def environment(self, home):
        """The variables that lead both clients here, and nowhere else."""
        home = Path(home)
        return {"HF_ENDPOINT": self.url, "HF_HOME": str(home / "hf"), "HF_HUB_DISABLE_XET": "1",
                "HF_HUB_DISABLE_TELEMETRY": "1", "HOME": str(home), "NO_PROXY": "127.0.0.1",
                "MODELSCOPE_ENDPOINT": self.url, "MODELSCOPE_CACHE": str(home / "ms"),
                "MODELSCOPE_HOME": str(home / "ms_home")}  # fmt: skip

    def gets(self, file=None):
        """The requests for the content of a file, or of any."""
        gets = [request for request in self.asked if request.method == "GET" and request.file]
        return [request for request in gets if file in (None, request.file)]

    def files_given(self):
        """The paths in repositories whose content was asked for."""
        return {request.file for request in self.gets()}


class Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def setup(self):
        super().setup()
        self.hub.connections.append(self.connection)

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        request = SimpleNamespace(method=self.command, path=self.path, range=self.headers.get("Range"), token=token,
                                  file=None)  # fmt: skip
        self.hub.asked.append(request)
        parts = unquote(url.path).strip("/").split("/")
        if parts[:3] == ["api", "v1", "models"]:
            answer = self.modelscope(request, "/".join(parts[3:5]), parts[5:], query)
        elif parts[:2] == ["api", "models"]:
            answer = self.hugging_face(request, "/".join(parts[2:4]), parts[4:])
        elif parts[2:3] == ["resolve"]:
            request.file = "/".join(parts[4:])
            answer = self.hugging_face(request, "/".join(parts[:2]), parts[2:])
        else:
            answer = 404, {}, b""
        self.hub.before(request)
        try:
            self.send(*answer, request)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    # ------------------------------------------------------------------------------------------------ two languages

    def hugging_face(self, request, name, rest):
        if name in self.hub.locked and request.token != TOKEN:
            return 401, {"X-Error-Code": self.hub.locked[name], "X-Error-Message": "Not for you"}, b""
        if not self.known(name):
            return 404, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}, b""
        revision = rest[1] if len(rest) > 1 else "main"
        commit, files = self.commit(name, revision)
        if commit is None:
            return 404, {"X-Error-Code": "RevisionNotFound", "X-Error-Message": f"Invalid rev id: {revision}"}, b""
        if rest[:1] == ["tree"]:
            tree = [{"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                    for path, data in files.items()]  # fmt: skip
            return as_json(tree)
        if request.file:
            if request.file not in files:
                return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}, b""
            data = files[request.file]
            return 200, {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha1(data).hexdigest()}"',
                         "X-Linked-Size": str(len(data))}, data  # fmt: skip
        return as_json({"_id": "0", "id": name, "sha": commit, "private": False, "tags": [], "downloads": 0, "likes": 0,
                        "siblings": [{"rfilename": path} for path in files]})  # fmt: skip

    def modelscope(self, request, name, rest, query):
        commit, files = self.commit(name, query.get("Revision", "master"))
        if name in self.hub.locked and request.token != TOKEN:
            return as_json({"Code": 10010205001, "Message": "no permission", "Success": False}, 403)
        if commit is None:
            return as_json({"Code": 10010205001, "Message": "the repository or revision is not there"}, 404)
        if rest == ["repo", "files"]:
            listed = [{"Path": path, "Name": Path(path).name, "Type": "blob", "Size": len(data),
                       "Sha256": hashlib.sha256(data).hexdigest()} for path, data in files.items()]  # fmt: skip
            return as_json({"Code": 200, "Data": {"Files": listed}, "Success": True})
        if rest == ["repo"] and query.get("FilePath") in files:
            request.file = query["FilePath"]
            return 200, {}, files[request.file]
        return as_json({"Code": 200, "Data": {}, "Success": True})

    def known(self, name):
        return any(name == of for of, _ in self.hub.commits)

    def commit(self, name, revision):
        commit = self.hub.names.get((name, revision), revision)
        return (commit, self.hub.commits[name, commit]) if (name, commit) in self.hub.commits else (None, {})

    # ------------------------------------------------------------------------------------------------------- bytes

    def send(self, status, headers, body, request):
        """The answer, or the part of it that a Range asks for; or what happens instead."""
        hub, file = self.hub, request.file
        if file in hub.busy and self.command == "GET":
            status, headers, body = 503, {}, b""
        elif status == 200 and file and request.range:
            start = int(request.range.removeprefix("bytes=").split("-")[0])
            headers = headers | {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"}
            status, body = 206, body[start:]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if status == 200 and file in hub.breaks_off_at:
            self.wfile.write(body[: hub.breaks_off_at.pop(file)])
            hub.busy |= {file} if hub.busy_then else set()
            self.close_connection = True
        else:
            self.wfile.write(body)


def as_json(content, status=200):
    return status, {"Content-Type": "application/json"}, json.dumps(content).encode()
