"""An S3 server (moto's, in memory) on a free port of the loopback, with the bucket `airlock`.

It answers one request at a time: moto looks whether an object exists and then writes it, and between the two nobody else may
come, or two puts with `If-None-Match: *` would both be done. Prints its port when it is ready; ends when its standard input does.
"""

import logging
import sys
import threading
import urllib.request

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

logging.getLogger("werkzeug").setLevel(logging.ERROR)
application = DomainDispatcherApplication(create_backend_app)
turn = threading.Lock()


def one_at_a_time(environ, start_response):
    with turn:
        return application(environ, start_response)


server = make_server("127.0.0.1", 0, one_at_a_time, threaded=True)
threading.Thread(target=server.serve_forever, daemon=True).start()
bucket = urllib.request.Request(f"http://127.0.0.1:{server.port}/airlock", method="PUT")
urllib.request.urlopen(bucket, timeout=60).close()
print(server.port, flush=True)
sys.stdin.read()
