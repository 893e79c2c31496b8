"""An application of the usual kind: so many workers, one request each, everybody else waits in the kernel's queue.

GET /without-c answers by itself. GET /with-c asks the next application first, and waits for it as long as it takes
(60 s at most, what nobody ever changes); without a next one it is the last that asks.
"""

import argparse
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer

parser = argparse.ArgumentParser()
parser.add_argument("--name", required=True)
parser.add_argument("--port", type=int, required=True)
parser.add_argument("--workers", type=int, default=8)
parser.add_argument("--next", required=True, help="the URL that /with-c asks")
arguments = parser.parse_args()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        status = 200
        if self.path == "/with-c":
            try:
                with urllib.request.urlopen(arguments.next, timeout=60) as answer:
                    answer.read()
            except OSError:
                status = 502
        self.send_response(status)
        self.send_header("x-backend", arguments.name)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"done\n")

    def log_message(self, *_):
        pass


class Server(HTTPServer):
    """Takes a connection when a worker is free, as gunicorn's sync workers do."""

    request_queue_size = 128
    free = threading.Semaphore(arguments.workers)
    workers = ThreadPoolExecutor(arguments.workers)

    def get_request(self):
        self.free.acquire()
        try:
            return super().get_request()
        except BaseException:
            self.free.release()
            raise

    def process_request(self, request, client_address):
        self.workers.submit(self.work, request, client_address)

    def work(self, request, client_address):
        try:
            self.finish_request(request, client_address)
        except OSError:
            pass  # nobody waits for the answer any more
        finally:
            self.shutdown_request(request)
            self.free.release()


Server(("127.0.0.1", arguments.port), Handler).serve_forever()
