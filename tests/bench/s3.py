"""The part of S3 that backup tools use, in memory, with a clock that is told what time it is, and a list of what it was asked for.

usage: s3.py PORT. Whoever asks may. To steer it: POST /-/ahead?seconds=N (its clock), /-/delay?milliseconds=N (before every answer),
/-/copy?from=BUCKET&to=BUCKET; GET /-/counts: requests by kind and bytes since it was asked before, GET /-/requests: each of them,
GET /-/size?bucket=BUCKET: bytes and objects.
"""

import hashlib
import re
import sys
import threading
from collections import Counter
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import gmtime, sleep, strftime, time
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape, unescape

PAGE = 1000
LOCK = threading.Lock()
BUCKETS = {}  # name of bucket: name: (bytes, time, hash)
KINDS = ["get", "head", "list", "put", "delete", "sent", "received"]
STATE = {"ahead": 0.0, "delay": 0.0, "counts": Counter(), "requests": []}


def xml(text, status=200):
    return status, {"Content-Type": "application/xml"}, f"<?xml version='1.0' encoding='UTF-8'?>{text}".encode()


def failure(status, code):
    return xml(f"<Error><Code>{code}</Code><Message>{code}</Message></Error>", status)


def unchunked(data):
    """What stands in parts, each with its length and signature before it."""
    parts, at = [], 0
    while at < len(data):
        end = data.index(b"\r\n", at)
        length = int(data[at:end].split(b";")[0], 16)
        parts.append(data[end + 2 : end + 2 + length])
        if length == 0:
            break
        at = end + 2 + length + 2
    return b"".join(parts)


def get(objects, name, wanted):
    if name not in objects:
        return failure(404, "NoSuchKey")
    data, modified, etag = objects[name]
    about = {"ETag": f'"{etag}"', "Last-Modified": formatdate(modified, usegmt=True), "Accept-Ranges": "bytes"}
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", wanted or "")
    if not match:
        return 200, about, data
    if not match[1]:
        start, end = max(len(data) - int(match[2]), 0), len(data)
    else:
        start, end = int(match[1]), min(int(match[2]) + 1 if match[2] else len(data), len(data))
    if start >= end:
        return failure(416, "InvalidRange")
    return 206, about | {"Content-Range": f"bytes {start}-{end - 1}/{len(data)}"}, data[start:end]


def listing(bucket, objects, query):
    one = lambda key, default="": query.get(key, [default])[0]
    prefix, delimiter, page_max = one("prefix"), one("delimiter"), min(int(one("max-keys", str(PAGE))), PAGE)
    after = one("continuation-token") or one("start-after") or one("marker")
    written = quote if one("encoding-type") == "url" else escape
    with LOCK:
        names = sorted(name for name in objects if name.startswith(prefix) and name > after)
        rows = [(name, objects[name]) for name in names]
    lines, folders, last, is_cut = [], set(), "", False
    for name, (data, modified, etag) in rows:
        folder = prefix + name[len(prefix) :].partition(delimiter)[0] + delimiter if delimiter and delimiter in name[len(prefix) :] else ""
        if folder and (folder in folders or after.startswith(folder)):
            continue
        if len(lines) == page_max:
            is_cut = True
            break
        last = folder + "\uffff" if folder else name
        if folder:
            folders.add(folder)
            lines.append(f"<CommonPrefixes><Prefix>{written(folder)}</Prefix></CommonPrefixes>")
            continue
        received = strftime("%Y-%m-%dT%H:%M:%S.000Z", gmtime(modified))
        lines.append(f"<Contents><Key>{written(name)}</Key><LastModified>{received}</LastModified><ETag>&quot;{etag}&quot;</ETag>")
        lines[-1] += f"<Size>{len(data)}</Size><StorageClass>STANDARD</StorageClass></Contents>"
    token = f"<NextContinuationToken>{escape(last)}</NextContinuationToken>" if is_cut else ""
    return xml(
        f"<ListBucketResult xmlns='http://s3.amazonaws.com/doc/2006-03-01/'><Name>{bucket}</Name><Prefix>{written(prefix)}</Prefix>"
        f"<KeyCount>{len(lines)}</KeyCount><MaxKeys>{page_max}</MaxKeys><IsTruncated>{str(is_cut).lower()}</IsTruncated>{token}"
        + "".join(lines)
        + "</ListBucketResult>"
    )


