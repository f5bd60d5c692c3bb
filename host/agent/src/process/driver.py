"""The persistent Python interpreter of a kernel.

Commands come as lines of JSON on the standard input, events go as lines of JSON to the pipe named by the first
argument. What the code prints through sys.stdout and sys.stderr travels as events, so that its order is exact; what
other processes print comes through the file descriptors 1 and 2, which the agent reads too.
"""
import ast
import base64
import builtins
import fcntl
import getpass
import io
import json
import linecache
import os
import queue
import re
import rlcompleter
import select
import signal
import struct
import sys
import termios
import threading
import time
import traceback
import types

HERE = __file__
PID = os.getpid()
control = os.dup(0)
_null = os.open(os.devnull, os.O_RDONLY)
os.dup2(_null, 0)
os.close(_null)
events = os.open(sys.argv[1], os.O_WRONLY)
wake_read, wake_write = os.pipe()

lock = threading.RLock()
jobs = queue.SimpleQueue()
answers = queue.SimpleQueue()


class Gate:
    """Keeps an interrupt from tearing an event apart."""

    depth = 0
    pending = False
    running = False

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            self.depth += 1
        lock.acquire()

    def __exit__(self, *_):
        lock.release()
        if threading.current_thread() is threading.main_thread():
            self.depth -= 1
            if self.depth == 0 and self.pending:
                self.pending = False
                raise KeyboardInterrupt


gate = Gate()


def on_interrupt(_signal, _frame):
    if not gate.running:
        return
    if gate.depth:
        gate.pending = True
    else:
        raise KeyboardInterrupt


def emit(event):
    data = (json.dumps(event) + "\n").encode()
    with gate:
        while data:
            data = data[os.write(events, data):]


quiet_until = 0.0
# Lines of the event pipe have a limit.
LARGEST = 700_000


def settle():
    """Waits (briefly) until the agent has read what other processes printed before."""
    global quiet_until
    now = time.monotonic()
    if now < quiet_until:
        return
    limit = now + 0.02
    while True:
        left = 0
        for fd in (1, 2):
            try:
                left += struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, b"\0\0\0\0"))[0]
            except OSError:
                pass
        if not left:
            return
        if time.monotonic() > limit:
            quiet_until = limit + 0.5
            return
        time.sleep(0.0005)


class Console:
    """What waits to be sent: text of one stream at a time, in order."""

    def __init__(self):
        self.kind = None
        self.parts = []
        self.size = 0

    def write(self, kind, text):
        with gate:
            if self.kind != kind:
                self.flush()
                self.kind = kind
            was_empty = not self.parts
            self.parts.append(text)
            self.size += len(text)
            if self.size > 8192 or "\n" in text:
                self.flush()
            elif was_empty:
                # The helper thread sends it in a moment, even if the line never ends.
                os.write(wake_write, b"x")

    def flush(self):
        with gate:
            if self.parts:
                text = "".join(self.parts).encode("utf-8", "backslashreplace").decode()
                self.parts.clear()
                self.size = 0
                settle()
                emit({"t": "out", "k": self.kind, "d": text})


console = Console()


class Stream(io.TextIOBase):
    """sys.stdout or sys.stderr."""

    encoding = "utf-8"
    errors = "backslashreplace"
    mode = "w"

    def __init__(self, kind, fd):
        self.kind, self.fd = kind, fd
        self.name = f"<{kind}>"
        self.buffer = io.FileIO(fd, "wb", closefd=False)

    def write(self, text):
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if text:
            if os.getpid() != PID:
                # A forked child shares the event pipe and the lock's state: it prints on its own.
                data = text.encode("utf-8", "backslashreplace")
                while data:
                    data = data[os.write(self.fd, data):]
            else:
                console.write(self.kind, text)
        return len(text)

    def flush(self):
        if os.getpid() == PID:
            console.flush()

    def fileno(self):
        return self.fd

    def writable(self):
        return True

    def close(self):
        pass


def ask(prompt, password):
    """Has the user type a line."""
    if os.getpid() != PID or threading.current_thread() is not threading.main_thread():
        raise EOFError("input is only available to the main thread of the kernel")
    sys.stdout.write(str(prompt))
    sys.stdout.flush()
    emit({"t": "input", "password": password})
    return answers.get()


class Input(io.TextIOBase):
    """sys.stdin."""

    encoding = "utf-8"
    name = "<stdin>"
    mode = "r"

    def readable(self):
        return True

    def readline(self, size=-1):
        return ask("", False) + "\n"

    def read(self, size=-1):
        return self.readline()

    def fileno(self):
        return 0

    def close(self):
        pass


