"""File transfers on the far side: ``take`` uses the connection of the current call, ``call`` needs one message each.

A function on a stock server can use the socket that it was called through.  ``take`` exchanges frames over it until the
client says bye or leaves; then it returns, and Pyro continues with the connection.  So files move at full speed, and
requests need not wait for one another.  On a multiplex server that would block everyone else, so there each ``call``
carries some frames in and some out, and keeps nothing in between.

Requests are CONTROL frames ``{"op": …}``.  Each gets exactly one CONTROL frame without ``"more"`` as its answer, in the
order of the requests; ``{"error": sentence, "code": word}`` if it failed.

    find    sources, cwd              files that match: for each path, real (path), name, kind, size, mode, mtime
    where   path, cwd                 facts about a destination
    total   path                      number of files and bytes below a folder
    list    path, after, end, limit   entries below a folder, see trees.walk
    sums    path, start, limit        checksums of a file's pieces
    read    path, offset, limit       DATA and HOLE frames, then the answer
    look    path, size, mtime         what is at a path already, and the size of a part
    write   path, size, mtime, offset DATA and HOLE frames follow, then one of the next three, which gets the answer
    done    mode, compare             put the file in place; ``same`` if ``compare`` and the content was already there
    pause                             stop for a moment: the next ``write`` resumes
    drop    keep                      stop: keep the part, or delete it
    folder, link, attributes          make a folder or link; set mode and time
    remove  path                      delete a file, a link, or an empty folder
    all     requests                  several requests in order, each with its answer
    bye
"""

import os
import socket
import sys

from .. import sockets
from ..wire import frames
from ..wire.files import file_names, receiving, trees

# Seconds of silence before we give up; the client may be reading a large file. Keepalive notices a dead one sooner.
PATIENCE = 900.0
# Most entries of one ``list``, and roughly how many bytes of names.
MAX_ENTRIES = 1024
MAX_TEXT = 100 * 1000


class _Bye(Exception):
    """The client has said bye."""


