"""A web server on this machine that sends ranges of bytes, as fsspec asks for them."""

import os
import re
import threading
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer


class Ranged(SimpleHTTPRequestHandler):
    """Python's own server, with ranges (`served` of what was sent) or without."""

    served = None

    def log_message(self, *_):
        pass

    def do_GET(self):
        span = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if self.served is None or not span:
            if self.served is not None and os.path.exists(self.translate_path(self.path)):
                self.served.append((self.path, None))
            return super().do_GET()
        start, stop = int(span[1]), int(span[2]) + 1
        with open(self.translate_path(self.path), "rb") as file:
            file.seek(start)
            part = file.read(stop - start)
        self.served.append((self.path, len(part)))
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{stop - 1}/*")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        return self.wfile.write(part)


@contextmanager
def serving(folder, served):
    """The URL of a folder; `served` takes what was sent, or is None for a server that knows no ranges."""
    handler = type("Handler", (Ranged,), {"served": served})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