RICH = (
    ("_repr_html_", "text/html"),
    ("_repr_svg_", "image/svg+xml"),
    ("_repr_png_", "image/png"),
    ("_repr_jpeg_", "image/jpeg"),
)


def show(value):
    """Shows a value as whoever made it wants it shown, besides its text."""
    for method, kind in RICH:
        try:
            data = getattr(value, method)()
            if isinstance(data, tuple):
                data = data[0]
            if not data or isinstance(value, type):
                continue
            if isinstance(data, bytes):
                data = base64.b64encode(data).decode()
            if len(data) > LARGEST:
                print(f"[{kind} of {len(data)} bytes is too large to be shown]", file=streams[1])
                continue
        except Exception:
            continue
        for stream in streams[:2]:
            stream.flush()
        emit({"t": "show", "k": kind, "v": data})


def display(*values):
    """For users' code."""
    for value in values:
        print(repr(value))
        show(value)


def on_value(value):
    """What becomes of the value of a last expression."""
    plain_hook(value)
    if value is not None:
        show(value)


def complete(job):
    try:
        line = job.get("code") or ""
        word = re.search(r"[\w.]*$", line).group()
        completer = rlcompleter.Completer(space)
        found = completer.attr_matches(word) if "." in word else completer.global_matches(word) if word else []
        found = list(dict.fromkeys(str(match) for match in found))[:500]
    except Exception:
        found = []
    emit({"t": "complete", "id": job.get("id"), "matches": found})


def listen():
    """The helper thread: commands, late output, and the end."""
    rest = b""
    while True:
        ready, _, _ = select.select([control, wake_read], [], [])
        if wake_read in ready:
            os.read(wake_read, 4096)
            time.sleep(0.05)
            console.flush()
        if control not in ready:
            continue
        data = os.read(control, 65536)
        if not data:
            # The agent is gone: so are we, and all that we started.
            os.killpg(os.getpgid(0), signal.SIGKILL)
        rest += data
        *lines, rest = rest.split(b"\n")
        for line in lines:
            job = json.loads(line)
            if job["op"] == "run":
                jobs.put(job)
            elif job["op"] == "input":
                answers.put(job["text"])
            elif job["op"] == "complete":
                complete(job)


def report(error):
    """Prints a traceback without our own frames."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == HERE:
        trace = trace.tb_next
    traceback.print_exception(type(error), error, trace)


def execute(code, count):
    name = f"<input-{count}>"
    linecache.cache[name] = (len(code), None, code.splitlines(True), name)
    tree = ast.parse(code, name)
    last = [tree.body.pop()] if tree.body and isinstance(tree.body[-1], ast.Expr) else []
    if tree.body:
        exec(compile(tree, name, "exec"), space)
    if last:
        exec(compile(ast.Interactive(last), name, "single"), space)


def run(job, count):
    while not answers.empty():
        answers.get_nowait()
    signal.signal(signal.SIGINT, on_interrupt)
    sys.stdout, sys.stderr, sys.stdin = streams
    status = 0
    try:
        gate.running = True
        execute(job["code"], count)
    except SystemExit as error:
        if error.code is None:
            status = 0
        elif isinstance(error.code, int):
            status = error.code & 0xFF
        else:
            print(error.code, file=streams[1])
            status = 1
    except KeyboardInterrupt as error:
        gate.running = False
        report(error)
        status = 130
    except BaseException as error:
        gate.running = False
        report(error)
        status = 1
    return status


def main():
    count = 0
    emit({"t": "ready", "version": "%d.%d.%d" % sys.version_info[:3]})
    while True:
        job = jobs.get()
        count += 1
        status = 130
        try:
            status = run(job, count)
        except KeyboardInterrupt:
            # It came between the code's end and ours.
            pass
        gate.running = False
        gate.pending = False
        if os.getpid() != PID:
            # The code forked and forgot about it.
            os._exit(status)
        for stream in streams[:2]:
            stream.flush()
        emit({"t": "done", "code": status})


module = types.ModuleType("__main__")
module.__dict__["__builtins__"] = builtins
space = module.__dict__
sys.modules["__main__"] = module
sys.argv = [""]
sys.path[0] = ""
streams = (Stream("stdout", 1), Stream("stderr", 2), Input())
sys.stdout, sys.stderr, sys.stdin = streams
plain_hook = sys.displayhook
sys.displayhook = on_value
builtins.display = display
builtins.input = lambda prompt="", /: ask(prompt, False)
getpass.getpass = lambda prompt="Password: ", stream=None: ask(prompt, True)
signal.signal(signal.SIGINT, on_interrupt)
threading.Thread(target=listen, name="quarterdeck", daemon=True).start()
main()