class Worker:
    """Carries out one client's requests: call ``handle(kind, payload)`` for each frame; answers are sent by ``out``."""

    def __init__(self, out, patient=True):
        self._out = out
        self._incoming = None  # the Incoming being written
        self._failed = None  # why the current file was refused, as an answer; its frames are ignored
        self._walk = None  # (path, position, generator) of the last list; the next list continues there
        self._patient = patient  # answers may take long: send "more" in between

    def __repr__(self):
        return "<Worker %r>" % (self._incoming,)

    def handle(self, kind, payload):
        """Handle one frame of the client; raises _Bye at the last."""
        if kind == frames.CONTROL:
            self._control(payload)
        elif self._incoming is not None:
            try:
                if kind == frames.DATA:
                    self._incoming.write(payload)
                else:
                    self._incoming.skip(payload)
            except (OSError, file_names.Refused) as e:
                self._fail(e)

    def _control(self, request):
        op = request.get("op")
        if op == "bye":
            raise _Bye
        if op == "all":
            for one in request["requests"]:
                self._control(one)
            return
        try:
            if op == "write":
                self._write(request)
                return
            answer = getattr(self, "_do_" + str(op))(request)
        except (OSError, file_names.Refused) as e:
            answer = _error(e)
        except Exception as e:  # the client waits for an answer, whatever is wrong with its request
            answer = {"error": "%s: %s" % (type(e).__name__, e), "code": "failed"}
        self._out.send_control(answer)

    def close(self):
        """The client is gone: keep a part if it is worth it."""
        if self._incoming is not None:
            self._incoming.stop(keep=True)
            self._incoming = None

    # -- looking

    def _do_find(self, request):
        found = []
        for pattern in request["sources"]:
            for path in trees.expand(file_names.from_wire(pattern), _folder(request)):
                what = trees.describe(path)
                name = os.path.basename(os.path.normpath(path))
                if os.path.islink(path):  # the user named this link, so follow it; links below are not followed
                    path = os.path.realpath(path)
                one = dict(what, source=pattern, path=file_names.to_wire(path), name=file_names.to_wire(name))
                found.append(dict(one, real=file_names.to_wire(os.path.realpath(path))))
                if len(found) > MAX_ENTRIES:
                    raise file_names.Refused("%s names more than %d files; name their folder" % (pattern, MAX_ENTRIES))
        return {"found": found}

    def _do_where(self, request):
        path = trees.resolve(file_names.from_wire(request["path"]), _folder(request))
        if os.path.islink(path):  # the user named this link, so follow it, and write to its target
            path = os.path.realpath(path)
        what = trees.describe(path)
        parent = trees.describe(os.path.dirname(path.rstrip(b"/")) or b"/")["kind"]
        return dict(what, path=file_names.to_wire(path), parent=parent)

    def _do_total(self, request):
        count = size = 0
        for _, what in trees.walk(file_names.from_wire(request["path"])):
            if what["kind"] == "file":
                count += 1
                size += what["size"]
                if self._patient and count % 5000 == 0:
                    self._out.send_control({"more": True})
        return {"files": count, "bytes": size}

    def _do_list(self, request):
        path = file_names.from_wire(request["path"])
        after = tuple(file_names.from_wire(name) for name in request["after"])
        position = (path, after, bool(request["end"]))
        if self._walk is None or self._walk[0] != position:
            self._walk = (position, trees.walk(path, after, position[2]))
        walk, entries, text = self._walk[1], [], 0
        for names, what in walk:
            entry = dict(what, path=[file_names.to_wire(name) for name in names])
            entries.append(entry)
            text += sum(map(len, names)) + len(what.get("target", "")) + 100
            after, end = names, what["kind"] == "end"
            if len(entries) >= min(request["limit"], MAX_ENTRIES) or text > MAX_TEXT:
                self._walk = ((path, after, end), walk)
                return {"entries": entries, "last": False}
        self._walk = None
        return {"entries": entries, "last": True}

    def _do_sums(self, request):
        with trees.Source(file_names.from_wire(request["path"])) as source:
            limit = min(request["limit"], source.size)
            batch = []
            for one in trees.sums(source, request["start"], limit, self._out.room, self._out.hash):
                batch.append(one)
                if self._patient:
                    self._out.send_control({"sums": batch, "more": True})
                    batch = []
        return {"sums": batch, "size": source.size}

    # -- sending

    def _do_read(self, request):
        with trees.Source(file_names.from_wire(request["path"])) as source:
            at, end = request["offset"], source.size
            if request["limit"] is not None:
                end = min(end, at + request["limit"])
            # First its facts for the writer: size and time determine the name of the part.
            self._out.send_control({"size": source.size, "mode": source.mode, "mtime": source.mtime, "more": True})
            while at < end:
                hole = source.hole_at(at, end)
                if hole:
                    self._out.send_hole(hole)
                    at += hole
                    continue
                count = source.read_into(self._out.room[: min(trees.CHUNK, end - at)], at)
                if not count:
                    raise file_names.Refused("it became shorter while it was read", "changed")
                self._out.send_room(count)
                at += count
            return {"at": at, "last": at == source.size, "changed": source.changed}

    # -- receiving

    def _do_look(self, request):
        path = file_names.from_wire(request["path"])
        what = trees.describe(path, follow=False)
        return dict(what, part=receiving.part_size(path, request["size"], request["mtime"]))

    def _write(self, request):
        self._failed = None
        self.close()
        try:
            path = file_names.from_wire(request["path"])
            self._incoming = receiving.Incoming(path, request["size"], request["mtime"], request["offset"])
        except (OSError, file_names.Refused) as e:
            self._fail(e)

    def _fail(self, error):
        """Refuse the current file, and say so at once, since the client may have much of it left to send."""
        self._failed = _error(error)
        if self._incoming is not None:
            self._incoming.stop(keep=False)
            self._incoming = None
        self._out.send_control(dict(self._failed, more=True))

    def _under_way(self):
        incoming, self._incoming = self._incoming, None
        if incoming is None:
            failed, self._failed = self._failed, None
            raise file_names.Refused(*((failed["error"], failed["code"]) if failed else ("no file is under way",)))
        return incoming

    def _do_done(self, request):
        incoming = self._under_way()
        try:
            if request["compare"] and incoming.same_as_there(self._out.room):
                incoming.stop(keep=False)
                trees.set_attributes(incoming.path, request["mode"], request["mtime"])
                return {"same": True}
            incoming.finish(request["mode"])
        except BaseException:  # raised again, whatever it is; a file that nobody finishes is removed
            incoming.stop(keep=False)
            raise
        return {"same": False}

    def _do_pause(self, request):
        incoming = self._under_way()
        incoming.pause()
        return {"at": incoming.at}

    def _do_drop(self, request):
        kept = self._under_way().stop(keep=request.get("keep", False))
        return {"kept": kept}

    def _do_folder(self, request):
        return {"made": trees.make_folder(file_names.from_wire(request["path"]))}

    def _do_link(self, request):
        return {"made": trees.make_link(file_names.from_wire(request["path"]), file_names.from_wire(request["target"]))}

    def _do_remove(self, request):
        trees.remove(file_names.from_wire(request["path"]))
        return {}

    def _do_attributes(self, request):
        trees.set_attributes(file_names.from_wire(request["path"]), request["mode"], request["mtime"])
        return {}


def take(nonce, name, daemon):
    """Serve requests over the socket of the current call until bye. ``nonce`` is random bytes from the client, which
    wants seals of the hash ``name``; ``daemon`` is Pyro's, with the HMAC key. The frames' key is made from nonce and
    HMAC key and from random bytes of ours, so what was sent on one connection is not valid on any other."""
    sock = sys.modules["Pyro4.core"].current_context.client.sock
    before = sock.gettimeout()
    if sock.family in (socket.AF_INET, getattr(socket, "AF_INET6", None)):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    ours = os.urandom(frames.NONCE)
    key = frames.connection_key(daemon._pyroHmacKey, nonce, ours)
    link = frames.Frames(sock.sendall, lambda view: sockets.fill(sock, view), key, b"server", name)
    worker = Worker(link)
    sock.settimeout(PATIENCE)
    try:
        sock.sendall(frames.GREETING + ours)
        while True:
            worker.handle(*link.receive())
    except _Bye:
        pass
    except (OSError, frames.Damaged):
        sockets.shut(sock)  # what else arrives on it is not a Pyro message
    finally:
        worker.close()
        try:
            sock.settimeout(before)
        except OSError:
            pass


def call(data, talk, number):
    """The same in one message: frames of requests in, frames of answers out. ``number`` is the call's number in its
    conversation, and is valid once."""
    key = frames.call_key(talk, number)
    box = frames.Box(data)
    link = frames.Frames(box.send, box.receive, key, b"server")
    worker = Worker(link, patient=False)
    try:
        while not box.empty:
            worker.handle(*link.receive())
    finally:
        worker.close()
    return bytes(box.sent)


def _folder(request):
    """The folder for relative paths. A client that sends none has no relative paths, and our own may be deleted."""
    return file_names.from_wire(request["cwd"] or "/")


def _error(error):
    if isinstance(error, OSError):
        error = file_names.why(error)
    return {"error": str(error), "code": error.code}
