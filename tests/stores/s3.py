#!/usr/bin/env python3
"""moto's S3, one request after the other: it looks whether a name is taken and takes it in two steps, which two writers can get between.

usage: s3.py PORT
"""

import sys
import threading

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple

app = DomainDispatcherApplication(create_backend_app)
alone = threading.Lock()


def serve(environ, start_response):
    with alone:
        return list(app(environ, start_response))


run_simple("127.0.0.1", int(sys.argv[1]), serve, threaded=True)