def steer(verb, query):
    one = lambda key: query[key][0]
    with LOCK:
        if verb == "ahead":
            STATE["ahead"] = float(one("seconds"))
        elif verb == "delay":
            STATE["delay"] = float(one("milliseconds")) / 1000
        elif verb == "copy":
            BUCKETS[one("to")] = dict(BUCKETS[one("from")])
        elif verb == "size":
            objects = BUCKETS[one("bucket")].values()
            return 200, {}, f"{sum(len(data) for data, _, _ in objects)} {len(objects)}\n".encode()
        elif verb == "requests":
            return 200, {}, "".join(f"{line}\n" for line in STATE["requests"]).encode()
        elif verb == "counts":
            counts, STATE["counts"], STATE["requests"] = STATE["counts"], Counter(), []
            return 200, {}, "".join(f"{kind} {counts[kind]}\n" for kind in KINDS).encode()
        else:
            return failure(404, "NoSuchVerb")
    return 200, {}, b""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Otherwise every answer waits for the client's delayed acknowledgement.
    disable_nagle_algorithm = True
    wbufsize = -1

    def date_time_string(self, timestamp=None):
        return super().date_time_string(time() + STATE["ahead"] if timestamp is None else timestamp)

    def answer(self, data, bucket, name, query):
        objects = BUCKETS.get(bucket)
        if not name and self.command == "PUT":
            with LOCK:
                BUCKETS.setdefault(bucket, {})
            return 200, {}, b""
        if objects is None:
            return failure(404, "NoSuchBucket")
        if not name and self.command == "POST" and "delete" in query:
            gone = [unescape(key) for key in re.findall(r"<Key>(.*?)</Key>", data.decode())]
            with LOCK:
                for key in gone:
                    objects.pop(key, None)
            return xml("<DeleteResult>" + "".join(f"<Deleted><Key>{escape(key)}</Key></Deleted>" for key in gone) + "</DeleteResult>")
        if not name and "location" in query:
            return xml("<LocationConstraint xmlns='http://s3.amazonaws.com/doc/2006-03-01/'></LocationConstraint>")
        if not name:
            return (200, {}, b"") if self.command == "HEAD" else listing(bucket, objects, query)
        if self.command == "PUT":
            etag = hashlib.md5(data).hexdigest()
            with LOCK:
                if self.headers.get("If-None-Match") == "*" and name in objects:
                    return failure(412, "PreconditionFailed")
                objects[name] = (data, int(time() + STATE["ahead"]), etag)
            return 200, {"ETag": f'"{etag}"'}, b""
        if self.command == "DELETE":
            with LOCK:
                objects.pop(name, None)
            return 204, {}, b""
        if self.command == "POST":
            return failure(501, "NotImplemented")
        return get(objects, name, self.headers.get("Range"))

    def handle_one(self):
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "aws-chunked" in self.headers.get("Content-Encoding", "") or self.headers.get("X-Amz-Content-Sha256", "").startswith("STREAMING-"):
            data = unchunked(data)
        url = urlsplit(self.path)
        bucket, _, name = url.path.lstrip("/").partition("/")
        bucket, name, query = unquote(bucket), unquote(name), parse_qs(url.query, keep_blank_values=True)
        if bucket == "-":
            status, headers, body = steer(name, query)
        else:
            if STATE["delay"]:
                sleep(STATE["delay"])
            status, headers, body = self.answer(data, bucket, name, query)
            kind = {"POST": "delete", "GET": "get" if name else "list"}.get(self.command, self.command.lower())
            with LOCK:
                STATE["counts"].update({kind: 1, "received": len(data), "sent": 0 if self.command == "HEAD" else len(body)})
                STATE["requests"].append(f"{time():.4f} {kind} {name or url.query} {self.headers.get('Range', '-')} {status} {len(body)}")
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.wfile.flush()

    do_GET = do_HEAD = do_PUT = do_DELETE = do_POST = handle_one

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
