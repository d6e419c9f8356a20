"""The source leaves ways open to macOS and Windows: what only POSIX has is used behind a guard."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "plainfit"
RUNG = SOURCE / "ladder" / "rungs" / "r15_distributed.py"  # forks, and is shown on Linux and macOS
MODULES = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}
NAMES = {
    "os": {
        "O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "O_SYNC", "chown", "chroot",
        "fchown", "fork", "forkpty", "getegid", "geteuid", "getgid", "getgroups", "getloadavg",
        "getpgid", "getpgrp", "getuid", "killpg", "lchown", "mkfifo", "mknod", "nice", "openpty",
        "pread", "pwrite", "register_at_fork", "sched_getaffinity", "sched_setaffinity", "setpgid",
        "setsid", "setuid", "statvfs", "sysconf", "ttyname", "uname", "wait",
    },
    "signal": {
        "SIGALRM", "SIGCHLD", "SIGCONT", "SIGHUP", "SIGKILL", "SIGPIPE", "SIGQUIT", "SIGSTOP",
        "SIGTSTP", "SIGUSR1", "SIGUSR2", "alarm", "pause", "pthread_kill", "pthread_sigmask",
        "setitimer", "siginterrupt", "sigpending", "sigwait",
    },
}  # fmt: skip
FOLDERS = ("/bin", "/dev/", "/etc", "/proc", "/sys/", "/tmp", "/usr", "/var")
ABSENT = {"AttributeError", "Exception", "ImportError", "OSError"}  # what a missing thing raises
TEXT_IO = {"read_text": 0, "write_text": 1}  # and the place of their encoding


def words(node):
    return {
        each.id if isinstance(each, ast.Name) else each.attr
        for each in ast.walk(node)
        if isinstance(each, ast.Name | ast.Attribute)
    }


def asks(test):
    """Whether a condition asks what there is on this system."""
    return bool(words(test) & {"platform", "hasattr", "access", *MODULES}) or (
        isinstance(test, ast.Compare) and ast.unparse(test.left) == "os.name"
    )


def leaves(block):
    return isinstance(block[-1], ast.Return | ast.Raise)


def catches(node):
    return isinstance(node, ast.Try) and any(
        handler.type is None or words(handler.type) & ABSENT for handler in node.handlers
    )


def suppresses(item):
    return "suppress" in words(item) and bool(words(item) & ABSENT)


def has_left(statement):
    """Whether what follows a statement is reached only where the system has what was asked for."""
    if isinstance(statement, ast.If):
        return asks(statement.test) and leaves(statement.body)
    return catches(statement) and all(leaves(handler.body) for handler in statement.handlers)


def is_guarded(node, parents):
    while node in parents:
        child, node = node, parents[node]
        if isinstance(node, ast.If | ast.IfExp) and asks(node.test):
            return True
        if catches(node) and child in node.body:
            return True
        if isinstance(node, ast.With) and any(suppresses(item) for item in node.items):
            return True
        body = getattr(node, "body", [])
        if (
            isinstance(body, list)
            and child in body
            and any(map(has_left, body[: body.index(child)]))
        ):
            return True
    return False


def problem(node):
    """What a node uses that not every system has."""
    match node:
        case ast.Import(names=names) if {each.name for each in names} & MODULES:
            return ast.unparse(node)
        case ast.ImportFrom(module=module, names=names):
            found = {each.name for each in names} & NAMES.get(module, set())
            return ast.unparse(node) if found or module in MODULES else ""
        case ast.Attribute(value=ast.Name(id=module), attr=name):
            is_there = module not in MODULES and name not in NAMES.get(module, ())
            return "" if is_there else ast.unparse(node)
        case ast.Constant(value=str(text)) if text.startswith(FOLDERS):
            return repr(text)
        case ast.keyword(arg="preexec_fn"):
            return "preexec_fn"
        case ast.Call(func=ast.Attribute(attr="add_signal_handler")):
            return ast.unparse(node)
        case ast.Call(func=ast.Attribute(attr=name) | ast.Name(id=name), args=args, keywords=named):
            if name in ("get_context", "set_start_method") and "'fork'" in map(ast.unparse, args):
                return ast.unparse(node)
            is_read = name in TEXT_IO and len(args) <= TEXT_IO[name]
            if is_read and "encoding" not in {each.arg for each in named}:
                return f"{ast.unparse(node)} without an encoding"
            if name == "Path" and any(
                isinstance(a, ast.JoinedStr) and "/" in ast.unparse(a) for a in args
            ):
                return f"{ast.unparse(node)}, a path joined by hand"
    return ""


def problems(source):
    tree = ast.parse(source)
    nodes = [*ast.walk(tree)]
    parents = {child: node for node in nodes for child in ast.iter_child_nodes(node)}
    found = ((node, problem(node)) for node in nodes)
    return [
        f"{getattr(node, 'lineno', 0)}: {text}"
        for node, text in found
        if text and ("encoding" in text or not is_guarded(node, parents))
    ]


@pytest.mark.parametrize(
    "source",
    [
        "import fcntl",
        "from resource import getrusage",
        "from os import fork",
        "os.kill(1, signal.SIGKILL)",
        "if hasattr(os, 'fork'): pass\nelse: pass\nos.fork()",
        "try: os.getuid()\nexcept ValueError: pass",
        "with suppress(ProcessLookupError): os.killpg(1, 2)",
        "place = '/dev/shm'",
        "context = multiprocessing.get_context('fork')",
        "run(command, preexec_fn=call)",
        "path.read_text()",
        "path.write_text(text)",
        "Path(f'{folder}/{name}')",
    ],
)
def test_what_only_posix_has_is_found(source):
    assert problems(source)


@pytest.mark.parametrize(
    "source",
    [
        "try:\n    import fcntl\nexcept ImportError:\n    fcntl = None",
        "def call():\n    if fcntl is None:\n        raise OSError\n    fcntl.lockf(1)",
        "def call():\n    if not hasattr(os, 'getuid'):\n        return ''\n    return os.getuid()",
        "count = os.sched_getaffinity(0) if sys.platform == 'linux' else 1",
        "place = '/dev/shm' if os.access('/dev/shm', os.W_OK) else None",
        "with suppress(OSError):\n    open('/proc/cpuinfo')",
        "flags = getattr(os, 'O_NOFOLLOW', 0)",
        "path.read_text('utf-8'), path.write_text(text, 'utf-8'), path.read_text(encoding='utf-8')",
        "Path(folder) / name",
    ],
)
def test_what_is_guarded_is_not(source):
    assert problems(source) == []


def test_the_source_runs_where_posix_is_not():
    files = [path for path in SOURCE.rglob("*.py") if path != RUNG]
    found = {
        str(path.relative_to(SOURCE)): problems(path.read_text(encoding="utf-8")) for path in files
    }
    assert {name: texts for name, texts in found.items() if texts} == {}
