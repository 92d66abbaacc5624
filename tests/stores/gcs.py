"""The part of Google Cloud Storage's XML API that stores use, in memory: a stand-in, because no emulator has it with its conditions.

usage: gcs.py PORT TOKEN. Two buckets: 'steady' answers as documented; 'unsteady' refuses every fifth request, and loses the answer of
every seventh that it served.
"""

import hashlib
import itertools
import re
import sys
import threading
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import gmtime, strftime, time
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

PAGE = 1000
TOKEN = sys.argv[2]
LOCK = threading.Lock()
GENERATIONS = itertools.count(1)
REQUESTS = itertools.count(1)
BUCKETS = {"steady": {}, "unsteady": {}}  # name: (bytes, generation, time)


def failure(status, code, message):
    text = f"<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return status, {"Content-Type": "application/xml"}, text.encode()


def about(held):
    data, generation, modified = held
    etag = hashlib.md5(data).hexdigest()
    return {"ETag": f'"{etag}"', "x-goog-generation": str(generation), "Last-Modified": formatdate(modified, usegmt=True)}


def put(objects, name, data, condition):
    with LOCK:
        held = objects.get(name)
        if condition is not None and int(condition) != (held[1] if held else 0):
            return failure(412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold.")
        objects[name] = (data, next(GENERATIONS), int(time()))
        return 200, about(objects[name]), b""


def get(objects, name, wanted):
    held = objects.get(name)
    if held is None:
        return failure(404, "NoSuchKey", "The specified key does not exist.")
    data = held[0]
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", wanted or "")
    if not match:
        return 200, about(held), data
    start = int(match[1])
    end = min(int(match[2]) + 1 if match[2] else len(data), len(data))
    if start >= len(data) or start >= end:
        return failure(416, "InvalidRange", "The requested range cannot be satisfied.")
    return 206, about(held) | {"Content-Range": f"bytes {start}-{end - 1}/{len(data)}"}, data[start:end]


def delete(objects, name):
    if objects.pop(name, None) is None:
        return failure(404, "NoSuchKey", "The specified key does not exist.")
    return 204, {}, b""


def listing(bucket, objects, query):
    if query.get("list-type") != ["2"] or "delimiter" in query:
        return failure(501, "NotImplemented", "Only flat listings of version 2 are implemented.")
    prefix, after = query.get("prefix", [""])[0], query.get("start-after", [""])[0]
    after = query.get("continuation-token", [after])[0]
    with LOCK:
        names = sorted(name for name in objects if name.startswith(prefix) and name > after)
        page = [(name, objects[name]) for name in names[:PAGE]]
    lines = [f"<ListBucketResult xmlns='http://doc.s3.amazonaws.com/2006-03-01'><Name>{bucket}</Name><Prefix>{escape(prefix)}</Prefix>"]
    lines.append(f"<KeyCount>{len(page)}</KeyCount><IsTruncated>{str(len(names) > PAGE).lower()}</IsTruncated>")
    if len(names) > PAGE:
        lines.append(f"<NextContinuationToken>{escape(page[-1][0])}</NextContinuationToken>")
    for name, held in page:
        modified = strftime("%Y-%m-%dT%H:%M:%S.000Z", gmtime(held[2]))
        etag = escape(about(held)["ETag"])
        lines.append(f"<Contents><Key>{escape(name)}</Key><Generation>{held[1]}</Generation><LastModified>{modified}</LastModified>")
        lines.append(f"<ETag>{etag}</ETag><Size>{len(held[0])}</Size></Contents>")
    return 200, {"Content-Type": "application/xml"}, ("".join(lines) + "</ListBucketResult>").encode()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Otherwise every answer waits for the client's delayed acknowledgement.
    disable_nagle_algorithm = True

    def answer(self):
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlsplit(self.path)
        bucket, _, name = url.path.lstrip("/").partition("/")
        bucket, name = unquote(bucket), unquote(name)
        objects = BUCKETS.get(bucket)
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return failure(401, "AuthenticationRequired", "Authentication required.")
        if objects is None:
            return failure(404, "NoSuchBucket", "The specified bucket does not exist.")
        count = next(REQUESTS) if bucket == "unsteady" else 1
        if count % 5 == 0:
            return failure(503, "ServiceUnavailable", "Please try again.")
        if not name:
            result = listing(bucket, objects, parse_qs(url.query, keep_blank_values=True))
        elif self.command == "PUT":
            result = put(objects, name, data, self.headers.get("x-goog-if-generation-match"))
        elif self.command == "DELETE":
            result = delete(objects, name)
        else:
            result = get(objects, name, self.headers.get("Range"))
        return None if count % 7 == 0 else result

    def handle_one(self):
        result = self.answer()
        if result is None:
            self.close_connection = True
            return
        status, headers, body = result
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_PUT = do_DELETE = handle_one

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
